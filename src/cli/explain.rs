//! `failoverd explain`: the daemon's reasons, in words.

use anyhow::Context;

use super::args::ReadArgs;
use super::client::Daemon;
use super::{Exit, Outcome, Terminal};
use crate::decide::{self, Status};

/// Shows why, why not, and what would change it.
pub(super) async fn explain(args: &ReadArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.daemon)?;
    let status = daemon.get("/v1/status").await?;
    if args.json {
        terminal.print_json(&status)?;
        return Ok(Exit::Ok);
    }
    let status: Status = serde_json::from_value(status).context("cannot understand the daemon's status")?;
    terminal.print(&decide::explain(&status))?;
    Ok(Exit::Ok)
}
