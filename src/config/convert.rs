//! From the configuration to the policy: what the core has to know, without addresses and credentials.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::fingerprint;
use super::schema::{
    CacheProvider, Check, Config, DatabaseProvider, ProbeOverride, Probes, PrometheusCheck, Region, Traffic,
    TrafficProvider, Trigger,
};
use crate::domain::time::human;
use crate::domain::{
    CheckPolicy, ComponentId, ComponentPolicy, CouncilPolicy, DegradationPolicy, FailbackPolicy, GuardPolicy, HOLDINGS,
    HealingPolicy, Kind, Level, Policy, Probing, Protection, Publication, ReferencePolicy, RegionId, RegionalPolicy,
    RolePolicy, Row, UnfencedPromotion, ZonePolicy,
};

/// Where the control plane of Route 53 lives. "The Route 53 control plane … is hosted in us-east-1": AWS Fault Isolation
/// Boundaries, appendix B.
pub(super) const ROUTE53_CONTROL_PLANE: &str = "us-east-1";

/// The policy of a configuration that has been validated.
pub(super) fn policy_of(config: &Config) -> Policy {
    let levels = &config.levels;
    Policy {
        deployment: config.deployment.name.clone(),
        mode: config.deployment.mode,
        observer: config.observer.name.clone(),
        observer_region: config.observer.region.clone(),
        regions: config.regions.iter().map(|(id, region)| (id.clone(), region.role)).collect(),
        components: components_of(config),
        council: CouncilPolicy {
            observers: config.council.observers.iter().map(|(id, seat)| (id.clone(), seat.region.clone())).collect(),
            votes: config.council.votes,
            ballot_fresh: config.council.ballot_fresh,
            witness_hold: config.council.witness_hold,
            takeover_wait: config.ledger.call_timeout,
        },
        roles: config.api.role_listen.map(|_| RolePolicy {
            self_fence_after: config.api.self_fence_after,
            check_period: config.api.role_check_period,
        }),
        references: config
            .references
            .iter()
            .map(|(id, reference)| {
                let probing = probing(&config.probes, ProbeOverride::default());
                (id.clone(), ReferencePolicy { region: reference.region.clone(), probing })
            })
            .collect(),
        levels: BTreeMap::from([
            (Level::RegionalOutage, levels.regional_outage),
            (Level::DataCentreFailure, levels.data_centre_failure),
            (Level::ServiceDegradation, levels.service_degradation),
            (Level::ComponentFailure, levels.component_failure),
        ]),
        failing_ratio: config.probes.failing_ratio,
        recover_for: config.probes.recover_for,
        regional: RegionalPolicy { after: config.regional.after, critical_failing: config.regional.critical_failing },
        degradation: DegradationPolicy {
            after: config.degradation.after,
            ratio: config.degradation.ratio,
            reroute_percent: config.degradation.reroute_percent,
        },
        healing: HealingPolicy { enabled: config.healing.enabled, after: config.healing.after },
        zones: ZonePolicy { enabled: config.zones.enabled, after: config.zones.after },
        guards: GuardPolicy {
            cooldown: config.guards.cooldown,
            incidents_per_day: config.guards.incidents_per_day,
            approval_expires: config.guards.approval_expires,
            pause_max: config.guards.pause_max,
            look_fresh: config.guards.look_fresh,
            recheck: config.guards.recheck,
            unwind_once_per: config.guards.unwind_once_per,
        },
        deadlines: config.deadlines,
        checks: config.checks.iter().map(|(name, check)| check_of(name, check)).collect(),
        verify_every: config.verification.every,
        failback: FailbackPolicy {
            automatic: config.failback.automatic,
            stable_for: config.failback.stable_for,
            stages: if is_flipped(config) { Vec::new() } else { config.failback.stages.clone() },
            stage_for: config.failback.stage_for,
            interval: config.failback.interval,
        },
        failover_within: config.deployment.failover_within,
    }
}

/// Everybody is moved, or nobody.
fn is_flipped(config: &Config) -> bool {
    config.traffic.values().any(|traffic| traffic.provider == TrafficProvider::DataPlaneFlip)
}

/// The identity of a policy: observers whose hashes differ do not act together, and a plan keeps the policy it started
/// under. 64 hexadecimal digits.
///
/// It covers everything that changes a decision or a plan. Left out are the observer's name and region, which differ
/// between observers by design; and what differs between machines: the folders of manifests, and the fingerprints of
/// instances (observers may reach the same instance by different addresses). Rotating a password changes nothing here.
pub fn policy_hash(policy: &Policy) -> String {
    let mut policy = policy.clone();
    policy.observer = "".into();
    policy.observer_region = "".into();
    for component in policy.components.values_mut() {
        component.fingerprints.clear();
        for manifest in &mut component.manifests {
            if let Some(name) = Path::new(manifest.as_str()).file_name() {
                *manifest = name.to_string_lossy().into_owned();
            }
        }
    }
    // Canonical because every map in it is sorted and every struct is written in the order of its fields. It fails only
    // for keys that are not text, of which there are none; Debug would still tell policies apart.
    let text = serde_json::to_string(&policy).unwrap_or_else(|_| format!("{policy:?}"));
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// How a component is probed.
pub(super) fn probing(probes: &Probes, own: ProbeOverride) -> Probing {
    Probing { interval: own.interval.unwrap_or(probes.interval), timeout: own.timeout.unwrap_or(probes.timeout) }
}

/// A component of which nothing is known but how to look at it.
fn component(
    kind: Kind,
    fingerprints: BTreeMap<RegionId, String>,
    probing: Probing,
    row: Option<Row>,
) -> ComponentPolicy {
    ComponentPolicy {
        kind,
        critical: false,
        regions: fingerprints.keys().cloned().collect(),
        fingerprints,
        probing,
        row,
        independent_evidence: false,
        namespace: String::new(),
        workloads: vec![],
        manifests: vec![],
        after_failover: vec![],
        publications: vec![],
        unfenced_promotion: UnfencedPromotion::default(),
        fence: false,
        fences_ahead: false,
        demotion: None,
        rejoin: None,
        protection: None,
        replication: None,
        managed: false,
        control_plane: None,
        ttl: Duration::ZERO,
    }
}

/// A row whose action is not split in two: everything starts when the trigger fires.
fn row(trigger: Option<Trigger>) -> Option<Row> {
    trigger.map(|Trigger { after }| Row { after, confirm_for: after })
}

fn components_of(config: &Config) -> BTreeMap<ComponentId, ComponentPolicy> {
    let mut components = BTreeMap::new();
    for (id, cluster) in &config.clusters {
        let row = cluster.trigger.map(|trigger| Row {
            after: trigger.after,
            confirm_for: trigger.confirm_for.unwrap_or(config.matrix.confirm_for).max(trigger.after),
        });
        let probing = probing(&config.probes, cluster.probe);
        let fingerprints = cluster
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::cluster(config, region, cluster, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                critical: cluster.critical,
                namespace: cluster.namespace.clone(),
                workloads: cluster.workloads.clone(),
                manifests: cluster.manifests.iter().map(|path| path.display().to_string()).collect(),
                after_failover: cluster
                    .after_failover
                    .iter()
                    .flat_map(|(object, keys)| {
                        keys.iter().map(move |(key, value)| (object.clone(), key.clone(), value.clone()))
                    })
                    .collect(),
                ..component(Kind::Kubernetes, fingerprints, probing, row)
            },
        );
    }
    for (id, database) in &config.databases {
        let probing = probing(&config.probes, database.probe);
        let fingerprints = database
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::database(config, region, database, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                critical: database.critical,
                publications: sorted(&database.publish),
                unfenced_promotion: database.unfenced_promotion,
                fence: database.fence.is_some(),
                fences_ahead: database.fence.as_ref().is_some_and(|fence| {
                    database.provider == DatabaseProvider::Postgres || fence.security_group.is_some()
                }),
                demotion: database.demote.as_ref().map(|demote| demote.deadline),
                rejoin: database.rejoin.as_ref().map(|rejoin| rejoin.deadline),
                protection: database.protect.map(|protect| Protection {
                    multi_az: protect.multi_az,
                    backup_days: protect.backup_days,
                    deadline: protect.deadline,
                }),
                managed: database.provider == DatabaseProvider::Rds,
                ..component(Kind::Database, fingerprints, probing, row(database.trigger))
            },
        );
    }
    for (id, cache) in &config.caches {
        let probing = probing(&config.probes, cache.probe);
        let fingerprints = cache
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::cache(config, region, cache, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                critical: cache.critical,
                publications: sorted(&cache.publish),
                managed: cache.provider == CacheProvider::Elasticache,
                ..component(Kind::Cache, fingerprints, probing, row(cache.trigger))
            },
        );
    }
    for (id, bucket) in &config.buckets {
        let probing = probing(&config.probes, bucket.probe);
        let fingerprints = bucket
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::bucket(config, region, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                critical: bucket.critical,
                publications: sorted(&bucket.publish),
                replication: bucket.replicated_within,
                ..component(Kind::Storage, fingerprints, probing, row(bucket.trigger))
            },
        );
    }
    for (id, http) in &config.http {
        let probing = probing(&config.probes, http.probe);
        let fingerprints = http
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::http(config, region, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                critical: http.critical,
                independent_evidence: http.client_path,
                ..component(Kind::Http, fingerprints, probing, row(http.trigger))
            },
        );
    }
    for (id, cloud) in &config.clouds {
        let probing = probing(&config.probes, cloud.probe);
        let fingerprints = cloud
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::cloud(config, region, cloud, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                independent_evidence: true,
                managed: true,
                ..component(Kind::Cloud, fingerprints, probing, None)
            },
        );
    }
    for (id, traffic) in &config.traffic {
        let probing = probing(&config.probes, traffic.probe);
        let fingerprints = traffic
            .regions
            .iter()
            .map(|(region, place)| (region.clone(), fingerprint::traffic(config, region, traffic, place)))
            .collect();
        components.insert(
            id.clone(),
            ComponentPolicy {
                managed: true,
                control_plane: control_plane_of(config, traffic),
                ttl: traffic.ttl,
                ..component(Kind::Traffic, fingerprints, probing, None)
            },
        );
    }
    let held = |(region, settings): (&RegionId, &Region)| {
        (!settings.holdings.is_empty()).then(|| (region.clone(), fingerprint::holdings(config, region)))
    };
    let held: BTreeMap<_, _> = config.regions.iter().filter_map(held).collect();
    if !held.is_empty() {
        components.insert(HOLDINGS.into(), component(Kind::Holdings, held, HOLDINGS_PROBING, None));
    }
    components
}

/// Whole prefixes are listed, and what is in them is made daily: an hour late is early enough to say so.
const HOLDINGS_PROBING: Probing = Probing { interval: Duration::from_secs(600), timeout: Duration::from_secs(30) };

/// The region whose loss makes it impossible to change the records.
pub(super) fn control_plane_of(config: &Config, traffic: &Traffic) -> Option<RegionId> {
    match traffic.provider {
        TrafficProvider::DataPlaneFlip => None,
        TrafficProvider::Route53Records => {
            // Another endpoint is another control plane, and it is where the operator says it is.
            let own =
                config.regions.get(&traffic.control_region).is_some_and(|region| region.endpoints.route53.is_some());
            Some(if own { traffic.control_region.clone() } else { ROUTE53_CONTROL_PLANE.into() })
        }
    }
}

/// The order in which publications are written down has no meaning.
fn sorted(publications: &[Publication]) -> Vec<Publication> {
    let mut publications = publications.to_vec();
    publications.sort();
    publications
}

fn check_of(name: &str, check: &Check) -> CheckPolicy {
    let expects = if let Some(http) = &check.http {
        let method = http.method.as_deref().unwrap_or("GET");
        let body = http.body_contains.as_ref().map(|text| format!(" with `{text}`")).unwrap_or_default();
        let holds = http.answer.iter().map(|(pointer, value)| format!(", with `{value}` at {pointer}"));
        let holds: String = holds.collect();
        // Without the query: it may hold what nobody should read in a log.
        let (url, query) = http.url.split_once('?').map_or((http.url.as_str(), ""), |(url, _)| (url, "?…"));
        format!("{method} {url}{query} answers {}{body}{holds}", http.status)
    } else if let Some(PrometheusCheck { query, min, max, .. }) = &check.prometheus {
        let limits = [min.map(|min| format!("{min} or more")), max.map(|max| format!("{max} or less"))];
        format!("Prometheus answers `{query}` with {}", limits.into_iter().flatten().collect::<Vec<_>>().join(" and "))
    } else if let Some(sql) = &check.sql {
        let answers = format!("{} answers `{}`", sql.database, sql.query);
        match (&sql.equals, sql.min, sql.max, sql.newest_within) {
            (Some(value), ..) => format!("{answers} with {value}"),
            (None, Some(min), Some(max), _) => format!("{answers} with {min} to {max}"),
            (None, Some(min), None, _) => format!("{answers} with {min} or more"),
            (None, None, Some(max), _) => format!("{answers} with {max} or less"),
            (None, None, None, Some(within)) => format!("{answers} with a time at most {} ago", human(within)),
            (None, None, None, None) => answers,
        }
    } else if let Some(pods) = &check.pods {
        format!("at least {} pods of {} are running, and none is not", pods.running_min, pods.cluster)
    } else if let Some(workloads) = &check.workloads {
        format!("every workload of {} has the ready replicas that it needs", workloads.cluster)
    } else if let Some(canary) = &check.canary {
        format!("{} takes a write and gives it back", canary.component)
    } else if let Some(dns) = &check.dns {
        let named = dns.record.as_deref().or(dns.traffic.as_ref().map(ComponentId::as_str));
        format!("the name servers answer with the addresses of {}", named.unwrap_or_default())
    } else if let Some(command) = &check.command {
        // Without the arguments: they may hold what nobody should read in a log.
        format!("`{}` ends with 0", command.argv.first().map(String::as_str).unwrap_or_default())
    } else {
        String::new()
    };
    let (after, about) = (check.after.iter().cloned().collect(), check.about().cloned());
    CheckPolicy { name: name.to_owned(), expects, after, about }
}
