//! Every probe on its own schedule: none waits for another, none is forgotten, none brings the rest down.
//!
//! One task per instance. A scheduler with a timer wheel of its own would do the same work twice: tokio's timers
//! already are a hierarchical wheel, a sleeping task costs about a kilobyte, and a task of its own is what isolates a
//! probe that hangs or panics. Between two probes a task is a timer and nothing else; there is no polling loop.
//!
//! Deliberately without opinions: what an observation means is decided elsewhere. The one exception is time. A probe
//! that took far longer than it was allowed to tells more about us (stopped, suspended, starved) than about its
//! instance, and becomes `Unknown` here, where both clocks are at hand.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::decide::{Input, ReferenceObservation};
use crate::domain::{Evidence, Finding, InstanceId, Layer, Observation, Probing, ReferenceId};
use crate::ports::{Clock, Probe, ReferenceProbe};

/// Everything that is probed, with its rhythm.
pub type Probes = Vec<(InstanceId, Probing, Box<dyn Probe>)>;
/// Every reference point, with its rhythm.
pub type References = Vec<(ReferenceId, Probing, Box<dyn ReferenceProbe>)>;

/// What a schedule produced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are the large one, and each is moved once")]
pub enum Sighting {
    /// An instance was probed.
    Instance(Observation),
    /// A reference point was asked.
    Reference(ReferenceObservation),
}

impl From<Sighting> for Input {
    fn from(sighting: Sighting) -> Self {
        match sighting {
            Sighting::Instance(observation) => Self::Observed(observation),
            Sighting::Reference(observation) => Self::ReferenceObserved(observation),
        }
    }
}

/// What went on in the schedules, for metrics. Only ever rises.
#[derive(Debug, Default)]
pub struct ProberCounters {
    /// Probes that ended, whatever they found.
    pub probes: AtomicU64,
    /// Starts that were left out because the probe before was still running, or we were.
    pub starts_skipped: AtomicU64,
    /// Probes that panicked.
    pub panics: AtomicU64,
    /// Probes that took so long that their finding was thrown away.
    pub stalls: AtomicU64,
}

/// The running schedules. Dropping it stops them.
#[derive(Debug)]
pub struct Prober {
    tasks: JoinSet<()>,
    counters: Arc<ProberCounters>,
}

impl Prober {
    /// Starts all schedules. First starts are spread over one interval, so that a restart is not a burst.
    ///
    /// `jitter` is the share of the interval (0 to 0.5) by which starts are moved. Sightings go to `out`; when it is
    /// full, a schedule waits and skips starts meanwhile. The schedules end when the receiver is dropped.
    pub fn start(
        probes: Probes,
        references: References,
        jitter: f64,
        clock: Arc<dyn Clock>,
        out: mpsc::Sender<Sighting>,
    ) -> Self {
        let counters = Arc::new(ProberCounters::default());
        let mut tasks = JoinSet::new();
        let origin = Instant::now();
        for (instance, probing, probe) in probes {
            let schedule = Schedule::new(&instance.to_string(), origin, probing, jitter);
            let subject = InstanceSubject { instance, probe };
            tasks.spawn(supervise(subject, schedule, clock.clone(), counters.clone(), out.clone()));
        }
        for (reference, probing, probe) in references {
            let schedule = Schedule::new(reference.as_str(), origin, probing, jitter);
            let subject = ReferenceSubject { reference, probe };
            tasks.spawn(supervise(subject, schedule, clock.clone(), counters.clone(), out.clone()));
        }
        Self { tasks, counters }
    }

    /// The counters; they outlive the prober.
    pub fn counters(&self) -> Arc<ProberCounters> {
        self.counters.clone()
    }

    /// Stops all schedules and returns when nothing of them runs any more.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// One look at one instance under the rules of the schedules: bounded, and a panic is an observation.
///
/// For a single round outside of any schedule.
pub async fn observe_once(
    instance: &InstanceId,
    probing: Probing,
    probe: &dyn Probe,
    clock: &dyn Clock,
) -> Observation {
    let began = clock.now().monotonic;
    let end = bounded(probe.observe(began), probing).await;
    let ended = clock.now().monotonic;
    instance_observation(instance, probing, began, ended, end)
}

/// How a bounded look ended.
enum End<T> {
    Answered(T),
    /// It did not keep its own timeout, so the prober's ended it.
    Overdue,
    Panicked(String),
}

/// Something that is looked at on a schedule.
trait Subject: Send + 'static {
    fn look(
        &self,
        probing: Probing,
        clock: &dyn Clock,
        counters: &ProberCounters,
    ) -> impl Future<Output = Sighting> + Send;
}

struct InstanceSubject {
    instance: InstanceId,
    probe: Box<dyn Probe>,
}

impl Subject for InstanceSubject {
    async fn look(&self, probing: Probing, clock: &dyn Clock, counters: &ProberCounters) -> Sighting {
        let began = clock.now().monotonic;
        let end = bounded(self.probe.observe(began), probing).await;
        let ended = clock.now().monotonic;
        count(&end, counters);
        if is_stalled(probing, began, ended) {
            counters.stalls.fetch_add(1, Ordering::Relaxed);
        }
        Sighting::Instance(instance_observation(&self.instance, probing, began, ended, end))
    }
}

struct ReferenceSubject {
    reference: ReferenceId,
    probe: Box<dyn ReferenceProbe>,
}

impl Subject for ReferenceSubject {
    async fn look(&self, probing: Probing, clock: &dyn Clock, counters: &ProberCounters) -> Sighting {
        let began = clock.now().monotonic;
        let end = bounded(self.probe.ask(), probing).await;
        let ended = clock.now().monotonic;
        count(&end, counters);
        let answer = match end {
            End::Answered(answer) => answer,
            End::Overdue => Err(format!("no answer within {:?}", probing.timeout)),
            End::Panicked(message) => Err(format!("the probe panicked: {message}")),
        };
        Sighting::Reference(ReferenceObservation { reference: self.reference.clone(), began, ended, answer })
    }
}

/// Keeps a schedule going whatever happens in it. A probe's panic is handled where it happens; this catches the rest.
async fn supervise(
    subject: impl Subject,
    schedule: Schedule,
    clock: Arc<dyn Clock>,
    counters: Arc<ProberCounters>,
    out: mpsc::Sender<Sighting>,
) {
    let mut next = schedule.first();
    loop {
        let rounds = run(&subject, &schedule, &mut next, &*clock, &counters, &out);
        match AssertUnwindSafe(rounds).catch_unwind().await {
            Ok(()) => return,
            Err(_) => {
                counters.panics.fetch_add(1, Ordering::Relaxed);
                next = schedule.after(next, Instant::now());
            }
        }
    }
}

/// Looks, tells, and waits for the next start, until nobody listens.
async fn run(
    subject: &impl Subject,
    schedule: &Schedule,
    next: &mut Slot,
    clock: &dyn Clock,
    counters: &ProberCounters,
    out: &mpsc::Sender<Sighting>,
) {
    loop {
        tokio::time::sleep_until(next.at).await;
        let sighting = subject.look(schedule.probing, clock, counters).await;
        counters.probes.fetch_add(1, Ordering::Relaxed);
        if out.send(sighting).await.is_err() {
            return;
        }
        let following = schedule.after(*next, Instant::now());
        counters.starts_skipped.fetch_add(following.number - next.number - 1, Ordering::Relaxed);
        *next = following;
    }
}

/// The prober's own timeout is a little longer than the probe's, so that the probe's better explanation wins.
async fn bounded<T>(look: impl Future<Output = T>, probing: Probing) -> End<T> {
    let limit = probing.timeout + slack(probing) / 2;
    match tokio::time::timeout(limit, AssertUnwindSafe(look).catch_unwind()).await {
        Ok(Ok(answer)) => End::Answered(answer),
        Ok(Err(panic)) => End::Panicked(panic_message(&*panic)),
        Err(_elapsed) => End::Overdue,
    }
}

fn count<T>(end: &End<T>, counters: &ProberCounters) {
    match end {
        End::Panicked(_) => {
            counters.panics.fetch_add(1, Ordering::Relaxed);
        }
        End::Answered(_) | End::Overdue => {}
    }
}

fn instance_observation(
    instance: &InstanceId,
    probing: Probing,
    began: Duration,
    ended: Duration,
    end: End<Observation>,
) -> Observation {
    let (finding, evidence) = match end {
        _ if is_stalled(probing, began, ended) => {
            let took = ended.saturating_sub(began);
            let why = format!("we were stalled: the probe took {took:.1?}, its timeout is {:?}", probing.timeout);
            (Finding::Unknown { why }, Evidence::default())
        }
        End::Answered(observation) => (observation.finding, observation.evidence),
        End::Overdue => {
            let why = format!("no answer within {:?}", probing.timeout);
            (Finding::Failing { layer: Layer::Query, why }, Evidence::default())
        }
        End::Panicked(message) => {
            (Finding::Unknown { why: format!("the probe panicked: {message}") }, Evidence::default())
        }
    };
    Observation { instance: instance.clone(), began, ended, finding, evidence }
}

/// How much later than its timeout a probe may end before we suspect ourselves: an interval, and a second at most,
/// because on a machine that keeps up timers are late by milliseconds. Not below half a second, so that a busy
/// machine with a very short interval is not taken for a stopped one.
fn slack(probing: Probing) -> Duration {
    probing.interval.clamp(Duration::from_millis(500), Duration::from_secs(1))
}

fn is_stalled(probing: Probing, began: Duration, ended: Duration) -> bool {
    ended.saturating_sub(began) > probing.timeout + slack(probing)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// When an instance is probed: the same at every start of the daemon, and different from its neighbours.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    origin: Instant,
    probing: Probing,
    jitter: f64,
    seed: u64,
}

/// One start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    number: u64,
    at: Instant,
}

impl Schedule {
    fn new(name: &str, origin: Instant, probing: Probing, jitter: f64) -> Self {
        let interval = probing.interval.max(INTERVAL_MIN);
        // FNV-1a: stable between versions and machines, which the standard hasher does not promise.
        let seed = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 0.5) } else { 0.0 };
        Self { origin, probing: Probing { interval, ..probing }, jitter, seed }
    }

    fn first(&self) -> Slot {
        self.slot(0)
    }

    /// The next start that lies in the future; those that passed meanwhile are left out.
    fn after(&self, slot: Slot, now: Instant) -> Slot {
        let late = now.saturating_duration_since(self.origin + self.spread());
        let due = u64::try_from(late.as_nanos() / self.probing.interval.as_nanos()).unwrap_or(u64::MAX);
        let following = self.slot((slot.number + 1).max(due));
        if following.at > now { following } else { self.slot(following.number + 1) }
    }

    fn slot(&self, number: u64) -> Slot {
        let jitter = self.probing.interval.mul_f64(self.jitter * share(self.seed ^ mix(number + 1)));
        let regular = self.probing.interval.as_nanos().saturating_mul(u128::from(number));
        let regular = Duration::from_nanos(u64::try_from(regular).unwrap_or(u64::MAX / 2));
        Slot { number, at: self.origin + self.on_the_grid(self.spread() + regular + jitter) }
    }

    /// The grid's last point before `at`.
    fn on_the_grid(&self, at: Duration) -> Duration {
        let beyond = at.as_nanos() % GRID.min(self.probing.interval / 10).as_nanos();
        at.saturating_sub(Duration::from_nanos(u64::try_from(beyond).unwrap_or_default()))
    }

    /// Where in the interval this instance's starts lie.
    fn spread(&self) -> Duration {
        self.probing.interval.mul_f64(share(self.seed))
    }
}

/// Starts of different instances fall together this often: a thousand probes a second that each wake a thread for
/// themselves cost half as much again in context switches. Far below any interval and any timeout that make sense.
const GRID: Duration = Duration::from_millis(10);

/// A configuration with a smaller interval is refused; this only keeps a division from failing.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A number from 0 to just below 1 that looks random and is always the same for the same seed.
fn share(seed: u64) -> f64 {
    // 53 bits are what an f64 holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let share = (mix(seed) >> 11) as f64 / (1_u64 << 53) as f64;
    share
}

/// The finaliser of SplitMix64.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probing(interval_ms: u64) -> Probing {
        Probing { interval: Duration::from_millis(interval_ms), timeout: Duration::from_millis(interval_ms / 2) }
    }

    #[test]
    fn first_starts_are_spread_over_the_interval() {
        let origin = Instant::now();
        let mut quarters = [0_u32; 4];
        for n in 0..1000 {
            let schedule = Schedule::new(&format!("web{n}@east"), origin, probing(1000), 0.0);
            let offset = (schedule.first().at - origin).as_millis();
            quarters[usize::try_from(offset / 250).expect("below four")] += 1;
        }
        assert!(quarters.iter().all(|n| (200..300).contains(n)), "{quarters:?}");
    }

    #[test]
    fn starts_stay_within_the_jitter_and_are_the_same_after_a_restart() {
        let origin = Instant::now();
        let schedule = Schedule::new("db@east", origin, probing(1000), 0.2);
        for number in 0..1000 {
            let moved = (schedule.slot(number).at - schedule.first().at).as_secs_f64()
                - f64::from(u32::try_from(number).expect("small"));
            assert!(moved.abs() < 0.2 + GRID.as_secs_f64(), "{moved}");
            assert_eq!(schedule.slot(number), Schedule::new("db@east", origin, probing(1000), 0.2).slot(number));
        }
    }

    #[test]
    fn starts_that_passed_meanwhile_are_left_out_not_made_up_for() {
        let schedule = Schedule::new("db@east", Instant::now(), probing(1000), 0.0);
        let first = schedule.first();
        let later = first.at + Duration::from_millis(360_300);
        let next = schedule.after(first, later);
        assert!(next.at > later && next.at <= later + Duration::from_secs(1), "{next:?}");
        assert_eq!(next.number, 361);
    }

    #[test]
    fn a_probe_that_ended_long_after_its_timeout_says_nothing_about_its_instance() {
        let failing = Observation {
            instance: InstanceId::new("db", "east"),
            began: Duration::ZERO,
            ended: Duration::ZERO,
            finding: Finding::Failing { layer: Layer::Tcp, why: "no connection".into() },
            evidence: Evidence::default(),
        };
        let seen = |took_ms| {
            let ended = Duration::from_millis(took_ms);
            let end = End::Answered(failing.clone());
            instance_observation(&failing.instance, probing(1000), Duration::ZERO, ended, end).finding
        };
        assert!(matches!(seen(510), Finding::Failing { .. }));
        assert!(matches!(seen(1600), Finding::Unknown { .. }));
        assert!(matches!(seen(360_000), Finding::Unknown { .. }));
    }
}
