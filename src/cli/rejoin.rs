//! `failoverd rejoin`: an old primary becomes a standby again.

use super::args::OrderArgs;
use super::client::Daemon;
use super::plan::{self, Loss};
use super::{Outcome, Terminal, order};
use crate::decide::Command;
use crate::domain::InstanceId;

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
After a failover or a switchover the old primary is fenced and a standby of nothing: a second failure
would be fatal. Runs databases.NAME.rejoin.command and waits until the database streams. Refused
where it may hold writes that nobody else has, unless --discard says that they may go.

Examples:
  failoverd plan --if rejoin:database@us-east-1    what it would do
  failoverd rejoin database@us-east-1 --reason \"back as a standby, ticket 4711\"
  failoverd rejoin database@us-east-1 --discard --reason \"its 12 rows are copied out\"";

/// `rejoin`.
#[derive(Debug, Clone, clap::Args)]
pub struct RejoinArgs {
    /// The old primary, as DATABASE@REGION
    #[arg(value_name = "DATABASE@REGION")]
    pub database: InstanceId,
    /// Overwrite writes too that nobody else has, or may have
    #[arg(long)]
    pub discard: bool,
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
pub(super) async fn run(args: RejoinArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.order.daemon)?;
    let database = args.database;
    if !args.yes {
        plan::show(&daemon, &Loss::rejoined(database.clone()), terminal).await?;
        let held = if args.discard { ", whatever it is" } else { "" };
        order::confirm(&database.to_string(), &format!("what {database} holds is overwritten{held}"))?;
    }
    let by = order::by(&args.order);
    let command = Command::Rejoin { by, reason: args.reason, database, discard: args.discard };
    order::send(&daemon, &args.order, &command, terminal).await
}
