//! A small world: instances that live, fail, lag and are promoted, clusters, records. It goes on by itself, whatever
//! becomes of the daemon that watches it.
//!
//! Deliberately simple where no decision depends on it: a write-ahead log grows at a steady rate, and work takes as
//! long as the story says.

mod claims;
mod failing;
mod log;
mod network;
mod references;
mod replication;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use failing::Failing;
use log::Log;
pub(super) use network::{Network, Vantage};

use super::story::{Behaviour, Condition, Which, Work};
use crate::domain::{
    ComponentId, Evidence, Finding, InstanceId, Kind, Layer, Policy, ReferenceId, RegionId, Serving, WorkloadSeen,
    ZoneSeen,
};
use crate::plan::Action;
use crate::ports::Claim;

/// A primary writes that many bytes a second.
const WAL_BYTES_PER_SECOND: u64 = 1 << 20;
/// Where the log stood when the world began.
const WAL_START: u64 = 1 << 40;
/// A healthy standby is that far behind.
const LAG: Duration = Duration::from_millis(200);
/// From a question to its answer.
pub(super) const LATENCY: Duration = Duration::from_millis(20);

/// Everything outside of the daemon.
#[derive(Debug, Clone)]
pub(super) struct World {
    policy: Policy,
    instances: BTreeMap<InstanceId, Instance>,
    references: BTreeMap<ReferenceId, bool>,
    /// Since when no reference point has answered anybody.
    pub(super) unvouched_since: Option<Duration>,
    pub(super) network: Network,
    claims: BTreeMap<RegionId, Claim>,
    replicas: BTreeMap<(InstanceId, String), u32>,
    /// Workloads with fewer ready replicas than they are scaled to.
    lacking: BTreeMap<(InstanceId, String), Lack>,
    /// Zones without a ready node.
    dark: BTreeSet<(InstanceId, String)>,
    /// Everything that is a text at a place: keys of objects, restarts, declarations, manifests.
    texts: BTreeMap<(InstanceId, String), String>,
    weights: BTreeMap<ComponentId, BTreeMap<RegionId, u8>>,
    behaviours: BTreeMap<Work, Behaviour>,
    under_way: Vec<Operation>,
    databases: Vec<InstanceId>,
    /// Accepted calls that cannot be taken back.
    pub(super) promotions: Vec<Promotion>,
    /// Accepted restarts of a workload's pods, with the key that each carried.
    pub(super) restarts: Vec<(InstanceId, String, String)>,
    /// Accepted changes of DNS weights, with the key that each carried.
    pub(super) traffic_changes: Vec<(ComponentId, String)>,
}

/// A promotion that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Promotion {
    pub(super) database: InstanceId,
    /// The key that it carried.
    pub(super) key: String,
    /// What was written and is not there.
    pub(super) lost: Duration,
    /// What of that anybody outside of a region that nobody hears can know.
    pub(super) knowable: Duration,
    /// The old primary takes writes all the same: nobody can tell it from one that is lost, and that is an exception of its own.
    pub(super) is_beside_another: bool,
    /// It never comes to an end by itself.
    pub(super) hangs: bool,
}

#[derive(Debug, Clone)]
struct Instance {
    kind: Kind,
    reach: Reach,
    credential_refused: bool,
    degraded: Option<String>,
    not_ready: Option<String>,
    lag: Duration,
    /// How far it was behind before, and until when.
    lagged: (Duration, Duration),
    writable: bool,
    fenced: bool,
    /// Its guardian makes it refuse writes.
    demoted: bool,
    /// Since when it has refused our credential or could not take over.
    unready_since: Option<Duration>,
    /// What it has written.
    log: Log,
    /// Where its log left its source's, when it was promoted.
    forked_at: Option<u64>,
    /// Since when it has sent nothing to its replica, while it is down.
    gone_since: Option<Duration>,
    /// How it was failing, from when on.
    past: Vec<(Duration, Failing)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Reach {
    Well,
    Failing { layer: Layer, percent: u8, why: Option<String> },
    Flapping { from: Duration, every: Duration, lasting: Duration },
    Unknown(String),
}

/// What a workload lacks.
#[derive(Debug, Clone, Copy)]
struct Lack {
    ready: u32,
    until_restarted: bool,
}

#[derive(Debug, Clone)]
struct Operation {
    done: Option<Duration>,
    key: String,
    action: Action,
}

impl World {
    pub(super) fn new(policy: &Policy) -> Self {
        let primary = policy.primary().cloned();
        let instances = policy
            .components
            .iter()
            .flat_map(|(component, c)| c.regions.iter().map(move |region| (component, c, region)))
            .map(|(component, c, region)| {
                let is_primary = primary.as_ref() == Some(region);
                // A managed backup cache is a group of its own and not a replica.
                let writable = is_primary || (c.kind == Kind::Cache && c.managed);
                (InstanceId { component: component.clone(), region: region.clone() }, Instance::new(c.kind, writable))
            })
            .collect();
        let replicas = policy
            .of_kind(Kind::Kubernetes)
            .flat_map(|(component, c)| {
                let primary = primary.clone();
                c.regions.iter().flat_map(move |region| {
                    let is_primary = primary.as_ref() == Some(region);
                    let cluster = InstanceId { component: component.clone(), region: region.clone() };
                    c.workloads.iter().map(move |workload| {
                        let count = if is_primary { workload.active } else { workload.standby };
                        ((cluster.clone(), workload.name.clone()), count)
                    })
                })
            })
            .collect();
        let weights = policy
            .of_kind(Kind::Traffic)
            .map(|(component, c)| {
                let weights =
                    c.regions.iter().map(|r| (r.clone(), if primary.as_ref() == Some(r) { 100 } else { 0 })).collect();
                (component.clone(), weights)
            })
            .collect();
        Self {
            instances,
            references: policy.references.keys().map(|reference| (reference.clone(), true)).collect(),
            unvouched_since: None,
            network: Network::new(policy),
            claims: BTreeMap::new(),
            replicas,
            lacking: BTreeMap::new(),
            dark: BTreeSet::new(),
            texts: BTreeMap::new(),
            weights,
            behaviours: BTreeMap::new(),
            under_way: Vec::new(),
            databases: policy.instances().filter(|id| is_database(policy, id)).collect(),
            promotions: Vec::new(),
            restarts: Vec::new(),
            traffic_changes: Vec::new(),
            policy: policy.clone(),
        }
    }

    // --- what the story does to it ---

    pub(super) fn befall(&mut self, now: Duration, which: &Which, condition: &Condition) -> Result<(), String> {
        let hit: Vec<InstanceId> = match which {
            Which::Instance(id) => vec![id.clone()],
            Which::Region(region) => self.instances.keys().filter(|id| id.region == *region).cloned().collect(),
        };
        if hit.is_empty() {
            return Err("no instance is there".to_owned());
        }
        for id in &hit {
            let instance = self.instances.get_mut(id).ok_or_else(|| format!("{id} is not in the configuration"))?;
            // The record is not in the region: it is an answer of the name servers, which go on.
            if instance.kind == Kind::Traffic && matches!(which, Which::Region(_)) {
                continue;
            }
            instance.befall(now, condition);
            self.befall_workloads(id, condition)?;
        }
        Ok(())
    }

    fn befall_workloads(&mut self, id: &InstanceId, condition: &Condition) -> Result<(), String> {
        let place = |workload: &String| (id.clone(), workload.clone());
        let unknown = |workload: &String| format!("{id} has no workload {workload}");
        match condition {
            Condition::Answers => {
                self.lacking.retain(|(cluster, _), _| cluster != id);
                self.dark.retain(|(cluster, _)| cluster != id);
            }
            Condition::Reschedules => self.lacking.retain(|(cluster, _), _| cluster != id),
            Condition::LosesZone(zone) => {
                if !zones_of(id).contains(zone) {
                    return Err(format!("{id} has the zones {}", zones_of(id).join(", ")));
                }
                self.dark.insert((id.clone(), zone.clone()));
                for (place, count) in self.replicas.iter().filter(|((cluster, _), _)| cluster == id) {
                    let lack = Lack { ready: count - count.div_ceil(ZONES), until_restarted: false };
                    self.lacking.insert(place.clone(), lack);
                }
            }
            Condition::Runs { ready, workload, until_restarted } => {
                if !self.replicas.contains_key(&place(workload)) {
                    return Err(unknown(workload));
                }
                let lack = Lack { ready: *ready, until_restarted: *until_restarted };
                self.lacking.insert(place(workload), lack);
            }
            Condition::Scaled { replicas, workload } => match self.replicas.get_mut(&place(workload)) {
                Some(count) => *count = *replicas,
                None => return Err(unknown(workload)),
            },
            Condition::Fails { .. }
            | Condition::Flaps { .. }
            | Condition::Unknown(_)
            | Condition::RefusesCredential
            | Condition::Degraded(_)
            | Condition::NotReady(_)
            | Condition::Lags(_) => {}
        }
        Ok(())
    }

    /// Ready replicas of a workload.
    fn ready(&self, place: &(InstanceId, String), count: u32) -> u32 {
        self.lacking.get(place).map_or(count, |lack| count.min(lack.ready))
    }

    /// What a probe of the cluster sees of its workloads.
    fn tell_of_workloads(&self, id: &InstanceId, evidence: &mut Evidence) {
        let Some(policy) = self.policy.components.get(&id.component) else { return };
        let mut short = Vec::new();
        for workload in &policy.workloads {
            let place = (id.clone(), workload.name.clone());
            let wanted = self.replicas.get(&place).copied().unwrap_or(0);
            let ready = self.ready(&place, wanted);
            let serves = self.policy.primary() == Some(&id.region) || wanted >= workload.active;
            if serves && ready < workload.active {
                short.push(format!("deployment {}: {ready} of {} ready", workload.name, workload.active));
            }
            evidence.workloads.push(WorkloadSeen { name: workload.name.clone(), ready, wanted });
        }
        for name in zones_of(id) {
            let is_dark = !self.dark.is_empty() && self.dark.contains(&(id.clone(), name.clone()));
            let ready = if is_dark { 0 } else { NODES_OF_A_ZONE };
            evidence.zones.push(ZoneSeen { name, ready, nodes: NODES_OF_A_ZONE });
        }
        if !short.is_empty() && evidence.degraded.is_none() {
            evidence.degraded = Some(short.join("; "));
        }
    }

    pub(super) fn set_behaviour(&mut self, now: Duration, work: &Work, behaviour: &Behaviour) {
        self.behaviours.insert(work.clone(), behaviour.clone());
        self.go_on_with_what_hung(now);
    }

    // --- what can be seen of it ---

    pub(super) fn instances(&self) -> impl Iterator<Item = &InstanceId> {
        self.instances.keys()
    }

    /// What a probe of it finds from a region, and how long that takes. `dice` is a number from 0 to 99.
    pub(super) fn observe(
        &self,
        now: Duration,
        id: &InstanceId,
        dice: u8,
        from: &Vantage,
    ) -> (Finding, Evidence, Duration) {
        let (Some(instance), Some(component)) = (self.instances.get(id), self.policy.components.get(&id.component))
        else {
            return (Finding::Unknown { why: "it is not in this world".to_owned() }, Evidence::default(), LATENCY);
        };
        let timeout = component.probing.timeout;
        let nothing = Evidence::default();
        let is_parted = instance.kind != Kind::Traffic && self.network.is_parted(from, &id.region);
        if from.is_cut_off || is_parted {
            let why = format!("no connection within {timeout:?}");
            return (Finding::Failing { layer: Layer::Tcp, why }, nothing, timeout);
        }
        match instance.failure(now, dice) {
            Some(Failure::Unknown(why)) => return (Finding::Unknown { why }, nothing, LATENCY),
            Some(Failure::At(layer, why)) => {
                let takes = if layer == Layer::Tcp { timeout } else { LATENCY };
                let why = why.unwrap_or_else(|| usual(layer, timeout));
                return (Finding::Failing { layer, why }, nothing, takes);
            }
            None => {}
        }
        let mut evidence = Evidence {
            latency: Some(LATENCY),
            credential_refused: instance.credential_refused,
            degraded: instance.degraded.clone(),
            not_ready: instance.not_ready.iter().cloned().collect(),
            ..Evidence::default()
        };
        if !instance.credential_refused {
            match instance.kind {
                Kind::Database => {
                    evidence.serving = Some(instance.serving());
                    evidence.position = Some(self.position(now, id));
                }
                Kind::Cache => evidence.serving = Some(instance.serving()),
                Kind::Traffic => {
                    let weight = self.weights.get(&id.component).and_then(|w| w.get(&id.region)).copied().unwrap_or(0);
                    evidence.serving = Some(if weight > 0 { Serving::Writable } else { Serving::Replica });
                }
                Kind::Kubernetes => self.tell_of_workloads(id, &mut evidence),
                Kind::Storage | Kind::Http | Kind::Cloud | Kind::Holdings => {}
            }
        }
        (Finding::Alive, evidence, LATENCY)
    }

    /// Whether anything can be done there from here.
    fn reaches(&self, now: Duration, from: &Vantage, id: &InstanceId) -> bool {
        !self.network.is_parted(from, &id.region)
            && self.instances.get(id).is_some_and(|instance| instance.failure(now, 50).is_none())
    }

    /// The databases that accept the application's writes.
    pub(super) fn writable(&self, now: Duration) -> BTreeSet<InstanceId> {
        self.databases
            .iter()
            .filter(|id| {
                self.instances.get(*id).is_some_and(|instance| {
                    instance.takes_writes() && !matches!(instance.failure(now, 50), Some(Failure::At(..)))
                })
            })
            .cloned()
            .collect()
    }

    /// For how long it was really failing between `from` and `to`, whatever the daemon made of it.
    pub(super) fn failing_between(&self, id: &InstanceId, from: Duration, to: Duration) -> Duration {
        let Some(instance) = self.instances.get(id) else { return Duration::ZERO };
        let window = to.saturating_sub(from);
        let ends = instance.past.iter().skip(1).map(|(at, _)| *at).chain([to]);
        instance
            .past
            .iter()
            .zip(ends)
            .map(|((began, failing), ended)| {
                let (from, to) = (from.max(*began), to.min(ended));
                if from < to { failing.as_probed(window).between(from - *began, to - *began) } else { Duration::ZERO }
            })
            .sum()
    }

    /// Nothing is wrong with it, and nothing was for so long.
    pub(super) fn has_been_well(&self, id: &InstanceId, now: Duration, lasting: Duration) -> bool {
        self.instances.get(id).is_some_and(|instance| {
            instance.reach == Reach::Well
                && !instance.credential_refused
                && instance.past.last().is_none_or(|(at, _)| *at + lasting <= now)
        })
    }

    /// Since when it could not take over, whether it can be reached or not.
    pub(super) fn is_unready_since(&self, id: &InstanceId) -> Option<Duration> {
        self.instances.get(id)?.unready_since
    }

    /// A database or a cache that is a replica, or fenced. What its guardian does is not seen from outside.
    pub(super) fn takes_no_writes(&self, id: &InstanceId) -> bool {
        self.instances.get(id).is_some_and(|instance| {
            matches!(instance.kind, Kind::Database | Kind::Cache) && (!instance.writable || instance.fenced)
        })
    }

    /// It answers whoever stands beside it.
    pub(super) fn is_well(&self, now: Duration, id: &InstanceId) -> bool {
        let instance = self.instances.get(id);
        instance.is_some_and(|instance| !instance.credential_refused && instance.failure(now, 50).is_none())
    }

    /// Its guardian makes it refuse writes, or takes that back.
    pub(super) fn set_demoted(&mut self, now: Duration, id: &InstanceId, demoted: bool) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.demoted = demoted;
        if demoted {
            instance.log.falls_silent(now);
        } else if !instance.fenced && instance.failure(now, 50).is_none() {
            instance.log.is_written_again(now);
        }
    }

    pub(super) fn fenced(&self) -> BTreeSet<InstanceId> {
        self.instances.iter().filter(|(_, instance)| instance.fenced).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn weights(&self) -> &BTreeMap<ComponentId, BTreeMap<RegionId, u8>> {
        &self.weights
    }

    pub(super) fn replicas(&self) -> &BTreeMap<(InstanceId, String), u32> {
        &self.replicas
    }

    /// Published values, restarts, declarations, manifests.
    pub(super) fn texts(&self) -> &BTreeMap<(InstanceId, String), String> {
        &self.texts
    }
}

enum Failure {
    At(Layer, Option<String>),
    Unknown(String),
}

impl Instance {
    fn new(kind: Kind, writable: bool) -> Self {
        Self {
            kind,
            reach: Reach::Well,
            credential_refused: false,
            degraded: None,
            not_ready: None,
            lag: LAG,
            lagged: (LAG, Duration::ZERO),
            writable,
            fenced: false,
            demoted: false,
            unready_since: None,
            log: Log::default(),
            forked_at: None,
            gone_since: None,
            past: Vec::new(),
        }
    }

    fn befall(&mut self, now: Duration, condition: &Condition) {
        match condition {
            Condition::Answers => {
                let (writable, fenced, demoted) = (self.writable, self.fenced, self.demoted);
                if !fenced && !demoted {
                    self.log.is_written_again(now);
                }
                let forked_at = self.forked_at;
                let (log, past) = (std::mem::take(&mut self.log), std::mem::take(&mut self.past));
                *self = Self { writable, fenced, demoted, log, forked_at, past, ..Self::new(self.kind, writable) };
            }
            Condition::Fails { layer, percent, why } => {
                self.reach = Reach::Failing { layer: *layer, percent: *percent, why: why.clone() };
                if *percent == 100 {
                    self.log.falls_silent(now);
                    self.gone_since.get_or_insert(now);
                }
            }
            Condition::Flaps { every, lasting } => {
                self.reach = Reach::Flapping { from: now, every: *every, lasting: *lasting };
            }
            Condition::Unknown(why) => self.reach = Reach::Unknown(why.clone()),
            Condition::RefusesCredential => {
                self.credential_refused = true;
                self.unready_since.get_or_insert(now);
            }
            Condition::Degraded(why) => self.degraded = Some(why.clone()),
            Condition::NotReady(why) => {
                self.not_ready = Some(why.clone());
                self.unready_since.get_or_insert(now);
            }
            Condition::Lags(lag) => {
                self.lagged = (self.lag, now);
                self.lag = *lag;
            }
            // The cluster itself is well.
            Condition::Runs { .. } | Condition::Scaled { .. } | Condition::LosesZone(_) | Condition::Reschedules => {}
        }
        let failing = match &self.reach {
            Reach::Well | Reach::Unknown(_) => Failing::Share(0.0),
            Reach::Failing { percent, .. } => Failing::Share(f64::from(*percent) / 100.0),
            Reach::Flapping { every, lasting, .. } => Failing::Rounds { every: *every, lasting: *lasting },
        };
        if self.past.last().is_none_or(|(_, former)| *former != failing) {
            self.past.push((now, failing));
        }
    }

    fn failure(&self, now: Duration, dice: u8) -> Option<Failure> {
        match &self.reach {
            Reach::Well => None,
            Reach::Failing { layer, percent, why } => (dice < *percent).then(|| Failure::At(*layer, why.clone())),
            Reach::Flapping { from, every, lasting } => {
                let into = now.saturating_sub(*from).as_millis() % every.as_millis().max(1);
                (into < lasting.as_millis()).then_some(Failure::At(Layer::Tcp, None))
            }
            Reach::Unknown(why) => Some(Failure::Unknown(why.clone())),
        }
    }

    fn takes_writes(&self) -> bool {
        self.writable && !self.fenced && !self.demoted
    }

    fn serving(&self) -> Serving {
        if self.writable { Serving::Writable } else { Serving::Replica }
    }
}

/// As the document has it: three zones, named as AWS names them.
const ZONES: u32 = 3;
const NODES_OF_A_ZONE: u32 = 4;

fn zones_of(cluster: &InstanceId) -> Vec<String> {
    ["a", "b", "c"].map(|letter| [cluster.region.as_str(), letter].concat()).to_vec()
}

fn is_database(policy: &Policy, id: &InstanceId) -> bool {
    policy.components.get(&id.component).is_some_and(|component| component.kind == Kind::Database)
}

fn written(until: Duration) -> u64 {
    let millis = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    WAL_START.saturating_add(millis.saturating_mul(WAL_BYTES_PER_SECOND) / 1000)
}

fn usual(layer: Layer, timeout: Duration) -> String {
    match layer {
        Layer::Dns => "the name does not resolve".to_owned(),
        Layer::Tcp => format!("no connection within {timeout:?}"),
        Layer::Tls => "no TLS session".to_owned(),
        Layer::Greeting => "connected, and no greeting came".to_owned(),
        Layer::Query => "it answers with errors".to_owned(),
        Layer::Role => "it answers in recovery".to_owned(),
        Layer::Write => "it takes no writes".to_owned(),
    }
}

pub(super) fn weights_text(weights: &BTreeMap<RegionId, u8>) -> String {
    weights.iter().map(|(region, weight)| format!("{region} {weight}")).collect::<Vec<_>>().join(", ")
}
