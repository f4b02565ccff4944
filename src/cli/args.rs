//! The command line's shape: every command, option and example. What they do is in the other files.

mod ledger;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use jiff::Timestamp;

use super::failback::FailbackArgs;
use super::order::AbortArgs;
use super::rejoin::RejoinArgs;
use super::switchover::SwitchoverArgs;
use super::verify::VerifyArgs;
use super::{Colour, Exit, Failure};
use crate::config::{self, Loaded};
use crate::domain::time::parse_duration;
use crate::domain::{ComponentId, IncidentId, RegionId, StepId};
pub use ledger::{LedgerArgs, LedgerCommand, LedgerPlace};

/// Watches a multi-region deployment, decides when a region is really lost, and fails over: once, in order, with proof.
#[derive(Debug, Parser)]
#[command(name = "failoverd", version, max_term_width = 100, after_help = exit_codes())]
pub struct Args {
    /// Colour the output: auto (respects NO_COLOR, pipes and TERM=dumb), always or never
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub color: Colour,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: watch, decide, and act as far as the mode allows
    #[command(display_order = 0)]
    Run(super::run::RunArgs),

    /// Beside a database, for the daemon, which starts it
    #[command(hide = true)]
    Guardian(super::run::GuardianArgs),

    /// Show what would be done if a region or a component were lost; changes nothing
    #[command(
        after_help = "With --config the plan is made here, from the configuration alone: nothing is asked and nothing
has to run. Without, the daemon is asked, which knows where things are and which guards hold.

Examples:
  failoverd plan --if regional-outage --config /etc/failoverd/failoverd.toml
  failoverd plan --if database
  failoverd plan --if regional-outage --from us-west-2 --json | jq -r '.steps[].id'"
    )]
    Plan(PlanArgs),

    /// Play a story to the real decisions in virtual time: what would have been done?
    #[command(
        after_help = "A story is a text file: lines such as `+43s database@us-east-1 fails tcp` (docs/stories.md). Exits with 1 where the story
says what to expect and something else came.

Examples:
  failoverd replay outage.txt --config /etc/failoverd/failoverd.toml
  failoverd replay outage.txt --config /etc/failoverd/failoverd.toml --json | jq '.entries[].recorded | select(.)'
  failoverd replay tests/scenarios/a_lost_region_is_replaced_after_two_minutes.txt --brief"
    )]
    Replay(ReplayArgs),

    /// Play many bad days by chance with a configuration: what would break?
    Simulate(super::simulate::SimulateArgs),

    /// Check a configuration without the network: mistakes, warnings, budget, dependencies
    #[command(after_help = "Exits with 78 where it cannot be used, with one line per mistake on standard error.

Examples:
  failoverd check-config --config config/omnimesh.toml
  failoverd check-config --config base.toml --config production.toml
  FAILOVERD__DEPLOYMENT__MODE=approve failoverd check-config --config config/omnimesh.toml")]
    CheckConfig(ConfigArgs),

    /// Ask everything once, from here, and show what was found; changes nothing
    #[command(after_help = "Exits with 1 unless everything is alive and a reference point answers.

Examples:
  failoverd probe --config /etc/failoverd/failoverd.toml
  failoverd probe --config config/omnimesh.toml --json | jq '.instances[] | {instance, finding}'")]
    Probe(ConfigArgs),

    /// Run the checks of the end state, now, from here: does what serves really serve?
    #[command(
        after_help = "The region is the one that serves what a check is about, as the daemon knows it; without a daemon,
name it. Exits with 1 unless every check holds.

Examples:
  failoverd verify --config /etc/failoverd/failoverd.toml
  failoverd verify health canary --region us-west-2 --wait 5m
  failoverd verify --json | jq -r '.checks[] | select(.holds | not) | .check'"
    )]
    Verify(VerifyArgs),

    /// Show how long every automatic failover may take, and what that is made of
    #[command(after_help = "Examples:
  failoverd budget --config config/omnimesh.toml
  failoverd budget --config config/omnimesh.toml --json | jq '.rows[] | {name, seconds}'")]
    Budget(ConfigArgs),

    /// Read the ledger, without a lock and without changing anything; merge what break-glass did into it
    #[command(
        display_order = 90,
        after_help = "Examples:
  failoverd ledger show --config /etc/failoverd/failoverd.toml
  failoverd ledger verify /var/lib/failoverd/ledger
  failoverd ledger merge /var/lib/failoverd/break-glass/20261020T031201Z/ledger"
    )]
    Ledger {
        /// What to do with it.
        #[command(subcommand)]
        what: LedgerCommand,
    },

    // The last one, because commands without an order of their own are listed by their place here.
    /// What needs a running daemon.
    #[command(flatten)]
    Daemon(DaemonCommand),
}

/// `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The story
    #[arg(value_name = "FILE")]
    pub story: PathBuf,
    /// Configuration files [default: the one that the story names]
    #[arg(short, long, value_delimiter = ',', value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Without the plans, as a story expects it
    #[arg(long, conflicts_with = "json")]
    pub brief: bool,
    /// Print one JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

/// Which configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file; several are layered, the last one on top
    #[arg(short, long, env = "FAILOVERD_CONFIG", value_delimiter = ',', value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl ConfigArgs {
    /// The configuration that is meant.
    ///
    /// # Errors
    /// None was given, or it has mistakes.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        if self.config.is_empty() {
            return Err(Failure::because(Exit::Usage, "which configuration?")
                .hint("give --config FILE, more than once to layer files"));
        }
        load(&self.config)
    }
}

/// The configuration in `files`, with the environment on top.
///
/// # Errors
/// Every mistake in it, one a line.
pub(super) fn load(files: &[PathBuf]) -> Result<Loaded, Failure> {
    config::load(files, &config::environment()).map_err(|mistakes| Failure::new(Exit::Configuration, mistakes))
}

/// Commands that talk to the daemon.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Show what is going on: instances, countdowns, guards, the plan and its steps
    #[command(
        display_order = 20,
        after_help = "Exits with 1 while something is failing, an incident is open, or an alarm pages.

Examples:
  failoverd status
  failoverd status --watch                  redraw on every change; Ctrl-C ends it
  failoverd status --json | jq '.incidents[0].steps[] | {step, state}'"
    )]
    Status(StatusArgs),

    /// Say in words why something is done, why not, and what would change it
    #[command(
        display_order = 21,
        after_help = "Examples:
  failoverd explain
  failoverd explain --json | jq -r '.pending[].guards[].lifted_by'"
    )]
    Explain(ReadArgs),

    /// Move now, without waiting for a trigger
    #[command(
        display_order = 22,
        override_usage = "failoverd failover [OPTIONS] --from <REGION> --reason <TEXT>",
        after_help = "Shows the plan and asks for the region's name before anything is sent; --yes does not ask.
A component that is still alive is moved without loss.

With --break-glass the plan is carried out from this machine, for the day on which no daemon and
no ledger answers (docs/operations.md, \"Break-glass\"). It refuses while anybody does, shows what
cannot be proven, and wants the deployment's name and the target typed. Afterwards:
failoverd ledger merge.

Examples:
  failoverd failover --from us-east-1 --reason \"building on fire\"
  failoverd failover --from us-east-1 --component cache --reason \"maintenance, change 4711\"
  failoverd failover --from us-east-1 --reason \"runbook 12\" --yes --json
  failoverd failover --from us-east-1 --break-glass --reason \"etcd is gone, and so is us-east-1\" \\
    --config /etc/failoverd/failoverd.toml"
    )]
    Failover(FailoverArgs),

    /// Move what is well by plan, without losing a write
    #[command(display_order = 22, after_help = super::switchover::HELP)]
    Switchover(SwitchoverArgs),

    /// Make an old primary a standby of what serves in its place
    #[command(display_order = 22, after_help = super::rejoin::HELP)]
    Rejoin(RejoinArgs),

    /// Take the work back to the primary region, a share of the clients at a time
    #[command(display_order = 22, after_help = super::failback::HELP)]
    Failback(FailbackArgs),

    /// Go on with the next stage of a failback, or again with one that was taken back
    #[command(display_order = 24, after_help = super::failback::CONTINUE_HELP)]
    Continue(IncidentArgs),

    /// Approve the plan of an incident as it was shown
    #[command(
        display_order = 23,
        after_help = "An approval binds the incident, its plan's hash and the loss that was accepted, and expires.

Examples:
  failoverd approve inc-20261020-0712 --plan-hash 3fa9c1
  failoverd approve inc-20261020-0712 --plan-hash 3fa9c1 --accept-unfenced --accept-loss 5m"
    )]
    Approve(ApproveArgs),

    /// Let nothing more of an incident be sent, until `failoverd resume`
    #[command(
        display_order = 24,
        after_help = "Examples:
  failoverd hold inc-20261020-0712
  failoverd resume                          lets it go on"
    )]
    Hold(IncidentArgs),

    /// Let nothing start until a time, at most guards.pause_max from now
    #[command(
        display_order = 25,
        after_help = "Owed fences are carried out all the same. A page says when the pause ends, and whenever it holds
something back.

Examples:
  failoverd pause --until 2h --reason \"network maintenance, change 4711\"
  failoverd pause --until 2026-10-20T09:30:00Z --reason \"load test\""
    )]
    Pause(PauseArgs),

    /// End a pause, and let held incidents go on
    #[command(
        display_order = 26,
        after_help = "Examples:
  failoverd resume
  failoverd resume --as alice"
    )]
    Resume(OrderArgs),

    /// Say that an incident was seen, which also ends its cooldown
    #[command(
        display_order = 27,
        after_help = "Examples:
  failoverd ack inc-20261020-0712 --note \"on it\"
  failoverd ack inc-20261020-0712 --false-positive --note \"our firewall change\""
    )]
    Ack(AckArgs),

    /// Try a failed step again
    #[command(
        display_order = 28,
        after_help = "Examples:
  failoverd retry inc-20261020-0712 promote-database
  failoverd status --json | jq -r '.incidents[0].steps[] | select(.state==\"failed\").step'"
    )]
    Retry(StepArgs),

    /// Go on without a failed step: only after it was done by hand
    #[command(
        display_order = 29,
        after_help = "Examples:
  failoverd skip inc-20261020-0712 publish-database-host
  failoverd skip inc-20261020-0712 traffic --as alice"
    )]
    Skip(StepArgs),

    /// Undo what was done and end an incident; refused after its first commit point
    #[command(
        display_order = 30,
        after_help = "Examples:
  failoverd abort inc-20261020-0712
  failoverd abort inc-20261020-0712 --standby-lost --as alice"
    )]
    Abort(AbortArgs),

    /// Declare where each component is served, and this ledger to be the one in charge
    #[command(
        display_order = 31,
        after_help = "What is left out is taken from what the probes see. Needed once for a new ledger, and after a drift.

Examples:
  failoverd adopt
  failoverd adopt --placement database=us-west-2 --placement traffic=us-west-2"
    )]
    Adopt(AdoptArgs),
}

/// How the daemon is reached.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonArgs {
    /// The daemon's API [default: api.listen of --config, else http://127.0.0.1:8780]
    #[arg(long, env = "FAILOVERD_URL", value_name = "URL", help_heading = "Daemon")]
    pub url: Option<String>,
    /// File with the API token; the variable FAILOVERD_TOKEN works as well
    #[arg(long, env = "FAILOVERD_TOKEN_FILE", value_name = "FILE", help_heading = "Daemon")]
    pub token_file: Option<PathBuf>,
    /// The daemon's configuration, for its address and token
    #[arg(short, long, env = "FAILOVERD_CONFIG", value_delimiter = ',', value_name = "FILE", help_heading = "Daemon")]
    pub config: Vec<PathBuf>,
    /// Give up after this long
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME", help_heading = "Daemon")]
    pub timeout: Duration,
}

/// A question to the daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// The daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Redraw on every change until Ctrl-C
    #[arg(short, long, conflicts_with = "json")]
    pub watch: bool,
    /// Question.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// An order to the daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct OrderArgs {
    /// Who orders it, for the record [default: $SUDO_USER or $USER, at this host]
    #[arg(long = "as", value_name = "NAME")]
    pub by: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// The daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// What is lost: `regional-outage`, the name of a component, `zone:NAME`, `degradation` (partly available services),
    /// or `workload:NAME` (too few replicas)
    #[arg(long = "if", value_name = "LOSS")]
    pub loss: String,
    /// The region that is lost [default: where it is served]
    #[arg(long, value_name = "REGION")]
    pub from: Option<RegionId>,
    /// Question.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `failover`.
#[derive(Debug, Clone, clap::Args)]
pub struct FailoverArgs {
    /// The region that is left
    #[arg(long, value_name = "REGION", required_unless_present = "continue")]
    pub from: Option<RegionId>,
    /// Only this component [default: everything that the region serves]
    #[arg(long, value_name = "COMPONENT")]
    pub component: Option<ComponentId>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", required_unless_present = "continue")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(short, long, conflicts_with = "break_glass")]
    pub yes: bool,
    /// Go on although the target is not known to be ready
    #[arg(long)]
    pub force: bool,
    /// For the day on which nobody can act.
    #[command(flatten)]
    pub glass: super::break_glass::BreakGlassArgs,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

impl FailoverArgs {
    /// What is left, and why.
    ///
    /// # Errors
    /// One of the two was not given.
    pub(super) fn ordered(&self) -> Result<(RegionId, String), Failure> {
        match (&self.from, &self.reason) {
            (Some(from), Some(reason)) => Ok((from.clone(), reason.clone())),
            (_, _) => Err(Failure::because(Exit::Usage, "--from REGION and --reason TEXT are needed")),
        }
    }
}

/// `approve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ApproveArgs {
    /// The incident
    #[arg(value_name = "INCIDENT")]
    pub incident: IncidentId,
    /// Only if the plan still has this hash [default: the plan as it stands]
    #[arg(long, value_name = "HASH")]
    pub plan_hash: Option<String>,
    /// Promote although the old primary is not fenced: two databases may take writes
    #[arg(long)]
    pub accept_unfenced: bool,
    /// Promote although up to this much may be lost; also accepts a loss that is not known
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub accept_loss: Option<Duration>,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// An order that concerns one incident.
#[derive(Debug, Clone, clap::Args)]
pub struct IncidentArgs {
    /// The incident
    #[arg(value_name = "INCIDENT")]
    pub incident: IncidentId,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `pause`.
#[derive(Debug, Clone, clap::Args)]
pub struct PauseArgs {
    /// For this long (2h), or until this time (2026-10-20T09:30:00Z)
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub until: Until,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `ack`.
#[derive(Debug, Clone, clap::Args)]
pub struct AckArgs {
    /// The incident
    #[arg(value_name = "INCIDENT")]
    pub incident: IncidentId,
    /// It should not have happened; counted
    #[arg(long)]
    pub false_positive: bool,
    /// In your words, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub note: String,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `retry`, `skip`.
#[derive(Debug, Clone, clap::Args)]
pub struct StepArgs {
    /// The incident
    #[arg(value_name = "INCIDENT")]
    pub incident: IncidentId,
    /// The step, as `status` names it
    #[arg(value_name = "STEP")]
    pub step: StepId,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `adopt`.
#[derive(Debug, Clone, clap::Args)]
pub struct AdoptArgs {
    /// Where a component is served; may be given several times
    #[arg(long, value_name = "COMPONENT=REGION", value_parser = placed)]
    pub placement: Vec<(ComponentId, RegionId)>,
    /// Order.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// The end of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So long from now.
    In(Duration),
    /// At that time.
    At(Timestamp),
}

fn until(text: &str) -> Result<Until, String> {
    if let Ok(duration) = parse_duration(text) {
        return Ok(Until::In(duration));
    }
    text.parse().map(Until::At).map_err(|_| {
        format!("`{text}` is neither a duration nor a time; write \"2h\", or a time with its zone such as \"2026-10-20T09:30:00Z\"")
    })
}

pub(super) fn placed(text: &str) -> Result<(ComponentId, RegionId), String> {
    match text.split_once('=') {
        Some((component, region)) if !component.is_empty() && !region.is_empty() => {
            Ok((component.into(), region.into()))
        }
        Some(_) | None => Err(format!("`{text}` is not of the form component=region, such as database=us-west-2")),
    }
}

fn exit_codes() -> String {
    let lines: Vec<String> =
        Exit::ALL.iter().map(|exit| format!("  {:>2}  {}", exit.number(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_shows_at_least_two_examples() {
        let args = Args::command();
        let below = args.get_subcommands().flat_map(|command| command.get_subcommands());
        // What nobody types needs none.
        for command in args.get_subcommands().chain(below).filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter(|line| line.starts_with("  failoverd ")).count();
            assert!(examples >= 2, "failoverd {} shows {examples} examples", command.get_name());
        }
    }

    #[test]
    fn a_pause_ends_after_a_while_or_at_a_time() {
        assert_eq!(until("2h"), Ok(Until::In(Duration::from_secs(7200))));
        assert_eq!(until("2026-10-20T09:30:00Z"), Ok(Until::At("2026-10-20T09:30:00Z".parse().expect("a time"))));
        assert!(until("tomorrow").is_err_and(|why| why.contains("2h")));
    }
}
