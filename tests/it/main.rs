//! All integration tests, in one binary: one link, one compile.

mod aws;
mod aws_cache;
mod aws_rds;
mod aws_s3;
mod aws_traffic;
mod cli;
mod config;
mod config_mistakes;
mod controller;
mod facts;
mod lab;
mod ledger;
mod tidy;
