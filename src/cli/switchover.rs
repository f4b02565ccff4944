//! `failoverd switchover`: the work moves by plan, and nothing of it is lost.

use super::args::OrderArgs;
use super::client::Daemon;
use super::plan::{self, Loss};
use super::{Outcome, Terminal, order};
use crate::decide::Command;
use crate::domain::{ComponentId, RegionId};

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
Refused unless every standby is ready and every database can be fenced. Scales the standby up,
fences the database, waits until its standby has every write, promotes, and moves the traffic.
Where that does not go, all of it is taken back; where the region is lost meanwhile, it goes on
as a failover.

Examples:
  failoverd plan --if switchover            what it would do
  failoverd switchover --from us-east-1 --reason \"quarterly exercise\"
  failoverd switchover --from us-east-1 --component database --reason \"maintenance, change 4711\"";

/// `switchover`.
#[derive(Debug, Clone, clap::Args)]
pub struct SwitchoverArgs {
    /// The region that is left
    #[arg(long, value_name = "REGION")]
    pub from: RegionId,
    /// Only this component [default: everything that the region serves]
    #[arg(long, value_name = "COMPONENT")]
    pub component: Option<ComponentId>,
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
pub(super) async fn run(args: SwitchoverArgs, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.order.daemon)?;
    if !args.yes {
        let loss = Loss::planned(args.component.clone(), args.from.clone());
        let dry_run = plan::show(&daemon, &loss, terminal).await?;
        let what = args.component.as_ref().map_or_else(|| "everything".to_owned(), ToString::to_string);
        order::confirm(args.from.as_str(), &format!("{what} leaves {} for {}", dry_run.source, dry_run.target))?;
    }
    let by = order::by(&args.order);
    let command = Command::Switchover { by, reason: args.reason, from: args.from, component: args.component };
    order::send(&daemon, &args.order, &command, terminal).await
}
