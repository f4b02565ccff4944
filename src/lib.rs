//! failoverd watches a multi-region deployment, decides when a region or a part of it is really lost, and moves the
//! work to the standby region: once, in the right order, and with a record.
//!
//! In reading order: [`domain`] (the nouns), [`plan`] (what can be done), [`config`] (what the operators want),
//! [`ports`] (the edges), [`ledger`] (the record of facts), [`cli`] (what a person
//! types).

pub mod adapters;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod decide;
pub mod domain;
pub mod health;
pub mod ledger;
pub mod plan;
pub mod ports;
pub mod simulation;
pub mod telemetry;
pub mod web;
