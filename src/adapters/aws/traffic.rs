//! Who answers the clients: the weights of a Route 53 record, or the objects that its health checks watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_route53::types::{ChangeBatch, ChangeStatus, RrType};
use serde_json::Value;

use super::actuator::{AwsActuator, recall, remember};
use super::classify::{Trouble, TroubleKind, call};
use super::clients::Aws;
use super::records::{Edit, RecordSet, Share, Wanted, World, marker_name, plain};
use crate::config::schema::{Traffic, TrafficProvider};
use crate::domain::{ComponentId, Evidence, Finding, InstanceId, Observation, RegionId, Serving};
use crate::ports::{Clock, Look, Permit, Probe, Setback};

/// What a traffic step wants, with the component's settings.
pub(super) struct Goal<'a> {
    pub(super) component: &'a ComponentId,
    pub(super) config: &'a Traffic,
    pub(super) wanted: Wanted,
}

impl<'a> Goal<'a> {
    pub(super) fn new(
        component: &'a ComponentId,
        config: &'a Traffic,
        weights: &BTreeMap<RegionId, u8>,
    ) -> Result<Self, Setback> {
        if weights.values().all(|weight| *weight == 0) {
            return Err(Setback::Refused(format!(
                "all weights of {component} are 0, which makes Route 53 answer with every region"
            )));
        }
        if let Some(unknown) = weights.keys().find(|region| !config.regions.contains_key(region)) {
            return Err(Setback::Refused(format!("{component} has no region {unknown}")));
        }
        let mut wanted = unweighted(config);
        for (region, share) in &mut wanted.shares {
            let weight = weights
                .get(region)
                .ok_or_else(|| Setback::Refused(format!("no weight is given for {component} in {region}")))?;
            share.weight = i64::from(*weight);
        }
        Ok(Self { component, config, wanted })
    }
}

/// The record as configured, with all weights 0.
fn unweighted(config: &Traffic) -> Wanted {
    let shares = config.regions.iter().map(|(region, at)| {
        let share = Share { set_identifier: at.set_identifier.clone(), value: at.value.clone(), weight: 0 };
        (region.clone(), share)
    });
    Wanted {
        record: config.record.trim_end_matches('.').to_owned(),
        ttl: i64::try_from(config.ttl.as_secs()).unwrap_or(i64::MAX),
        shares: shares.collect(),
    }
}

/// The changes that were sent by this daemon and may still be spreading, by the key of their step. After a restart
/// there are none, and verification goes by the records and the name servers.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<VecDeque<(String, String)>>);

impl Changes {
    /// Older ones have long spread.
    const KEPT: usize = 64;

    fn remember(&self, key: &str, change: &str) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.retain(|(known, _)| known != key);
        changes.push_back((key.to_owned(), change.to_owned()));
        while changes.len() > Self::KEPT {
            changes.pop_front();
        }
    }

    fn of(&self, key: &str) -> Option<String> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().find(|(known, _)| known == key).map(|(_, change)| change.clone())
    }
}

impl Aws {
    /// The record's address sets and the marker, complete, or trouble.
    async fn records(&self, config: &Traffic, limit: Duration) -> Result<World, Trouble> {
        let addresses = self.addresses(config, limit);
        let marker = marker_name(&config.record);
        let markers = self.record_sets(config, &marker, RrType::Txt, limit);
        let (addresses, markers) = futures::future::try_join(addresses, markers).await?;
        Ok(World { addresses, marker: markers.into_iter().next() })
    }

    async fn addresses(&self, config: &Traffic, limit: Duration) -> Result<Vec<RecordSet>, Trouble> {
        self.record_sets(config, config.record.trim_end_matches('.'), RrType::A, limit).await
    }

    async fn record_sets(
        &self,
        config: &Traffic,
        record: &str,
        kind: RrType,
        limit: Duration,
    ) -> Result<Vec<RecordSet>, Trouble> {
        let name = format!("route53 ListResourceRecordSets {record}");
        let started = tokio::time::Instant::now();
        let (clients, limit) = self.clients(&config.control_region, limit).await?;
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        // A name and type has at most 100 weighted sets, and a page holds that many and more.
        for _ in 0..4 {
            let request = clients
                .route53
                .list_resource_record_sets()
                .hosted_zone_id(&config.zone_id)
                .start_record_name(record)
                .start_record_type(kind.clone())
                .set_start_record_identifier(from.take());
            let left = limit.saturating_sub(started.elapsed());
            let page = call(&name, left, request.send()).await?;
            let here = page
                .resource_record_sets()
                .iter()
                .filter(|set| plain(&set.name) == plain(record) && set.r#type == kind);
            found.extend(here.map(RecordSet::from_sdk));
            let more = page.is_truncated()
                && page.next_record_name().is_some_and(|next| plain(next) == plain(record))
                && page.next_record_type() == Some(&kind);
            match page.next_record_identifier() {
                Some(next) if more => from = Some(next.to_owned()),
                Some(_) | None => return Ok(found),
            }
        }
        Err(Trouble::unreadable(name, "the listing has no end"))
    }
}

impl AwsActuator {
    pub(super) async fn look_traffic(&self, goal: &Goal<'_>) -> Result<Look, Setback> {
        match goal.config.provider {
            TrafficProvider::Route53Records => self.look_records(goal).await,
            TrafficProvider::DataPlaneFlip => self.look_flip(goal).await,
        }
    }

    pub(super) async fn move_traffic(
        &self,
        key: &str,
        goal: &Goal<'_>,
        look: &Look,
        permit: &Permit,
    ) -> Result<(), Setback> {
        match goal.config.provider {
            TrafficProvider::Route53Records => {
                let seen: World = recall(&look.previous)?;
                let edits = seen.edits(&goal.wanted, key)?;
                self.change_records(key, goal, edits, permit).await
            }
            TrafficProvider::DataPlaneFlip => self.flip(key, goal, look, permit).await,
        }
    }

    pub(super) async fn verify_traffic(&self, key: &str, goal: &Goal<'_>) -> Result<String, Setback> {
        let seen = match goal.config.provider {
            TrafficProvider::Route53Records => self.verify_records(key, goal).await?,
            TrafficProvider::DataPlaneFlip => self.verify_flip(goal).await?,
        };
        let answers = self.verify_answers(goal).await?;
        Ok(format!("{seen}; {answers}"))
    }

    pub(super) async fn restore_traffic(
        &self,
        key: &str,
        goal: &Goal<'_>,
        previous: &Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        match goal.config.provider {
            TrafficProvider::Route53Records => self.restore_records(key, goal, previous, permit).await,
            TrafficProvider::DataPlaneFlip => self.flip_back(key, goal, previous, permit).await,
        }
    }

    async fn look_records(&self, goal: &Goal<'_>) -> Result<Look, Setback> {
        let world = self.world(goal).await?;
        // Better now than at the commit point.
        if let Some(objection) = world.objection(&goal.wanted) {
            return Err(Setback::Refused(objection));
        }
        Ok(Look {
            satisfied: world.is(&goal.wanted),
            summary: format!("{}: {}", goal.wanted.record, world.summary(&goal.wanted)),
            previous: remember(&world)?,
        })
    }

    async fn verify_records(&self, key: &str, goal: &Goal<'_>) -> Result<String, Setback> {
        let world = self.world(goal).await?;
        let summary = format!("{}: {}", goal.wanted.record, world.summary(&goal.wanted));
        if !world.is(&goal.wanted) {
            return Err(Setback::NotYet(summary));
        }
        let Some(change) = self.changes.of(key) else {
            return Ok(format!("{summary}; no change is known to be under way"));
        };
        let limit = self.aws.call_limit();
        let (clients, limit) = self.aws.clients(&goal.config.control_region, limit).await.map_err(Trouble::setback)?;
        let name = format!("route53 GetChange {change}");
        let answer = match call(&name, limit, clients.route53.get_change().id(&change).send()).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.kind == TroubleKind::NotFound => {
                return Ok(format!("{summary}; Route 53 has forgotten the change"));
            }
            Err(trouble) => return Err(trouble.setback()),
        };
        match answer.change_info().map(|info| info.status()) {
            Some(ChangeStatus::Insync) => Ok(format!("{summary}; in sync on all Route 53 servers")),
            Some(_) => Err(Setback::NotYet(format!("{summary}; spreading to the Route 53 servers"))),
            None => Err(Trouble::unreadable(name, "the answer holds no status").setback()),
        }
    }

    async fn restore_records(
        &self,
        key: &str,
        goal: &Goal<'_>,
        previous: &Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        let former: World = recall(previous)?;
        let world = self.world(goal).await?;
        let edits = world.edits_back(&former, &goal.wanted);
        let summary = format!("{}: {}", goal.wanted.record, former.summary(&goal.wanted));
        if edits.is_empty() {
            return Ok(format!("{summary}, as before"));
        }
        let ours = super::records::marker(&goal.wanted.record, key, goal.wanted.ttl).values;
        if world.marker.as_ref().is_none_or(|marker| marker.values != ours) {
            let by = world.marker.map_or_else(|| "somebody".to_owned(), |marker| marker.values.join(" "));
            let record = &goal.wanted.record;
            return Err(Setback::Refused(format!("{record} was changed since by {by}: it is left as it is")));
        }
        self.change_records(key, goal, edits, permit).await?;
        Ok(format!("{summary} again"))
    }

    async fn change_records(
        &self,
        key: &str,
        goal: &Goal<'_>,
        edits: Vec<Edit>,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let changes = edits.iter().map(Edit::to_sdk).collect::<Result<Vec<_>, _>>()?;
        let batch = ChangeBatch::builder()
            .set_changes(Some(changes))
            .comment(format!("failoverd {key}"))
            .build()
            .map_err(|error| Setback::Refused(error.to_string()))?;
        let (clients, _) =
            self.aws.clients(&goal.config.control_region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let name = format!("route53 ChangeResourceRecordSets {}", goal.wanted.record);
        let request =
            clients.route53.change_resource_record_sets().hosted_zone_id(&goal.config.zone_id).change_batch(batch);
        match call(&name, limit, request.send()).await {
            Ok(answer) => {
                if let Some(info) = answer.change_info() {
                    self.changes.remember(key, info.id());
                }
                Ok(())
            }
            Err(trouble) if is_overtaken(&trouble) => {
                Err(Setback::Transient(format!("{trouble}: the records changed since they were seen: look again")))
            }
            Err(trouble) => Err(trouble.setback()),
        }
    }

    async fn world(&self, goal: &Goal<'_>) -> Result<World, Setback> {
        self.aws.records(goal.config, self.aws.call_limit()).await.map_err(Trouble::setback)
    }
}

/// `InvalidChangeBatch` is one code for two things: the records are not what we saw, or the batch is wrong in itself.
/// Only the text tells.
fn is_overtaken(trouble: &Trouble) -> bool {
    trouble.why.contains("InvalidChangeBatch")
        && ["not found", "already exists", "do not match the current values"]
            .iter()
            .any(|text| trouble.why.contains(text))
}

/// Looks at the records: which region has a weight above zero. Failing when Route 53 cannot be asked, because then
/// traffic could not be moved either.
pub struct TrafficProbe {
    aws: Arc<Aws>,
    clock: Arc<dyn Clock>,
    instance: InstanceId,
}

impl TrafficProbe {
    /// For one region of a traffic component.
    pub fn new(aws: Arc<Aws>, clock: Arc<dyn Clock>, instance: InstanceId) -> Self {
        Self { aws, clock, instance }
    }

    async fn ask(&self, evidence: &mut Evidence) -> Finding {
        let Some(config) = self.aws.config.traffic.get(&self.instance.component) else {
            return Finding::Unknown { why: format!("the configuration has no traffic for {}", self.instance) };
        };
        let limit = config.probe.timeout.unwrap_or(self.aws.config.probes.timeout).mul_f64(0.9);
        let asked = tokio::time::Instant::now();
        let finding = match config.provider {
            TrafficProvider::Route53Records => self.ask_records(config, limit, evidence).await,
            TrafficProvider::DataPlaneFlip => self.ask_flip(config, limit, evidence).await,
        };
        evidence.latency = Some(asked.elapsed());
        finding.unwrap_or_else(|trouble| trouble.finding(evidence))
    }

    async fn ask_records(
        &self,
        config: &Traffic,
        limit: Duration,
        evidence: &mut Evidence,
    ) -> Result<Finding, Trouble> {
        // Route 53 allows five requests a second for a whole account: the marker is left to the steps.
        let world = World { addresses: self.aws.addresses(config, limit).await?, marker: None };
        let wanted = unweighted(config);
        if let Some(objection) = world.objection(&wanted) {
            evidence.not_ready.push(objection);
        }
        for set in world.foreign(&wanted).filter(|set| set.weight.unwrap_or_default() > 0) {
            let name = set.set_identifier.as_deref().unwrap_or("a set without identifier");
            evidence.warnings.push(format!("{name} of {} gets traffic and is not configured", config.record));
        }
        for (region, share) in &wanted.shares {
            match world.of(share) {
                Some(set) => {
                    let weight = set.weight.unwrap_or_default();
                    evidence.details.push(format!("weight.{region}={weight}"));
                    if *region == self.instance.region {
                        evidence.serving = Some(if weight > 0 { Serving::Writable } else { Serving::Replica });
                    }
                }
                None => evidence.details.push(format!("weight.{region}=none")),
            }
        }
        Ok(Finding::Alive)
    }

    async fn ask_flip(&self, config: &Traffic, limit: Duration, evidence: &mut Evidence) -> Result<Finding, Trouble> {
        let Some(flip) = config.regions.get(&self.instance.region).and_then(|at| at.flip.as_ref()) else {
            let why = format!("no flip object is configured for {}", self.instance);
            return Ok(Finding::Unknown { why });
        };
        let present = self.aws.object(&flip.region, &flip.bucket, &flip.key, limit).await?.is_some();
        evidence.details.push(format!("{}/{}={}", flip.bucket, flip.key, if present { "present" } else { "absent" }));
        evidence.serving = Some(if present { Serving::Writable } else { Serving::Replica });
        Ok(Finding::Alive)
    }
}

#[async_trait]
impl Probe for TrafficProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let mut evidence = Evidence::default();
        let finding = self.ask(&mut evidence).await;
        Observation { instance: self.instance.clone(), began, ended: self.clock.now().monotonic, finding, evidence }
    }
}
