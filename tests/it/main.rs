//! All integration tests, in one binary: one link, one compile.

mod config;
mod facts;
mod ledger;
