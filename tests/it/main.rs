//! All integration tests, in one binary: one link, one compile.

mod config;
mod controller;
mod facts;
mod ledger;
