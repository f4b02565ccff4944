//! `failoverd explain`: the daemon's reasons, in words.

use anyhow::Context;
use serde_json::Value;

use super::args::ReadArgs;
use super::client::Daemon;
use super::{Exit, Outcome, Terminal};

/// Shows why, why not, and what would change it.
pub(super) async fn explain(args: &ReadArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.daemon)?;
    if args.json {
        terminal.print_json(&daemon.get("/v1/status").await?)?;
        return Ok(Exit::Ok);
    }
    // In the daemon's own words, which are the same as in its log and on the page.
    let body = daemon.get("/v1/explain").await?;
    let text = body.get("explanation").and_then(Value::as_str).context("the daemon's answer has no explanation")?;
    terminal.print(&format!("{}\n", text.trim_end()))?;
    Ok(Exit::Ok)
}
