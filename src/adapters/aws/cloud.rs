//! The region's own view of itself: how many instances run and how the databases are (document: Assessment & Triage).
//! Evidence for a regional outage, never a trigger.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::clients::Aws;
use crate::domain::{Evidence, Finding, InstanceId, Layer, Observation};
use crate::ports::{Clock, Probe};

/// Asks EC2 and RDS of one region about that region.
pub struct CloudProbe {
    aws: Arc<Aws>,
    clock: Arc<dyn Clock>,
    instance: InstanceId,
}

impl CloudProbe {
    /// For one region of a cloud component.
    pub fn new(aws: Arc<Aws>, clock: Arc<dyn Clock>, instance: InstanceId) -> Self {
        Self { aws, clock, instance }
    }

    async fn assess(&self, evidence: &mut Evidence) -> Finding {
        let found = self.aws.config.clouds.get(&self.instance.component);
        let Some((config, region)) = found.and_then(|c| Some((c, c.regions.get(&self.instance.region)?))) else {
            return Finding::Unknown { why: format!("the configuration has no cloud for {}", self.instance) };
        };
        let limit = config.probe.timeout.unwrap_or(self.aws.config.probes.timeout).mul_f64(0.9);
        let min = config.running_instances_min;
        let asked = tokio::time::Instant::now();
        let by_zone = self.aws.config.zones.enabled;
        let enough = if by_zone { 0 } else { min };
        let instances = self.aws.running_instances(&self.instance.region, enough, limit);
        let databases = futures::future::join_all(region.databases.iter().map(|identifier| async move {
            (identifier, self.aws.describe_database(&self.instance.region, identifier, limit).await)
        }));
        let (instances, databases) = futures::future::join(instances, databases).await;
        evidence.latency = Some(asked.elapsed());

        let mut ailing = Vec::new();
        for (identifier, answer) in databases {
            match answer {
                Ok(found) => {
                    evidence.details.push(format!("{identifier}={}", found.status));
                    if let Some(zone) = found.zone.as_ref().filter(|_| by_zone) {
                        let alone = if found.multi_az { "Multi-AZ" } else { "alone" };
                        evidence.details.push(format!("{identifier}.zone={zone}, {alone}"));
                    }
                    if found.is_ailing() {
                        ailing.push(format!("{identifier} is {}", found.status));
                    }
                }
                // Whether the region fails is EC2's answer alone; what RDS does not say is for people.
                Err(trouble) => evidence.warnings.push(trouble.to_string()),
            }
        }
        if !ailing.is_empty() {
            evidence.degraded = Some(ailing.join("; "));
        }
        match instances {
            Ok(found) => {
                let running = found.instances;
                evidence.details.push(format!("running_instances={running}"));
                for (zone, count) in found.zones.iter().filter(|_| by_zone) {
                    evidence.details.push(format!("running_instances.{zone}={count}"));
                }
                if running < min {
                    let why = format!("{running} instances are running, fewer than {min}");
                    Finding::Failing { layer: Layer::Query, why }
                } else {
                    Finding::Alive
                }
            }
            Err(trouble) => trouble.finding(evidence),
        }
    }
}

#[async_trait]
impl Probe for CloudProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let mut evidence = Evidence::default();
        let finding = self.assess(&mut evidence).await;
        Observation { instance: self.instance.clone(), began, ended: self.clock.now().monotonic, finding, evidence }
    }
}
