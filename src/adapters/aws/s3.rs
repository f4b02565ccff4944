//! S3: one key is listed, for probing and for the storage step; objects that switch traffic and objects that a
//! rebuild needs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ReplicationRuleStatus, ReplicationStatus};

use super::actuator::AwsActuator;
use super::classify::{Trouble, TroubleKind, call};
use super::clients::Aws;
use crate::config::schema::{Bucket, Holding};
use crate::domain::time::human;
use crate::domain::{Evidence, Finding, HOLDINGS, InstanceId, Layer, Observation, RegionId, Role};
use crate::ports::{Clock, Look, Probe, Setback};

/// Lists one key of the bucket (document: `aws s3 ls`), and looks at its replication.
///
/// A bucket that is not there is `Failing`: to the applications it is the same as a store that does not answer, and
/// the replica is the way out. A name that was mistyped in the configuration cannot cause a failover, because such a
/// bucket has never been seen alive.
pub struct S3Probe {
    aws: Arc<Aws>,
    clock: Arc<dyn Clock>,
    instance: InstanceId,
}

impl S3Probe {
    /// For one region's bucket of a storage component.
    pub fn new(aws: Arc<Aws>, clock: Arc<dyn Clock>, instance: InstanceId) -> Self {
        Self { aws, clock, instance }
    }
}

#[async_trait]
impl Probe for S3Probe {
    async fn observe(&self, began: Duration) -> Observation {
        let mut evidence = Evidence::default();
        let finding = match self.aws.bucket(&self.instance) {
            Ok((config, bucket)) => {
                let limit = config.probe.timeout.unwrap_or(self.aws.config.probes.timeout).mul_f64(0.9);
                let asked = tokio::time::Instant::now();
                match self.aws.list_one(&self.instance.region, bucket, limit).await {
                    Ok(key) => {
                        evidence.latency = Some(asked.elapsed());
                        if config.check_replication {
                            let left = limit.saturating_sub(asked.elapsed());
                            self.replication(bucket, key, left, &mut evidence).await;
                        }
                        Finding::Alive
                    }
                    Err(trouble) if trouble.kind == TroubleKind::NotFound => {
                        let why = format!("there is no bucket {bucket}: {trouble}");
                        Finding::Failing { layer: Layer::Query, why }
                    }
                    Err(trouble) => trouble.finding(&mut evidence),
                }
            }
            Err(why) => Finding::Unknown { why },
        };
        Observation { instance: self.instance.clone(), began, ended: self.clock.now().monotonic, finding, evidence }
    }
}

impl S3Probe {
    /// Whether what is written here arrives in the other region. Never more than a warning: the listing above decides.
    async fn replication(&self, bucket: &str, key: Option<String>, limit: Duration, evidence: &mut Evidence) {
        let region = &self.instance.region;
        match tokio::time::timeout(limit, self.aws.replication(region, bucket, key, limit)).await {
            Ok(Ok(Replication::Rules { enabled: 0, .. })) => {
                evidence.warnings.push(format!("all replication rules of {bucket} are disabled"));
            }
            Ok(Ok(Replication::Rules { failed: Some(key), .. })) => {
                evidence.warnings.push(format!("{bucket}/{key} could not be replicated"));
            }
            Ok(Ok(Replication::Rules { enabled, failed: None })) => {
                evidence.details.push(format!("replication_rules={enabled}"));
            }
            Ok(Ok(Replication::None)) => {
                // A replica needs no rule of its own; a source without one has no replica.
                let source = self.aws.config.regions.get(region).is_some_and(|region| region.role == Role::Primary);
                if source {
                    evidence.warnings.push(format!("{bucket} is not replicated anywhere"));
                } else {
                    evidence.details.push("replication_rules=0".to_owned());
                }
            }
            Ok(Err(trouble)) => evidence.warnings.push(trouble.to_string()),
            Err(_) => evidence.warnings.push(format!("the replication of {bucket} could not be read in time")),
        }
    }
}

/// What is known about a bucket's replication.
enum Replication {
    /// No configuration.
    None,
    /// So many rules in force; and the key that was looked at, if it failed to replicate.
    Rules { enabled: usize, failed: Option<String> },
}

impl Aws {
    pub(super) fn bucket(&self, instance: &InstanceId) -> Result<(&Bucket, &str), String> {
        let config = self.config.buckets.get(&instance.component);
        let found = config.and_then(|config| Some((config, config.regions.get(&instance.region)?.bucket.as_str())));
        found.ok_or_else(|| format!("the configuration has no bucket for {instance}"))
    }

    /// The first key, if there is any.
    async fn list_one(&self, region: &RegionId, bucket: &str, limit: Duration) -> Result<Option<String>, Trouble> {
        let name = format!("s3 ListObjectsV2 {bucket}");
        let (clients, limit) = self.clients(region, limit).await?;
        let answer = call(&name, limit, clients.s3.list_objects_v2().bucket(bucket).max_keys(1).send()).await?;
        // An answer that is well-formed XML of something else (a captive portal, a proxy) names no bucket.
        if answer.name().is_none_or(str::is_empty) {
            return Err(Trouble::unreadable(name, "the answer is no listing"));
        }
        Ok(answer.contents().first().and_then(|object| object.key()).map(str::to_owned))
    }

    async fn replication(
        &self,
        region: &RegionId,
        bucket: &str,
        key: Option<String>,
        limit: Duration,
    ) -> Result<Replication, Trouble> {
        let (clients, limit) = self.clients(region, limit).await?;
        let name = format!("s3 GetBucketReplication {bucket}");
        let answer = match call(&name, limit, clients.s3.get_bucket_replication().bucket(bucket).send()).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.kind == TroubleKind::NotFound => return Ok(Replication::None),
            Err(trouble) => return Err(trouble),
        };
        let rules = answer.replication_configuration().map(|config| config.rules()).unwrap_or_default();
        let enabled = rules.iter().filter(|rule| *rule.status() == ReplicationRuleStatus::Enabled).count();
        let Some(key) = key else { return Ok(Replication::Rules { enabled, failed: None }) };
        let name = format!("s3 HeadObject {bucket}");
        let head = match call(&name, limit, clients.s3.head_object().bucket(bucket).key(&key).send()).await {
            Ok(head) => head,
            // Deleted since it was listed.
            Err(trouble) if trouble.kind == TroubleKind::NotFound => {
                return Ok(Replication::Rules { enabled, failed: None });
            }
            Err(trouble) => return Err(trouble),
        };
        let failed = head.replication_status() == Some(&ReplicationStatus::Failed);
        Ok(Replication::Rules { enabled, failed: failed.then_some(key) })
    }

    /// The object's ETag, if it is there.
    pub(super) async fn object(
        &self,
        region: &RegionId,
        bucket: &str,
        key: &str,
        limit: Duration,
    ) -> Result<Option<String>, Trouble> {
        let name = format!("s3 HeadObject {bucket}/{key}");
        let (clients, limit) = self.clients(region, limit).await?;
        match call(&name, limit, clients.s3.head_object().bucket(bucket).key(key).send()).await {
            Ok(head) => Ok(Some(head.e_tag().unwrap_or_default().to_owned())),
            Err(trouble) if trouble.kind == TroubleKind::NotFound => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Writes the object unless it is there.
    pub(super) async fn create_object(
        &self,
        region: &RegionId,
        bucket: &str,
        key: &str,
        body: String,
        limit: Duration,
    ) -> Result<(), Trouble> {
        let name = format!("s3 PutObject {bucket}/{key}");
        let (clients, limit) = self.clients(region, limit).await?;
        let request = clients
            .s3
            .put_object()
            .bucket(bucket)
            .key(key)
            .if_none_match("*")
            .content_type("text/plain")
            .body(ByteStream::from(body.into_bytes()));
        call(&name, limit, request.send()).await.map(drop)
    }

    /// Deletes the object if it is the one that was seen. Stores that cannot do that conditionally delete it anyway:
    /// it is only ever there or not.
    pub(super) async fn delete_object(
        &self,
        region: &RegionId,
        bucket: &str,
        key: &str,
        etag: &str,
        limit: Duration,
    ) -> Result<(), Trouble> {
        let name = format!("s3 DeleteObject {bucket}/{key}");
        let (clients, limit) = self.clients(region, limit).await?;
        let request = clients.s3.delete_object().bucket(bucket).key(key);
        let conditional = request.clone().set_if_match((!etag.is_empty()).then(|| etag.to_owned()));
        match call(&name, limit, conditional.send()).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.why.starts_with("NotImplemented") => {
                call(&name, limit, request.send()).await.map(drop)
            }
            Err(trouble) => Err(trouble),
        }
    }
}

impl AwsActuator {
    pub(super) async fn look_storage(&self, storage: &InstanceId) -> Result<Look, Setback> {
        let summary = self.verify_storage(storage).await?;
        Ok(Look { satisfied: true, summary, previous: serde_json::Value::Null })
    }

    pub(super) async fn verify_storage(&self, storage: &InstanceId) -> Result<String, Setback> {
        let (config, bucket) = self.aws.bucket(storage).map_err(Setback::Refused)?;
        let limit = self.aws.call_limit();
        let key = self.aws.list_one(&storage.region, bucket, limit).await.map_err(Trouble::setback)?;
        let holds = if key.is_some() { "lists, and holds objects" } else { "lists, and is empty" };
        if !config.check_replication {
            return Ok(format!("{bucket} {holds}"));
        }
        let replication = match self.aws.replication(&storage.region, bucket, key, limit).await {
            Ok(Replication::None) => "replicates nowhere from here".to_owned(),
            Ok(Replication::Rules { enabled, failed: None }) => format!("{enabled} replication rules in force"),
            Ok(Replication::Rules { failed: Some(key), .. }) => format!("{key} could not be replicated"),
            Err(trouble) => format!("its replication is not known: {trouble}"),
        };
        Ok(format!("{bucket} {holds}; {replication}"))
    }
}

/// Whether the tertiary region holds what a rebuild needs: templates, images, backups (document: cold standby).
///
/// Lists whole prefixes to find the newest object, so it belongs on an interval of minutes.
pub struct HoldingsProbe {
    aws: Arc<Aws>,
    clock: Arc<dyn Clock>,
    instance: InstanceId,
    timeout: Duration,
}

impl HoldingsProbe {
    /// The holdings of `region`, reported as the instance `holdings@region`.
    pub fn new(aws: Arc<Aws>, clock: Arc<dyn Clock>, region: RegionId, timeout: Duration) -> Self {
        Self { aws, clock, instance: InstanceId { component: HOLDINGS.into(), region }, timeout }
    }
}

#[async_trait]
impl Probe for HoldingsProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let limit = self.timeout.mul_f64(0.9);
        let asked = tokio::time::Instant::now();
        let mut evidence = Evidence::default();
        let mut finding = Finding::Alive;
        let holdings = self.aws.config.regions.get(&self.instance.region).map(|region| &region.holdings);
        for (name, holding) in holdings.into_iter().flatten() {
            let left = limit.saturating_sub(asked.elapsed());
            match self.aws.newest(&self.instance.region, holding, left).await {
                Ok(newest) => judge(name, holding, &newest, &mut evidence),
                Err(trouble) if trouble.kind == TroubleKind::NotFound => {
                    evidence.not_ready.push(format!("{name}: there is no bucket {}", holding.bucket));
                }
                Err(trouble) => {
                    let found = trouble.finding(&mut evidence);
                    if finding == Finding::Alive {
                        finding = found;
                    }
                }
            }
        }
        evidence.latency = Some(asked.elapsed());
        Observation { instance: self.instance.clone(), began, ended: self.clock.now().monotonic, finding, evidence }
    }
}

/// What lies under a prefix.
struct Newest {
    objects: usize,
    /// Age of the newest one; none where the store names no time.
    age: Option<Duration>,
    /// There are more objects than were looked at.
    truncated: bool,
}

/// So many pages of 1,000 keys are looked at.
const PAGES_MAX: usize = 20;

impl Aws {
    async fn newest(&self, region: &RegionId, holding: &Holding, limit: Duration) -> Result<Newest, Trouble> {
        let name = format!("s3 ListObjectsV2 {}/{}", holding.bucket, holding.prefix);
        let (clients, limit) = self.clients(region, limit).await?;
        let started = tokio::time::Instant::now();
        let mut found = Newest { objects: 0, age: None, truncated: false };
        let mut token = None;
        for page in 1..=PAGES_MAX {
            let request = clients.s3.list_objects_v2().bucket(&holding.bucket).prefix(&holding.prefix);
            let left = limit.saturating_sub(started.elapsed());
            let answer = call(&name, left, request.set_continuation_token(token.take()).send()).await?;
            for object in answer.contents() {
                // Folder markers are no backups.
                if object.size() == Some(0) {
                    continue;
                }
                found.objects += 1;
                let age = object
                    .last_modified()
                    .and_then(|time| SystemTime::try_from(*time).ok())
                    .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
                found.age = match (found.age, age) {
                    (Some(known), Some(age)) => Some(known.min(age)),
                    (known, age) => known.or(age),
                };
            }
            token = answer.next_continuation_token().map(str::to_owned);
            // Without an age to judge, one object is enough.
            if token.is_none() || (holding.newest_within.is_none() && found.objects > 0) {
                break;
            }
            found.truncated = page == PAGES_MAX;
        }
        Ok(found)
    }
}

fn judge(name: &str, holding: &Holding, found: &Newest, evidence: &mut Evidence) {
    let place = format!("{}/{}", holding.bucket, holding.prefix);
    if found.objects == 0 {
        evidence.not_ready.push(format!("{name}: nothing in {place}"));
        return;
    }
    let Some(limit) = holding.newest_within else {
        evidence.details.push(format!("{name}=present"));
        return;
    };
    match found.age {
        Some(age) if age <= limit => evidence.details.push(format!("{name}={} old", human(age))),
        Some(_) | None if found.truncated => evidence
            .warnings
            .push(format!("{name}: {place} holds too many objects to find the newest; give a narrower prefix")),
        Some(age) => evidence.not_ready.push(format!(
            "{name}: the newest object in {place} is {} old, more than {}",
            human(age),
            human(limit)
        )),
        None => evidence.warnings.push(format!("{name}: the store does not say how old {place} is")),
    }
}
