//! `failoverd failback`: the work goes back to where it belongs, a share of the clients at a time.

use super::args::{IncidentArgs, OrderArgs};
use super::client::Daemon;
use super::plan::{self, Loss};
use super::{Outcome, Terminal, order};
use crate::decide::Command;

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
Waits until everything in the primary region has been well for failback.stable_for, tells its
clusters where everything is served, and sends the shares of failback.stages there, each watched for
failback.stage_for. A share that is not well served is taken back within failback.interval, and waits
for `failoverd continue`. Then the databases and everybody follow, as in a switchover, and the standby
waits again. Until the databases are fenced, `failoverd abort` takes all of it back.

An old primary has to be a standby again first: `failoverd rejoin`.

Examples:
  failoverd plan --if failback              what it would do
  failoverd failback --reason \"us-east-1 is back, ticket 4711\"
  failoverd continue inc-3                  does not wait for the end of a stage";

/// The same of `continue`.
pub(super) const CONTINUE_HELP: &str = "\
Examples:
  failoverd continue inc-3
  failoverd status                          says which stage it waits for, and for how long";

/// `failback`.
#[derive(Debug, Clone, clap::Args)]
pub struct FailbackArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Shows what will happen, asks, and sends.
pub(super) async fn run(args: FailbackArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.order.daemon)?;
    if !args.yes {
        let dry_run = plan::show(&daemon, &Loss::failed_back(), terminal).await?;
        let (source, target) = (&dry_run.source, &dry_run.target);
        order::confirm(target.as_str(), &format!("everything goes back from {source} to {target}, by stages"))?;
    }
    let command = Command::Failback { by: order::by(&args.order), reason: args.reason };
    order::send(&daemon, &args.order, &command, terminal).await
}

/// `continue`.
pub(super) async fn go_on(args: IncidentArgs, terminal: Terminal) -> Outcome {
    let command = Command::Continue { by: order::by(&args.order), incident: args.incident };
    order::order(&args.order, command, terminal).await
}
