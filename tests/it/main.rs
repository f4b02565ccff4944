//! All integration tests, in one binary: one link, one compile.

mod aws;
mod aws_cache;
mod aws_rds;
mod aws_s3;
mod aws_traffic;
mod cli;
mod cli_daemon;
mod config;
mod config_mistakes;
mod controller;
mod data_plane;
mod facts;
mod http;
mod http_server;
mod kubernetes;
mod lab;
mod ledger;
mod postgres;
mod postgres_fence;
mod postgres_promote;
mod prober;
mod redis;
mod redis_cluster;
mod scenarios;
mod simulation;
mod tidy;
