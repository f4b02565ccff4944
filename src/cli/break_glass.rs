//! `failoverd failover --break-glass`: a plan from one machine, on the day on which nobody can act.
//!
//! It asks everybody who could act, shows what is known and what is not, wants the deployment's name and the target
//! typed, and lets `daemon::break_glass` carry the plan out.

mod asking;
mod showing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;

use super::args::{FailoverArgs, load, placed};
use super::{Exit, Failure, Outcome, Terminal, order};
use crate::adapters::failure::describe;
use crate::config::Loaded;
use crate::daemon::break_glass::{self as session, Ended, Preview, Session, Source, Told};
use crate::decide::{Accepted, BreakGlass, Command, Controller, DryRun, Fact, Scope, Status, initial_placement};
use crate::domain::{ComponentId, InstanceId, Kind, Mode, Now, Policy, RegionId, StepId};
use crate::plan::Action;
use crate::ports::Clock;
use crate::telemetry::{self, LogFormat};
use asking::{Answer, Asked, ask_everybody, ask_others, who_answers};

const HEADING: &str = "Break-glass";
/// What was recorded is told anyway.
const LOG: &str = "error,failoverd::telemetry::events=off";
/// What ends with the program and hangs is not waited for.
const END_WITHIN: Duration = Duration::from_secs(1);

/// For the day on which no daemon and no ledger answers.
#[derive(Debug, Clone, clap::Args)]
pub struct BreakGlassArgs {
    /// Carry it out from this machine, without the daemons and their ledger; refuses while any of them answers
    #[arg(long, help_heading = HEADING, requires = "config")]
    pub break_glass: bool,
    /// Everything is served there [default: what the daemon here knew last, else what takes writes now]
    #[arg(long, help_heading = HEADING, value_name = "REGION", requires = "break_glass")]
    pub serving: Option<RegionId>,
    /// Where a component is served; may be given several times
    #[arg(long, help_heading = HEADING, value_name = "COMPONENT=REGION", value_parser = placed, requires = "break_glass")]
    pub placement: Vec<(ComponentId, RegionId)>,
    /// Folder for the record [default: break-glass beside ledger.path]
    #[arg(long, help_heading = HEADING, value_name = "FOLDER", requires = "break_glass")]
    pub record: Option<PathBuf>,
    /// The text that would have to be typed, where nobody sits in front of a terminal
    #[arg(long, help_heading = HEADING, value_name = "TEXT", requires = "break_glass")]
    pub confirm: Option<String>,
    /// Go on with a record that was left before its end
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "break_glass", conflicts_with_all = ["from", "component", "serving", "placement", "record"])]
    pub r#continue: Option<PathBuf>,
}

/// Runs it to its end.
pub(super) fn run(args: &FailoverArgs, terminal: Terminal) -> Outcome {
    // Facts are told as they are recorded; the log is for what goes wrong beside them.
    let _flush = telemetry::init_logs(LogFormat::Text, Some(LOG));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(break_glass(args, terminal));
    runtime.shutdown_timeout(END_WITHIN);
    outcome
}

async fn break_glass(args: &FailoverArgs, terminal: Terminal) -> Outcome {
    let loaded = load(&args.order.daemon.config)?;
    let by = order::by(&args.order);
    if loaded.policy.mode == Mode::Observe {
        return Err(Failure::because(
            Exit::NotInEffect,
            "NOT IN EFFECT: the mode is observe, in which nothing is performed",
        )
        .hint("for this once: FAILOVERD__DEPLOYMENT__MODE=approve failoverd failover --break-glass …"));
    }
    let asked = ask_everybody(&loaded.config, &loaded.policy.deployment).await;
    refuse_if_anybody_answers(&asked)?;
    if let Some(file) = &args.glass.r#continue {
        return go_on(args, &loaded, file, &asked, by, terminal).await;
    }
    let (from, reason) = args.ordered()?;
    let known = known(args, &loaded)?;
    let seen = Seen::look(args, &loaded, &known, &from).await?;
    seen.contradicts(&loaded.policy, &known)?;
    let unproven = seen.unproven(&loaded.policy, &asked);
    let ledger = session::place(&loaded.config, args.glass.record.as_deref(), Timestamp::now());
    let expected = format!("{} {}", loaded.policy.deployment, seen.plan.target);
    let shown = showing::Shown { by: &by, reason: &reason, asked: &asked, known: &known, seen: &seen, ledger: &ledger };
    terminal.print(&shown.render(&loaded.policy, &unproven, terminal.palette()))?;
    confirm(args, &expected)?;
    // Nobody knows how long that was typed for.
    refuse_if_anybody_answers(&ask_everybody(&loaded.config, &loaded.policy.deployment).await)?;
    session::prepare(&ledger).map_err(|error| {
        Failure::because(Exit::NotInEffect, format!("NOT IN EFFECT: {} cannot be made: {error}", ledger.display()))
            .hint("--record FOLDER names another place")
    })?;
    let order = BreakGlass {
        by: by.clone(),
        reason,
        placement: seen.placement.clone(),
        from,
        component: args.component.clone(),
        force: args.force,
        accepted: seen.accepted(),
        steps: seen.plan.steps.iter().map(|step| step.id.clone()).collect::<BTreeSet<StepId>>(),
        departs_from: known.ledger.clone(),
        unproven,
    };
    let Loaded { config, policy, .. } = loaded;
    let order = Command::BreakGlass(Box::new(order));
    let (asking, deployment) = (config.clone(), policy.deployment.clone());
    // This machine is not asked any more: what answers here now is break-glass itself.
    let who_answers = Box::pin(async move { who_answers(&ask_others(&asking, &deployment).await).map(|(who, _)| who) });
    let session = Session { config, policy, ledger: ledger.clone(), by, order };
    carry_out(session, who_answers, args, terminal).await
}

/// What a former run of break-glass left before its end.
async fn go_on(
    args: &FailoverArgs,
    loaded: &Loaded,
    file: &std::path::Path,
    asked: &[Asked],
    by: String,
    terminal: Terminal,
) -> Outcome {
    let record = super::ledger::record(file)?;
    let Some(open) = record.incidents.iter().find(|incident| incident.outcome.is_none()) else {
        return Err(Failure::because(Exit::No, "nothing in it is left to be done").hint("failoverd ledger merge FILE"));
    };
    terminal.print(&showing::continued(&record, open, asked, terminal.palette()))?;
    confirm(args, &format!("{} {}", loaded.policy.deployment, open.target))?;
    let (accept_unfenced, accept_loss) = approved(file)?;
    let (config, policy, incident) = (loaded.config.clone(), loaded.policy.clone(), open.incident.clone());
    let order = Command::Approve { by: by.clone(), incident, hash: None, accept_unfenced, accept_loss };
    let session = Session { config, policy, ledger: file.to_path_buf(), by, order };
    // Nobody knows how long that was typed for; and what is open is taken up as soon as it is read, so this is the last time.
    refuse_if_anybody_answers(&ask_everybody(&loaded.config, &loaded.policy.deployment).await)?;
    carry_out(session, Box::pin(async { None }), args, terminal).await
}

/// What was accepted when the glass was broken. The approval may have expired since.
fn approved(file: &std::path::Path) -> Result<(bool, Option<Duration>), Failure> {
    let frames = crate::ledger::read(file, 0).map_err(anyhow::Error::new)?.frames;
    let approved = frames.into_iter().rev().flat_map(|frame| frame.facts).find_map(|fact| {
        let Fact::Approved { accept_unfenced, accept_loss, .. } = fact else { return None };
        Some((accept_unfenced, accept_loss))
    });
    Ok(approved.unwrap_or_default())
}

fn refuse_if_anybody_answers(asked: &[Asked]) -> Result<(), Failure> {
    let Some((who, instead)) = who_answers(asked) else { return Ok(()) };
    Err(Failure::because(Exit::NotInEffect, format!("NOT IN EFFECT: {who}")).hint(instead))
}

/// Where everything is served: what was said, else what is known here.
fn known(args: &FailoverArgs, loaded: &Loaded) -> Result<Source, Failure> {
    let policy = &loaded.policy;
    let initial = initial_placement(policy);
    let mut known = match session::last_known(&loaded.config, policy) {
        Ok(known) => known,
        Err(why) => Source {
            told: format!(
                "nobody knows it here ({why}); this is the configuration's primary region, and what takes writes now"
            ),
            at: None,
            ledger: None,
            placement: BTreeMap::new(),
        },
    };
    // What was added to the configuration since.
    let mut placement = initial;
    placement.extend(
        std::mem::take(&mut known.placement).into_iter().filter(|(component, region)| {
            policy.components.get(component).is_some_and(|of| of.regions.contains(region))
        }),
    );
    if let Some(region) = &args.glass.serving {
        if !policy.regions.contains_key(region) {
            return Err(Failure::because(Exit::Usage, format!("there is no region {region}")));
        }
        for (component, placed) in &mut placement {
            if policy.components.get(component).is_some_and(|of| of.regions.contains(region)) {
                placed.clone_from(region);
            }
        }
        (known.told, known.at) = ("--serving".to_owned(), None);
    }
    for (component, region) in &args.glass.placement {
        if !policy.components.get(component).is_some_and(|of| of.regions.contains(region)) {
            return Err(Failure::because(Exit::Usage, format!("{component} has no instance in {region}")));
        }
        placement.insert(component.clone(), region.clone());
        known.told = format!("{}, and --placement", known.told.trim_end_matches(", and --placement"));
    }
    known.placement = placement;
    Ok(known)
}

/// What was seen of the world just now, and the plan for it.
struct Seen {
    placement: BTreeMap<ComponentId, RegionId>,
    writable: BTreeSet<InstanceId>,
    status: Status,
    plan: DryRun,
}

impl Seen {
    async fn look(args: &FailoverArgs, loaded: &Loaded, known: &Source, from: &RegionId) -> Result<Self, Failure> {
        let config = Arc::new(loaded.config.clone());
        let now = || crate::daemon::clock::SystemClock.now();
        let Preview { controller, writable } = session::preview(&config, &loaded.policy, known.placement.clone())
            .await
            .map_err(|error| Failure::because(Exit::Configuration, describe(&error)))?;
        let placement = known.placement.clone();
        let scope = match &args.component {
            Some(component) => Scope::Component(component.clone()),
            None => Scope::Region(from.clone()),
        };
        let serves = |region: &RegionId| placement.values().any(|serving| serving == region);
        let is_there = match &args.component {
            Some(component) => placement.get(component) == Some(from),
            None => serves(from),
        };
        if !is_there {
            let mut regions: Vec<&str> = placement.values().map(RegionId::as_str).collect();
            regions.sort_unstable();
            regions.dedup();
            let text =
                format!("NOT IN EFFECT: nothing of that is served in {from}, as far as is known ({})", known.told);
            return Err(Failure::because(Exit::NotInEffect, text)
                .hint(format!("what is known to serve: {}; else say --serving REGION", regions.join(", "))));
        }
        let now: Now = now();
        let plan = planned(&controller, now, &scope)?;
        Ok(Self { placement, writable, status: controller.status(now), plan })
    }

    /// A database, or traffic, that is somewhere else than it is known to be: only a person can say what holds.
    fn contradicts(&self, policy: &Policy, known: &Source) -> Result<(), Failure> {
        for (component, of) in &policy.components {
            if !matches!(of.kind, Kind::Database | Kind::Traffic) {
                continue;
            }
            let Some(placed) = self.placement.get(component) else { continue };
            let at = |region: &RegionId| InstanceId { component: component.clone(), region: region.clone() };
            let other = of.regions.iter().find(|region| *region != placed && self.writable.contains(&at(region)));
            let Some(other) = other else { continue };
            let what = if of.kind == Kind::Traffic { "receives clients" } else { "takes writes" };
            let text = format!(
                "NOT IN EFFECT: {component} is known to be in {placed} ({}), and {} {what}: which is right?",
                known.told,
                at(other)
            );
            return Err(Failure::because(Exit::NotInEffect, text).hint(format!(
                "--placement {component}={other}, or --placement {component}={placed} once it {what} no more"
            )));
        }
        Ok(())
    }

    /// The promotions of the plan: which database, and from where.
    fn promotions(&self) -> impl Iterator<Item = (&InstanceId, &InstanceId)> {
        self.plan.steps.iter().filter_map(|step| match &step.action {
            Action::DatabasePromoted { database, from, .. } => Some((database, from)),
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Fenced { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => None,
        })
    }

    fn instance(&self, id: &InstanceId) -> Option<&crate::decide::InstanceStatus> {
        self.status.instances.iter().find(|instance| instance.instance == *id)
    }

    fn answers(&self, id: &InstanceId) -> bool {
        use crate::decide::VerdictKind;
        self.instance(id).is_some_and(|instance| {
            matches!(instance.verdict, VerdictKind::Alive | VerdictKind::Degraded | VerdictKind::Recovering)
        })
    }

    /// What is accepted with what is shown: for each database that which is shown for it.
    fn accepted(&self) -> BTreeMap<InstanceId, Accepted> {
        let accepted = self.promotions().map(|(database, from)| {
            // An old primary that does not answer cannot be locked by anybody.
            let unfenced = !self.answers(from);
            let loss = self.instance(database).and_then(|seen| seen.expected_loss);
            (database.clone(), Accepted { unfenced, loss })
        });
        accepted.collect()
    }

    /// What nobody can know from here, one line each; it is recorded as well.
    fn unproven(&self, policy: &Policy, asked: &[Asked]) -> Vec<String> {
        let mut lines: Vec<String> = asked
            .iter()
            .filter_map(|asked| match &asked.answer {
                Answer::Silent(why) => {
                    Some(format!("{} does not answer ({why}), and may be there all the same", asked.whom))
                }
                Answer::NotAsked(why) => Some(format!("{} was not asked: {why}", asked.whom)),
                Answer::Is(..) => None,
            })
            .collect();
        for (database, from) in self.promotions() {
            if !self.answers(from) {
                lines.push(format!(
                    "{from} cannot be fenced now, and may still take writes of those who reach it; it is fenced when it \
                     answers a daemon again"
                ));
            }
            if self.instance(database).is_none_or(|seen| seen.expected_loss.is_none()) {
                lines.push(format!("how much {database} lacks of what {from} has acknowledged"));
            }
        }
        let is_cluster =
            |id: &InstanceId| policy.components.get(&id.component).is_some_and(|of| of.kind == Kind::Kubernetes);
        for cluster in policy.instances().filter(|id| is_cluster(id) && !self.answers(id)) {
            lines
                .push(format!("{cluster} does not answer: a daemon that reaches only that one does not see the claim"));
        }
        lines
    }
}

fn planned(controller: &Controller, now: Now, scope: &Scope) -> Result<DryRun, Failure> {
    controller
        .plan_if(now, scope)
        .map_err(|why| Failure::because(Exit::NotInEffect, format!("NOT IN EFFECT: no plan can be made: {why}")))
}

/// Nobody types a deployment and a region by accident.
fn confirm(args: &FailoverArgs, expected: &str) -> Result<(), Failure> {
    match &args.glass.confirm {
        Some(typed) if typed == expected => Ok(()),
        Some(typed) => {
            let text = format!("NOT IN EFFECT: `{typed}` is not what has to be typed; nothing was done");
            Err(Failure::because(Exit::No, text).hint(format!("--confirm \"{expected}\", if that is what you mean")))
        }
        None => order::confirm(expected, "this is done although nobody else can be asked").map_err(|failure| {
            if failure.exit() == Exit::Usage {
                failure.hint(format!("where nobody can type it: --confirm \"{expected}\""))
            } else {
                failure
            }
        }),
    }
}

async fn carry_out(
    session: Session,
    who_answers: BoxFuture<'_, Option<String>>,
    args: &FailoverArgs,
    terminal: Terminal,
) -> Outcome {
    let ledger = session.ledger.clone();
    let is_json = args.order.json;
    let mut tell = |told: Told| {
        let line = showing::told(&told);
        // Whoever does not read any more has left it to itself.
        let _ = if is_json { write_error(&line) } else { terminal.print(&line) };
    };
    let ended = session::carry_out(session, who_answers, &mut tell).await;
    let place = ledger.display();
    let go_on = format!("go on with: failoverd failover --break-glass --continue {place} --config …");
    match ended {
        Ended::Closed(incident, status) => {
            let is_done = incident.outcome == Some(crate::decide::Outcome::Recovered);
            if is_json {
                terminal.print_json(&serde_json::json!({
                    "in_effect": true,
                    "outcome": incident.outcome,
                    "record": ledger,
                    "placement": status.placement,
                    "owed_fences": status.owed_fences,
                }))?;
            } else {
                terminal.print(&showing::ended(&incident, &status, &ledger, terminal.palette()))?;
            }
            Ok(if is_done { Exit::Ok } else { Exit::No })
        }
        Ended::Interrupted(status) => {
            Err(Failure::because(Exit::No, format!("ended before its end: {}", status.headline)).hint(go_on))
        }
        Ended::Refused(why) => Err(Failure::because(Exit::NotInEffect, format!("NOT IN EFFECT: {why}"))),
        Ended::NotKnown(why) => {
            let text = format!("NOT KNOWN TO BE IN EFFECT: {why}; the record is {place}");
            Err(Failure::because(Exit::NotInEffect, text)
                .hint(format!("{go_on}; where that says that it is no record of break-glass, nothing was begun")))
        }
        Ended::NotBegun(_, lines) => {
            Err(Failure::because(Exit::NotInEffect, format!("NOT IN EFFECT: {}", lines.join("; "))))
        }
        Ended::Broken => Err(Failure::because(Exit::NotInEffect, "it broke off; the lines above say why").hint(go_on)),
    }
}

fn write_error(line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stderr().write_all(line.as_bytes())
}
