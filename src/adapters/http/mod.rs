//! HTTP with reqwest: the clients' view of a service, checks of the end state, reference points.
//!
//! Every target has a client of its own over one shared trust store. With a new connection per probe the kernel's
//! share dominates: 1,000 probes a second took 13.0 % of a core and 15 MiB this way, and 11.5 % and 7 MiB with a
//! hand-driven hyper connection (plain HTTP, loopback), which was not worth a second way of speaking HTTP.
//!
//! An *expired* certificate is the server's failure at the TLS layer, because every client refuses it just as we do.
//! A certificate of an authority or for a name that we do not know, or that is not valid *yet* (which is how our own
//! wrong clock looks), only says something about us.

pub(crate) mod certificate;
mod check;
mod phase;
mod probe;
mod prometheus;
mod reference;
mod target;

pub use check::HttpChecks;
pub use probe::HttpProbe;
pub use reference::HttpReference;
