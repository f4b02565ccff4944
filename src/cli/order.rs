//! What a person orders: `failover`, `approve`, `hold`, `pause`, `resume`, `ack`, `retry`, `skip`, `abort`, `adopt`.
//!
//! An order is in effect when the daemon's fact is durable, and not before; otherwise NOT IN EFFECT is printed.

use std::io::{BufRead, IsTerminal, Write};

use jiff::Timestamp;

use super::args::{FailoverArgs, OrderArgs, PauseArgs, Until};
use super::client::Daemon;
use super::plan::{self, Loss};
use super::{Exit, Failure, Outcome, Terminal};
use crate::decide::Command;
use crate::domain::IncidentId;

/// `abort`.
#[derive(Debug, Clone, clap::Args)]
pub struct AbortArgs {
    /// The incident
    #[arg(value_name = "INCIDENT")]
    pub incident: IncidentId,
    /// After a commit point, too: the region that was to take over is lost for good, with whatever was done there
    #[arg(long)]
    pub standby_lost: bool,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Sends the order and shows what is in effect.
pub(super) async fn order(args: &OrderArgs, command: Command, terminal: Terminal) -> Outcome {
    let daemon = Daemon::find(&args.daemon)?;
    send(&daemon, args, &command, terminal).await
}

/// The same to a daemon that was found before.
pub(super) async fn send(daemon: &Daemon, args: &OrderArgs, command: &Command, terminal: Terminal) -> Outcome {
    match daemon.order(command).await {
        Ok(answer) if args.json => terminal.print_json(&serde_json::json!({ "in_effect": true, "answer": answer }))?,
        Ok(answer) => terminal.print(&format!("{answer}\n"))?,
        Err(failure) => {
            if args.json {
                let why = failure.sentence();
                terminal.print_json(&serde_json::json!({ "in_effect": false, "why": why }))?;
            }
            return Err(failure);
        }
    }
    Ok(Exit::Ok)
}

/// `failover`: shows what will happen, asks, and sends.
pub(super) async fn failover(args: FailoverArgs, terminal: Terminal) -> Outcome {
    let (from, reason) = args.ordered()?;
    let daemon = Daemon::find(&args.order.daemon)?;
    if !args.yes {
        let loss = Loss::ordered(args.component.clone(), from.clone());
        let dry_run = plan::show(&daemon, &loss, terminal).await?;
        let what = args.component.as_ref().map_or_else(|| "everything".to_owned(), ToString::to_string);
        confirm(from.as_str(), &format!("{what} leaves {} for {}", dry_run.source, dry_run.target))?;
    }
    let command = Command::Failover { by: by(&args.order), reason, from, component: args.component, force: args.force };
    send(&daemon, &args.order, &command, terminal).await
}

/// When a pause ends.
pub(super) fn end_of(args: &PauseArgs) -> Result<Timestamp, Failure> {
    match args.until {
        Until::At(time) => Ok(time),
        Until::In(duration) => jiff::SignedDuration::try_from(duration)
            .ok()
            .and_then(|duration| Timestamp::now().checked_add(duration).ok())
            .ok_or_else(|| Failure::because(Exit::Usage, "the pause would never end")),
    }
}

/// Who gives the order, as the ledger will remember it.
pub(super) fn by(args: &OrderArgs) -> String {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    args.by.clone().unwrap_or_else(|| {
        // Behind sudo USER is root, and root is nobody in particular.
        let user = env("SUDO_USER").or_else(|| env("USER")).or_else(|| env("LOGNAME"));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}@{}", user.unwrap_or_else(|| "unknown".to_owned()), host.trim())
    })
}

/// Asks for a word to be typed. Nobody types a region's name by accident.
pub(super) fn confirm(expected: &str, what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::because(Exit::Usage, format!("nobody is there to confirm that {what}"))
            .hint("--yes does without the question"));
    }
    let mut out = std::io::stderr().lock();
    write!(out, "Type {expected} to confirm that {what}: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == expected {
        return Ok(());
    }
    Err(Failure::because(Exit::No, "not confirmed, nothing was sent"))
}
