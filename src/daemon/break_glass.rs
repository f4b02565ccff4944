//! Break-glass: the daemon, in the foreground, for one plan that a person orders while the shared ledger is gone.
//!
//! It is the same event loop, executor and controller, on a file ledger of its own. It differs in what it is told: it
//! stands alone, nobody answers for a role here, and it ends with its incident.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::time::Instant;

use super::handle::Answer;
use super::prober::observe_once;
use super::{Daemon, End, boot, clock};
use crate::adapters::world::{self, Unusable};
use crate::config::{Config, policy_hash};
use crate::decide::{
    Command, Controller, Fact, Frame, IncidentStatus, Input, ReferenceObservation, Status, VerdictKind,
};
use crate::domain::{ComponentId, Finding, InstanceId, LedgerId, ObserverId, Policy, RegionId, Serving};
use crate::ports::{Claim, Clock};

/// The status is looked at this often for what is not a fact.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First probes are waited for no longer than this.
const FIRST_PROBES_MAX: Duration = Duration::from_secs(30);
/// The folder of break-glass's records, beside the ledger that a single daemon would have.
const FOLDER: &str = "break-glass";

/// What is to be carried out, and where it is recorded.
#[derive(Debug)]
pub struct Session {
    /// As configured; what does not hold for break-glass is changed here.
    pub config: Config,
    /// The same for the core.
    pub policy: Policy,
    /// The record.
    pub ledger: PathBuf,
    /// Who, for the claims.
    pub by: String,
    /// What is ordered: to break the glass; or to go on with what the record holds, as it was approved.
    pub order: Command,
}

/// What there is to tell while it goes on.
#[derive(Debug)]
pub enum Told {
    /// Something was recorded.
    Fact {
        /// When.
        at: Timestamp,
        /// What.
        fact: Box<Fact>,
    },
    /// How it stands, where that is news.
    Standing(String),
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The incident is closed; the last status.
    Closed(Box<IncidentStatus>, Arc<Status>),
    /// Somebody ended it before.
    Interrupted(Arc<Status>),
    /// The order was refused; nothing was done.
    Refused(String),
    /// Nobody knows whether the order was recorded. Something may have been done.
    NotKnown(String),
    /// It could not begin; a line for each reason.
    NotBegun(End, Vec<String>),
    /// It broke.
    Broken,
}

impl Ended {
    /// How it ends with this answer to the order; none where it has begun.
    pub fn by(answer: Answer) -> Option<Self> {
        match answer {
            Answer::InEffect(_) => None,
            Answer::Refused(why) | Answer::NotRecorded(why) => Some(Self::Refused(why)),
            Answer::Unknown(why) => Some(Self::NotKnown(why)),
        }
    }
}

/// Where everything would be recorded that begins now: a place where nothing is.
pub fn place(config: &Config, folder: Option<&Path>, at: Timestamp) -> PathBuf {
    let folder = folder.map_or_else(|| config.ledger.path.with_file_name(FOLDER), Path::to_path_buf);
    folder.join(at.strftime("%Y%m%dT%H%M%SZ").to_string()).join("ledger")
}

/// Makes the folder of a record. Nothing is ever overwritten.
///
/// # Errors
/// It is there already, or cannot be made.
pub fn prepare(ledger: &Path) -> io::Result<()> {
    let Some(folder) = ledger.parent() else { return Ok(()) };
    if let Some(above) = folder.parent() {
        std::fs::create_dir_all(above)?;
    }
    std::fs::create_dir(folder)
}

/// What was seen of everything once, by a controller that decides nothing: what a person is shown before they decide.
#[derive(Debug)]
pub struct Preview {
    /// It knows the placement, and what was seen.
    pub controller: Controller,
    /// Databases that take writes, records that send clients there.
    pub writable: BTreeSet<InstanceId>,
}

/// Looks at everything once, all at the same time.
///
/// # Errors
/// The configuration names something that cannot be used.
pub async fn preview(
    config: &Arc<Config>,
    policy: &Policy,
    placement: BTreeMap<ComponentId, RegionId>,
) -> Result<Preview, Unusable> {
    let clock: Arc<dyn Clock> = Arc::new(clock::SystemClock);
    let adapters = world::build(config, policy, &clock)?;
    let mut looks: FuturesUnordered<BoxFuture<'static, Input>> = FuturesUnordered::new();
    for (instance, probing, probe) in adapters.probes {
        let clock = clock.clone();
        looks.push(Box::pin(async move { Input::Observed(observe_once(&instance, probing, &*probe, &*clock).await) }));
    }
    for (reference, probing, probe) in adapters.references {
        let clock = clock.clone();
        looks.push(Box::pin(async move {
            let began = clock.now().monotonic;
            let answer = tokio::time::timeout(probing.timeout, probe.ask()).await;
            let answer = answer.unwrap_or_else(|_late| Err("no answer in time".to_owned()));
            let ended = clock.now().monotonic;
            Input::ReferenceObserved(ReferenceObservation { reference, began, ended, answer })
        }));
    }
    let policy = alone(policy.clone());
    let hash = policy_hash(&policy);
    let adopted = Fact::PlacementAdopted { placement, by: "a preview".to_owned() };
    let frame = Frame { index: 0, epoch: 0, at: clock.now(), facts: vec![adopted] };
    // One frame without a gap cannot be damaged.
    let mut controller = match Controller::recover(policy.clone(), hash.clone(), [frame]) {
        Ok(controller) => controller,
        Err(why) => return Err(Unusable::Address { what: "the preview".to_owned(), why: why.to_string() }),
    };
    let mut writable = BTreeSet::new();
    while let Some(input) = looks.next().await {
        if let Input::Observed(observation) = &input
            && observation.finding == Finding::Alive
            && observation.evidence.serving == Some(Serving::Writable)
        {
            writable.insert(observation.instance.clone());
        }
        // Nobody leads, so nothing is decided.
        let _ = controller.step(clock.now(), input);
    }
    Ok(Preview { controller, writable })
}

/// There is nobody else to ask, and nobody who could be told that a role is taken away: the whole wait is waited.
fn alone(mut policy: Policy) -> Policy {
    policy.council.observers.clear();
    if let Some(roles) = &mut policy.roles {
        roles.check_period += roles.self_fence_after;
        roles.self_fence_after = Duration::ZERO;
    }
    policy
}

/// Carries it out, and tells what happens. Ends with the incident, or when a person ends it. `who_answers` is asked just
/// before the order is given, and keeps it from being given.
pub async fn carry_out(
    session: Session,
    who_answers: BoxFuture<'_, Option<String>>,
    tell: &mut (dyn FnMut(Told) + Send),
) -> Ended {
    let Session { mut config, policy, ledger, by, order } = session;
    // What is known of the shared ledger is no use here; roles are answered for by daemons; nobody waits for heartbeats.
    (config.ledger.etcd, config.ledger.s3, config.ledger.path) = (None, None, ledger.clone());
    config.council.observers.clear();
    config.api.role_listen = None;
    // A guardian that has a role confirmed fences its database when that ends, and this ends with its incident.
    for database in config.databases.values_mut() {
        database.demote = None;
    }
    config.heartbeat.url = None;
    let host = hostname();
    let first_probes = policy.components.values().map(|of| of.probing.interval + of.probing.timeout).max();
    let first_probes = first_probes.unwrap_or_default().saturating_add(Duration::from_secs(1)).min(FIRST_PROBES_MAX);
    let clock: Arc<dyn Clock> = Arc::new(clock::SystemClock);
    let daemon = match boot::boot_with(Arc::new(config), alone(policy), &clock).await {
        Ok(mut boot) => {
            boot.holder = format!("{}{by}, {host}:{}", Claim::BREAK_GLASS, ledger.display());
            if let Some(why) = boot.halted {
                return Ended::NotBegun(End::Ledger, vec![why]);
            }
            Daemon::start(boot, Vec::new(), clock)
        }
        Err(refusal) => Err(refusal),
    };
    let mut daemon = match daemon {
        Ok(daemon) => daemon,
        Err(refusal) => return Ended::NotBegun(refusal.end, refusal.lines),
    };
    let ended = daemon.follow_order(order, first_probes, who_answers, tell).await;
    match (ended, daemon.drain().await) {
        (ended, End::Asked) => ended,
        (ended @ (Ended::Closed(..) | Ended::NotKnown(_)), _) => ended,
        (_, _) => Ended::Broken,
    }
}

/// The name of this machine.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

impl Daemon {
    async fn follow_order(
        &mut self,
        order: Command,
        first_probes: Duration,
        who_answers: BoxFuture<'_, Option<String>>,
        tell: &mut (dyn FnMut(Told) + Send),
    ) -> Ended {
        let mut shown = 0;
        // What the plan looks like depends on what answers.
        let until = Instant::now() + first_probes;
        while Instant::now() < until && self.is_anything_unseen().await {
            if self.is_to_end(LOOK_EVERY).await {
                return Ended::Refused("it was ended before it began".to_owned());
            }
        }
        if let Some(who) = who_answers.await {
            return Ended::Refused(who);
        }
        if let Some(ended) = Ended::by(self.handle.command(order).await) {
            return ended;
        }
        let mut headline = String::new();
        loop {
            self.tell_recorded(&mut shown, tell);
            let Ok(status) = self.handle.status().await else { return Ended::Broken };
            let gist: String = status.headline.chars().filter(|c| !c.is_ascii_digit()).collect();
            if gist != headline {
                headline = gist;
                tell(Told::Standing(status.headline.clone()));
            }
            // The open ones come first.
            if let Some(last) = status.incidents.first().filter(|last| last.closed.is_some()) {
                self.tell_recorded(&mut shown, tell);
                return Ended::Closed(Box::new(last.clone()), status.clone());
            }
            if self.is_to_end(LOOK_EVERY).await {
                return Ended::Interrupted(status);
            }
        }
    }

    fn tell_recorded(&self, shown: &mut u64, tell: &mut (dyn FnMut(Told) + Send)) {
        for frame in self.handle.board().recent(*shown, usize::MAX).unwrap_or_default() {
            *shown = frame.index + 1;
            for fact in &frame.facts {
                tell(Told::Fact { at: frame.at.wall, fact: Box::new(fact.clone()) });
            }
        }
    }

    async fn is_anything_unseen(&self) -> bool {
        let Ok(status) = self.handle.status().await else { return false };
        status.instances.iter().any(|instance| instance.verdict == VerdictKind::Unknown)
    }

    /// Waits so long, unless a person or a bug ends it first. A terminal that goes away (SIGHUP) does not: what has begun
    /// goes on.
    async fn is_to_end(&mut self, wait: Duration) -> bool {
        tokio::select! {
            _ = self.signals.terminate.recv() => true,
            _ = self.signals.interrupt.recv() => true,
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep(wait) => self.event_loop.is_finished(),
        }
    }
}

/// Where everything was served, and who says so.
#[derive(Debug)]
pub struct Source {
    /// For people.
    pub told: String,
    /// When that was.
    pub at: Option<Timestamp>,
    /// The ledger that knew.
    pub ledger: Option<LedgerId>,
    /// Where.
    pub placement: BTreeMap<ComponentId, RegionId>,
}

/// The last placement that is known on this machine: of the daemon's ledger where it is a file, else what the daemon kept.
/// None where nothing was ever adopted, or nothing is there; the text says what was looked for.
pub fn last_known(config: &Config, policy: &Policy) -> Result<Source, String> {
    if config.ledger.is_shared() {
        let path = super::keepsake::place(config);
        let told = path.display().to_string();
        let kept = super::keepsake::read(&path).map_err(|error| format!("{told}: {error}"))?;
        let (ledger, placement) = (Some(kept.known.ledger), kept.known.placement);
        return Ok(Source { told, at: Some(kept.at), ledger, placement });
    }
    let told = config.ledger.path.display().to_string();
    let contents = crate::ledger::read(&config.ledger.path, 0).map_err(|error| error.to_string())?;
    let at = contents.frames.last().map(|frame| frame.at.wall);
    let controller = Controller::recover(policy.clone(), policy_hash(policy), contents.frames);
    let known = controller.map_err(|error| format!("{told}: {error}"))?.last_known();
    let known = known.ok_or_else(|| format!("{told}: nothing was ever adopted there"))?;
    Ok(Source { told, at, ledger: Some(known.ledger), placement: known.placement })
}

/// The other daemons, with the address of their API where it is known.
pub fn others(config: &Config) -> Vec<(ObserverId, RegionId, Option<String>)> {
    let others = config.council.observers.iter().filter(|(name, _)| **name != config.observer.name);
    others.map(|(name, seat)| (name.clone(), seat.region.clone(), seat.api.clone())).collect()
}
