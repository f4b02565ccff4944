//! A story: what happens to a deployment, as an operator would tell it. The format is in `docs/stories.md`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::{ComponentId, InstanceId, Layer, LedgerId, ObserverId, ReferenceId, RegionId, StepId};

/// What happens, and perhaps what is expected to come of it.
#[derive(Debug, Clone)]
pub struct Story {
    /// What holds before anything happens.
    pub settings: Settings,
    /// What happens, in order.
    pub lines: Vec<Line>,
    /// The text after `----`, if there is one: what a replay prints.
    pub expected: Option<String>,
    /// Everything before the expectation, as it was written.
    pub told: String,
}

/// What holds before anything happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Path of the configuration, relative to the story.
    pub config: Option<String>,
    /// Keys of the configuration that are different in this story, as `a.b.c` and the value.
    pub overrides: Vec<(String, String)>,
    /// When the story begins, by the wall.
    pub from: Timestamp,
    /// Whether the ledger knows the deployment.
    pub ledger: LedgerBefore,
    /// The other observers, and where they stand.
    pub observers: Vec<(ObserverId, RegionId)>,
    /// When to stop looking; none means a while after the last line.
    pub until: Option<Duration>,
    /// Chance in probes, answers and calls, the same for the same number; none means that everything is on time.
    pub seed: Option<u64>,
}

/// What is in the ledger when the story begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerBefore {
    /// The placement was adopted: everything is served by the primary region.
    Adopted,
    /// Nothing: failoverd was just installed, or somebody lost the file.
    Empty,
}

/// One line of a story.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Line number in the file, from 1.
    pub number: usize,
    /// After the beginning of the story.
    pub at: Duration,
    /// What happens.
    pub happening: Happening,
    /// The line without its time.
    pub text: String,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Happening {
    /// To what we watch.
    Instances {
        /// Whom it happens to.
        which: Which,
        /// How they are from then on.
        condition: Condition,
    },
    /// To reference points; none means all of them.
    References {
        /// Which.
        which: Option<ReferenceId>,
        /// Whether they answer.
        answers: bool,
    },
    /// The daemon's own network: everything looks dead to it, and nothing is.
    Link {
        /// Whether it is cut.
        cut: bool,
    },
    /// Two regions: what stands in one cannot reach what stands in the other.
    Partition {
        /// From where to where.
        between: (RegionId, RegionId),
        /// Only in this direction.
        one_way: bool,
        /// Whether they are cut off.
        cut: bool,
    },
    /// To the ledger that the daemons share.
    Ledger {
        /// Its member in this region; none means all of them.
        member: Option<RegionId>,
        /// Whether it runs.
        answers: bool,
    },
    /// To an observer.
    Observer {
        /// Which.
        observer: ObserverId,
        /// What.
        fate: Fate,
    },
    /// The daemon is stopped and goes on later, without having been told.
    Pause(Duration),
    /// The daemon dies, and is back after a while.
    Restart(Duration),
    /// A person gives an order.
    Operator(Order),
    /// A kind of work (or one step) goes differently from then on.
    Works {
        /// Which.
        work: Work,
        /// How.
        behaviour: Behaviour,
    },
    /// Another ledger claims the clusters of a region.
    Claimed {
        /// Where.
        region: RegionId,
        /// Whose.
        ledger: LedgerId,
    },
}

/// What happens to an observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Fate {
    /// It cannot reach the ledger: nobody hears it, and it hears nobody.
    FallsSilent,
    /// It can again.
    IsBack,
    /// Something broke in it: it says that it says nothing.
    Halts,
    /// It dies, and is back after a while.
    Stops(Duration),
    /// It is stopped and goes on later, without having been told.
    Pauses(Duration),
    /// Its machine is suspended, and its monotonic clock stands still meanwhile.
    IsSuspended(Duration),
    /// Its wall clock is set, forwards or back.
    ClockSteps(SignedDuration),
    /// Its own link is cut, or restored: everything looks dead to it.
    LinkCut(bool),
}

/// Whom something happens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// One instance: `database@us-east-1`.
    Instance(InstanceId),
    /// All instances of a region: `everything@us-east-1`.
    Region(RegionId),
}

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Condition {
    /// Well; ends everything below.
    Answers,
    /// Probes fail, all of them or a share.
    Fails {
        /// At which layer.
        layer: Layer,
        /// Percent of the probes.
        percent: u8,
        /// What is seen; none means what is usual at that layer.
        why: Option<String>,
    },
    /// It fails for a while again and again.
    Flaps {
        /// From one failure to the next.
        every: Duration,
        /// How long each lasts.
        lasting: Duration,
    },
    /// Nothing can be said, for a reason of our own.
    Unknown(String),
    /// It lives and refuses our credential.
    RefusesCredential,
    /// It works, not well.
    Degraded(String),
    /// It could not take over.
    NotReady(String),
    /// A replica that is behind.
    Lags(Duration),
    /// A cluster in which a workload has fewer ready replicas than it is scaled to.
    Runs {
        /// How many are ready.
        ready: u32,
        /// Of which workload.
        workload: String,
        /// Restarting it helps.
        until_restarted: bool,
    },
    /// A zone of the cluster goes dark, and its pods with it.
    LosesZone(String),
    /// The pods of a lost zone run elsewhere.
    Reschedules,
    /// Somebody scaled a workload of the cluster.
    Scaled {
        /// To how many.
        replicas: u32,
        /// Which workload.
        workload: String,
    },
}

/// What a person orders.
#[derive(Debug, Clone, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)] // the same as the commands of the command line
pub enum Order {
    Approve {
        accept_unfenced: bool,
        accept_loss: Option<Duration>,
    },
    Hold,
    Pause {
        lasting: Duration,
        reason: String,
    },
    Resume,
    Failover {
        from: RegionId,
        component: Option<ComponentId>,
        force: bool,
    },
    Switchover {
        from: RegionId,
        component: Option<ComponentId>,
    },
    Rejoin {
        database: InstanceId,
        discard: bool,
    },
    Failback,
    Continue,
    Ack {
        false_positive: bool,
    },
    Retry(StepId),
    Skip(StepId),
    Abort {
        standby_lost: bool,
    },
    Adopt(Vec<(ComponentId, RegionId)>),
    /// What break-glass did, on which ledger, and what it left to be fenced.
    Merge {
        ledger: LedgerId,
        placement: Vec<(ComponentId, RegionId)>,
        owed: Vec<InstanceId>,
    },
    /// From then on, somebody does once a minute what failoverd asks for.
    Help,
}

/// Kinds of work, each with its own pace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // named after the actions
pub enum Work {
    Declare,
    Scale,
    Fence,
    CatchUp,
    Rejoin,
    Protect,
    Promote,
    Publish,
    Rollout,
    Cache,
    Storage,
    Traffic,
    Manifests,
    Verify,
    /// One step of any kind, by its name in the plan.
    Step(StepId),
}

impl Work {
    /// The kinds with their names in a story.
    pub const NAMED: [(&'static str, Self); 14] = [
        ("declare", Self::Declare),
        ("scale", Self::Scale),
        ("fence", Self::Fence),
        ("catch-up", Self::CatchUp),
        ("rejoin", Self::Rejoin),
        ("protect", Self::Protect),
        ("promote", Self::Promote),
        ("publish", Self::Publish),
        ("rollout", Self::Rollout),
        ("cache", Self::Cache),
        ("storage", Self::Storage),
        ("route53", Self::Traffic),
        ("manifests", Self::Manifests),
        ("verify", Self::Verify),
    ];
}

/// How work goes.
#[derive(Debug, Clone, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Behaviour {
    /// As usual.
    Works,
    /// It takes that long.
    Takes(Duration),
    /// It is refused, with an error that trying again does not cure.
    Refuses(String),
    /// It is accepted and never ends.
    Hangs,
    /// Nobody answers.
    Unreachable,
}
