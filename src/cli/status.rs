//! `failoverd status`: everything at a glance.

use anyhow::Context;

use super::args::StatusArgs;
use super::client::Daemon;
use super::{Exit, Outcome, Terminal, render, watch};
use crate::decide::{Severity, Status, VerdictKind};

/// Shows it once, or until Ctrl-C.
pub(super) async fn status(args: &StatusArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.read.daemon)?;
    if args.watch {
        return watch::watch(&daemon, terminal).await;
    }
    let body = daemon.get("/v1/status").await?;
    let status: Status = serde_json::from_value(body.clone()).context("cannot understand the daemon's status")?;
    if args.read.json {
        terminal.print_json(&body)?;
    } else {
        terminal.print(&render::status(&status, terminal.palette()))?;
    }
    Ok(if is_well(&status) { Exit::Ok } else { Exit::No })
}

/// Nothing is failing, nothing is under way, nobody has to be woken.
fn is_well(status: &Status) -> bool {
    let failing = status
        .instances
        .iter()
        .any(|instance| instance.active && matches!(instance.verdict, VerdictKind::Failing | VerdictKind::Suspect));
    status.halted.is_none()
        && !failing
        && status.incidents.iter().all(|incident| incident.closed.is_some())
        && status.alarms.iter().all(|alarm| alarm.severity != Severity::Page)
}
