//! AWS adapters against the AWS double and real stores: what all these tests share, and how probes judge.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use failoverd::adapters::aws::{Aws, AwsActuator, CloudProbe, Proofs, TrafficProbe};
use failoverd::adapters::{CatchUp, Endpoint, Endpoints, Readiness, WriteProof};
use failoverd::config::Config;
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{Finding, InstanceId, Layer, Observation, Serving};
use failoverd::plan::Action;
use failoverd::ports::{Actuator, Clock, Look, Permit, Probe, Setback};
use serde_json::{Value, json};

use crate::lab::Lab;

pub(crate) const EAST: &str = "us-east-1";
pub(crate) const WEST: &str = "us-west-2";

/// A configuration for the lab: `more` is appended and may hold further tables.
pub(crate) fn configuration(lab: &Lab, more: &str) -> Arc<Config> {
    configuration_at(lab, lab.text("/aws/endpoint"), "labkey", more)
}

/// The same with another AWS endpoint or access key.
pub(crate) fn configuration_at(lab: &Lab, endpoint: &str, access_key: &str, more: &str) -> Arc<Config> {
    let mut text = format!(
        "[observer]\nregion = \"eu-west-1\"\n\
         [ledger]\npath = \"{0}/ledger\"\nstop_file = \"{0}/STOP\"\npermit = \"8s\"\ncall_timeout = \"3s\"\n\
         [probes]\ntimeout = \"2s\"\n\
         [references.a]\naddress = \"127.0.0.1:1\"\n[references.b]\naddress = \"127.0.0.1:2\"\n",
        lab.folder().display()
    );
    for (region, role) in [(EAST, "primary"), (WEST, "secondary")] {
        let store = lab.json.pointer(&format!("/regions/{region}/s3/endpoint")).and_then(Value::as_str);
        let s3 = store.unwrap_or(endpoint);
        write!(
            text,
            "[regions.{region}]\nrole = \"{role}\"\n\
             credentials = {{ access_key = \"{access_key}\", secret_key = \"labsecret\" }}\n\
             endpoints = {{ ec2 = \"{endpoint}\", rds = \"{endpoint}\", elasticache = \"{endpoint}\", \
             route53 = \"{endpoint}\", s3 = \"{s3}\" }}\n"
        )
        .unwrap();
    }
    text.push_str(more);
    let path = lab.folder().join("failoverd.toml");
    std::fs::write(&path, &text).unwrap();
    let loaded = failoverd::config::load(&[path], &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Arc::new(loaded.config)
}

/// An actuator whose proofs are real writes and real positions.
pub(crate) struct Hands {
    pub(crate) actuator: AwsActuator,
}

impl Hands {
    pub(crate) fn new(lab: &Lab, config: &Arc<Config>) -> Self {
        let servers = Arc::new(Servers::of(lab));
        let proofs = Proofs {
            database: Arc::clone(&servers) as Arc<dyn WriteProof>,
            cache: Arc::clone(&servers) as Arc<dyn WriteProof>,
            catch_up: servers,
        };
        let actuator = AwsActuator::new(Arc::new(Aws::new(Arc::clone(config))), Arc::new(SystemClock), proofs);
        Self { actuator }
    }

    pub(crate) async fn look(&self, action: &Action) -> Look {
        // As the executor does: a busy machine makes the double's first answers slow.
        for _ in 0..10 {
            match self.actuator.look(KEY, action).await {
                Err(Setback::Transient(why)) if why.contains("no answer within") => {}
                seen => return seen.unwrap_or_else(|setback| panic!("look: {setback}")),
            }
        }
        panic!("look: ten times no answer")
    }

    pub(crate) async fn act(&self, action: &Action, look: &Look) -> Result<(), Setback> {
        self.actuator.act(KEY, action, look, &permit()).await
    }

    pub(crate) async fn undo(&self, action: &Action, previous: &Value) -> Result<String, Setback> {
        self.actuator.undo(KEY, action, previous, &permit()).await
    }

    /// What an executor does: look, act where needed, again after a transient setback; then verify until it holds.
    pub(crate) async fn perform(&self, action: &Action) -> Result<String, Setback> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let attempt = async {
                let look = self.actuator.look(KEY, action).await?;
                if look.satisfied { Ok(()) } else { self.act(action, &look).await }
            };
            match attempt.await {
                Ok(()) => return self.verified(action).await,
                Err(Setback::Transient(why)) if Instant::now() > until => return Err(Setback::Transient(why)),
                Err(Setback::Transient(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(other) => return Err(other),
            }
        }
    }

    /// Polls the verification.
    pub(crate) async fn verified(&self, action: &Action) -> Result<String, Setback> {
        self.verified_as(KEY, action).await
    }

    /// The same for another step.
    pub(crate) async fn verified_as(&self, key: &str, action: &Action) -> Result<String, Setback> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.actuator.verify(key, action).await {
                Err(Setback::NotYet(_) | Setback::Transient(_)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                done => return done,
            }
        }
    }
}

pub(crate) const KEY: &str = "plan-1/step-1";

pub(crate) fn permit() -> Permit {
    Permit::for_tests(SystemClock.now().monotonic + Duration::from_secs(8))
}

/// Proofs by the servers themselves.
struct Servers {
    dsn: BTreeMap<String, String>,
}

impl Servers {
    fn of(lab: &Lab) -> Self {
        let dsn = [EAST, WEST].into_iter().filter_map(|region| {
            let dsn = lab.json.pointer(&format!("/regions/{region}/postgres/dsn/postgres"))?;
            Some((region.to_owned(), dsn.as_str()?.to_owned()))
        });
        Self { dsn: dsn.collect() }
    }

    async fn sql(&self, region: &str, query: &str) -> Result<String, Setback> {
        let (client, connection) = tokio_postgres::connect(&self.dsn[region], tokio_postgres::NoTls)
            .await
            .map_err(|error| Setback::Transient(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let row = client.query_one(query, &[]).await;
        connection.abort();
        let row = row.map_err(|error| match error.as_db_error() {
            Some(refusal) => Setback::NotYet(refusal.message().to_owned()),
            None => Setback::Transient(error.to_string()),
        })?;
        Ok(row.get(0))
    }
}

#[async_trait]
impl WriteProof for Servers {
    async fn prove_writable(&self, instance: &InstanceId, at: &Endpoint) -> Result<String, Setback> {
        if self.dsn.contains_key(instance.region.as_str()) && instance.component.as_str() == "database" {
            assert!(self.dsn[instance.region.as_str()].contains(&format!("port={} ", at.port)), "{at:?}");
            let write = "SELECT pg_logical_emit_message(true, 'failoverd', 'proof')::text";
            return self.sql(instance.region.as_str(), write).await.map(|lsn| format!("a write reached {lsn}"));
        }
        let client = redis::Client::open(format!("redis://{}:{}/", at.host, at.port)).unwrap();
        let mut connection =
            client.get_multiplexed_async_connection().await.map_err(|error| Setback::Transient(error.to_string()))?;
        match redis::cmd("SET").arg("failoverd:proof").arg("1").query_async::<String>(&mut connection).await {
            Ok(_) => Ok("a write was accepted".to_owned()),
            Err(error) => Err(Setback::NotYet(error.to_string())),
        }
    }
}

#[async_trait]
impl CatchUp for Servers {
    async fn follows(&self, standby: &InstanceId, _source: &InstanceId) -> Result<String, Setback> {
        let query = "SELECT (pg_is_in_recovery() AND EXISTS \
            (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'))::text";
        match self.sql(standby.region.as_str(), query).await?.as_str() {
            "true" => Ok(format!("{standby} streams")),
            _ => Err(Setback::NotYet(format!("{standby} does not stream"))),
        }
    }

    async fn caught_up(&self, standby: &InstanceId, source: &InstanceId) -> Result<String, Setback> {
        let source = self.sql(source.region.as_str(), "SELECT pg_current_wal_lsn()::text").await?;
        let standby_query = format!("SELECT (coalesce(pg_last_wal_replay_lsn(), '0/0') >= '{source}')::text");
        match self.sql(standby.region.as_str(), &standby_query).await?.as_str() {
            "true" => Ok(format!("everything up to {source} is there")),
            _ => Err(Setback::NotYet(format!("not everything up to {source} is there"))),
        }
    }
}

async fn observe(probe: &dyn Probe) -> Observation {
    let observation = probe.observe(SystemClock.now().monotonic).await;
    let took = observation.ended - observation.began;
    assert!(took < Duration::from_secs(2), "a probe outlived its own timeout: {took:?}");
    observation
}

const TRAFFIC: &str = "[traffic.traffic]\nzone_id = \"Z1234567890\"\nrecord = \"api.omnimesh.com\"\nttl = \"30s\"\n\
    provider = \"route53-records\"\ncontrol_region = \"us-west-2\"\n\
    [traffic.traffic.regions.us-east-1]\nset_identifier = \"primary\"\nvalue = \"52.91.123.45\"\n\
    [traffic.traffic.regions.us-west-2]\nset_identifier = \"secondary\"\nvalue = \"52.123.45.67\"\n";

const CLOUD: &str = "[clouds.aws]\nrunning_instances_min = 3\n\
    [clouds.aws.regions.us-east-1]\ndatabases = [\"omnimesh-prod-primary\"]\n\
    [clouds.aws.regions.us-west-2]\ndatabases = [\"omnimesh-prod-replica-us-west-2\"]\n";

fn cloud(aws: &Arc<Aws>, region: &str) -> CloudProbe {
    CloudProbe::new(Arc::clone(aws), Arc::new(SystemClock), InstanceId::new("aws", region))
}

#[tokio::test]
async fn the_regions_own_view_counts_instances_and_shows_databases() {
    let lab = Lab::up("aws", &[]);
    let aws = Arc::new(Aws::new(configuration(&lab, CLOUD)));
    let seen = observe(&cloud(&aws, EAST)).await;
    assert_eq!(seen.finding, Finding::Alive, "{:?}", seen.evidence);
    assert!(seen.evidence.details.contains(&"running_instances=3".to_owned()), "{:?}", seen.evidence);
    assert!(seen.evidence.details.contains(&"omnimesh-prod-primary=available".to_owned()), "{:?}", seen.evidence);

    // By zone, where that is asked for: for people, beside what the nodes of a cluster say.
    let zones = Arc::new(Aws::new(configuration(&lab, &format!("[zones]\nenabled = true\n{CLOUD}"))));
    let seen = observe(&cloud(&zones, EAST)).await;
    let by_zone = |detail: &&String| detail.starts_with("running_instances.us-east-1");
    let counts = seen.evidence.details.iter().filter(by_zone).filter_map(|detail| detail.split('=').nth(1));
    let sum: u32 = counts.map(|count| count.parse::<u32>().expect("a number")).sum();
    assert_eq!(sum, 3, "{:?}", seen.evidence);
    let placed = |detail: &String| detail.starts_with("omnimesh-prod-primary.zone=us-east-1");
    assert!(seen.evidence.details.iter().any(placed), "{:?}", seen.evidence);

    let more = CLOUD.replace("= 3", "= 4");
    let seen = observe(&cloud(&Arc::new(Aws::new(configuration(&lab, &more))), EAST)).await;
    assert!(matches!(&seen.finding, Finding::Failing { layer: Layer::Query, why } if why.contains("fewer than 4")));
}

/// One table: what AWS (or nothing at all) answers, and what a probe makes of it.
#[tokio::test]
async fn answers_are_judged_by_their_code_and_silence_by_its_layer() {
    let lab = Lab::up("aws", &[]);
    let aws = Arc::new(Aws::new(configuration(&lab, CLOUD)));
    let probe = cloud(&aws, EAST);
    let fail = |fault: Value| lab.tell_aws("faults", &json!([fault]));

    for (fault, code) in [
        (json!({"service": "ec2", "status": 503, "code": "Unavailable"}), "Unavailable"),
        (json!({"service": "ec2", "status": 500, "code": "InternalError"}), "InternalError"),
    ] {
        fail(fault);
        let seen = observe(&probe).await;
        assert!(
            matches!(&seen.finding, Finding::Failing { layer: Layer::Query, why } if why.contains(code)),
            "{code}: {:?}",
            seen.finding
        );
    }
    for code in ["AuthFailure", "UnauthorizedOperation", "SignatureDoesNotMatch"] {
        fail(json!({"service": "ec2", "status": 403, "code": code}));
        let seen = observe(&probe).await;
        assert_eq!(seen.finding, Finding::Alive, "{code} proves life");
        assert!(seen.evidence.credential_refused, "{code} bars the target");
    }
    fail(json!({"service": "ec2", "status": 400, "code": "RequestLimitExceeded"}));
    let seen = observe(&probe).await;
    assert!(seen.finding == Finding::Alive && seen.evidence.degraded.is_some(), "throttling is an answer: {seen:?}");

    fail(json!({"service": "ec2", "empty": true}));
    let seen = observe(&probe).await;
    assert!(matches!(seen.finding, Finding::Unknown { .. }), "an empty answer says nothing: {:?}", seen.finding);

    fail(json!({"service": "ec2", "drop": true}));
    let seen = observe(&probe).await;
    assert!(matches!(seen.finding, Finding::Failing { .. }), "a dropped call: {:?}", seen.finding);

    fail(json!({"service": "ec2", "hang": true}));
    let seen = observe(&probe).await;
    assert!(
        matches!(&seen.finding, Finding::Failing { layer: Layer::Query, why } if why.contains("no answer")),
        "{:?}",
        seen.finding
    );
    // A database API that fails is shown, and does not make the region fail.
    fail(json!({"service": "rds", "status": 503, "code": "ServiceUnavailable"}));
    let seen = observe(&probe).await;
    assert_eq!(seen.finding, Finding::Alive);
    assert!(seen.evidence.warnings.iter().any(|text| text.contains("ServiceUnavailable")), "{:?}", seen.evidence);
}

#[tokio::test]
async fn a_refused_connection_fails_at_tcp_and_our_own_trouble_is_unknown() {
    let lab = Lab::up("aws", &[]);
    let nobody = Arc::new(Aws::new(configuration_at(&lab, "http://127.0.0.1:1", "labkey", CLOUD)));
    let seen = observe(&cloud(&nobody, EAST)).await;
    assert!(matches!(seen.finding, Finding::Failing { layer: Layer::Tcp, .. }), "{:?}", seen.finding);

    let no_tls = lab.text("/aws/endpoint").replace("http:", "https:");
    let plain = Arc::new(Aws::new(configuration_at(&lab, &no_tls, "labkey", CLOUD)));
    let seen = observe(&cloud(&plain, EAST)).await;
    assert!(matches!(seen.finding, Finding::Failing { layer: Layer::Tls, .. }), "{:?}", seen.finding);

    let nowhere = Arc::new(Aws::new(configuration_at(&lab, "http://no-such-name.invalid", "labkey", CLOUD)));
    let seen = observe(&cloud(&nowhere, EAST)).await;
    // A machine whose resolver is out of reach must not blame the region either.
    assert!(
        matches!(seen.finding, Finding::Failing { layer: Layer::Dns, .. } | Finding::Unknown { .. }),
        "{:?}",
        seen.finding
    );

    // A name server that never answers is our own, even though the region cannot be reached.
    let mut config = (*configuration_at(&lab, "http://api.omnimesh.com", "labkey", CLOUD)).clone();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    config.probes.nameservers = vec![silent.local_addr().unwrap()];
    let seen = observe(&cloud(&Arc::new(Aws::new(Arc::new(config))), EAST)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("resolve")), "{:?}", seen.finding);

    // Credentials that cannot be found: nothing is known about the region, and no call is made.
    let mut config = (*configuration(&lab, CLOUD)).clone();
    for region in config.regions.values_mut() {
        let missing = toml::from_str(
            "access_key = { file = \"/nonexistent/key\" }\nsecret_key = { file = \"/nonexistent/key\" }",
        );
        region.credentials = Some(missing.unwrap());
    }
    lab.tell_aws("calls", &json!([]));
    let seen = observe(&cloud(&Arc::new(Aws::new(Arc::new(config))), EAST)).await;
    assert!(
        matches!(&seen.finding, Finding::Unknown { why } if why.contains("/nonexistent/key")),
        "{:?}",
        seen.finding
    );
    assert!(lab.actions().is_empty(), "{:?}", lab.actions());
}

#[tokio::test]
async fn a_certificate_that_we_do_not_trust_is_unknown_and_one_of_the_ca_file_is_trusted() {
    let lab = Lab::up("aws,app", &[]);
    let endpoint = lab.text("/regions/us-east-1/app/https").to_owned();
    let untrusting = configuration_at(&lab, &endpoint, "labkey", CLOUD);
    let seen = observe(&cloud(&Arc::new(Aws::new(Arc::clone(&untrusting))), EAST)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("not trusted")), "{:?}", seen.finding);

    let mut config = (*untrusting).clone();
    for region in config.regions.values_mut() {
        region.ca_file = Some(lab.text("/ca_file").into());
    }
    let seen = observe(&cloud(&Arc::new(Aws::new(Arc::new(config.clone()))), EAST)).await;
    // The session comes about; the application behind it is no EC2.
    assert!(!format!("{:?}", seen.finding).contains("trusted"), "{:?}", seen.finding);

    let broken = lab.folder().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for region in config.regions.values_mut() {
        region.ca_file = Some(broken.clone());
    }
    let seen = observe(&cloud(&Arc::new(Aws::new(Arc::new(config))), EAST)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("broken.pem")), "{:?}", seen.finding);
}

#[tokio::test]
async fn traffic_serves_where_its_weight_is_above_zero_and_fails_when_route_53_cannot_be_asked() {
    let lab = Lab::up("aws", &[]);
    let aws = Arc::new(Aws::new(configuration(&lab, TRAFFIC)));
    let probe =
        |region: &str| TrafficProbe::new(Arc::clone(&aws), Arc::new(SystemClock), InstanceId::new("traffic", region));
    for (region, serving) in [(EAST, Serving::Writable), (WEST, Serving::Replica)] {
        let seen = observe(&probe(region)).await;
        assert_eq!((seen.finding, seen.evidence.serving), (Finding::Alive, Some(serving)));
        let weights = ["weight.us-east-1=100", "weight.us-west-2=0"].map(str::to_owned);
        assert_eq!(seen.evidence.details, weights);
    }
    lab.tell_aws("faults", &json!([{"service": "route53", "drop": true}]));
    let seen = observe(&probe(WEST)).await;
    assert!(matches!(seen.finding, Finding::Failing { .. }), "{:?}", seen.finding);
    assert_eq!(seen.evidence.serving, None, "not knowing is not serving");
}

#[tokio::test]
async fn readiness_names_states_that_cannot_be_promoted_and_remembers_endpoints() {
    let lab = Lab::up("aws", &[]);
    let config = configuration(&lab, &format!("{}{}", crate::aws_rds::DATABASE, crate::aws_cache::CACHE));
    let aws = Aws::new(config);
    let (primary, replica) = (InstanceId::new("database", EAST), InstanceId::new("database", WEST));
    let group = InstanceId::new("cache", WEST);
    assert_eq!(aws.readiness(&replica).await.not_ready, [""; 0]);
    assert_eq!(aws.readiness(&primary).await.not_ready, [""; 0]);
    assert_eq!(aws.readiness(&group).await.not_ready, [""; 0]);

    for status in ["backing-up", "modifying"] {
        lab.tell_aws("state", &json!({"rds": {"omnimesh-prod-replica-us-west-2": {"status": status}}}));
        let unready = aws.readiness(&replica).await.not_ready;
        assert!(unready.len() == 1 && unready[0].contains(status), "{unready:?}");
    }
    lab.tell_aws("state", &json!({"elasticache": {"omnimesh-prod-backup-us-west-2": {"status": "snapshotting"}}}));
    let unready = aws.readiness(&group).await.not_ready;
    assert!(unready.len() == 1 && unready[0].contains("snapshotting"), "{unready:?}");

    // The control plane goes; what was learned stays, and nothing is claimed to be not ready.
    let before = aws.current(&replica).await.unwrap();
    lab.tell_aws("faults", &json!([{"service": ["rds", "elasticache"], "drop": true}]));
    assert_eq!(aws.recent(&replica).await.unwrap(), before);
    assert!(matches!(aws.current(&replica).await, Err(Setback::Transient(_))));
    let evidence = aws.readiness(&replica).await;
    assert!(evidence.not_ready.is_empty() && evidence.warnings.len() == 1, "{evidence:?}");
    lab.tell_aws("faults", &json!([{"service": "rds", "status": 403, "code": "AccessDenied"}]));
    assert!(aws.readiness(&replica).await.credential_refused);
    lab.tell_aws("faults", &json!([{"service": "rds", "status": 404, "code": "DBInstanceNotFound"}]));
    assert_eq!(aws.readiness(&replica).await.not_ready.len(), 1);
}

#[tokio::test]
async fn what_is_not_for_aws_is_refused() {
    let lab = Lab::up("aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, TRAFFIC));
    let action = Action::Manifests { cluster: InstanceId::new("kubernetes", WEST), path: "x.yaml".into() };
    assert!(!hands.actuator.concerns(&action));
    assert!(matches!(hands.actuator.look(KEY, &action).await, Err(Setback::Refused(_))));
}
