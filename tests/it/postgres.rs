//! The PostgreSQL probe against real servers: every layer, and who is to blame.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use failoverd::adapters::names::Names;
use failoverd::adapters::postgres::{Postgres, PostgresProbe};
use failoverd::config::Config;
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{Finding, InstanceId, Layer, Serving};
use tokio_postgres::{Client, NoTls};

use crate::data_plane::{EAST, WEST, Written, configured, eventually, failing_layer, observed};
use crate::lab::Lab;

/// A primary in the east, its standby in the west, and failoverd configured for them.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) config: Config,
    pub(crate) postgres: Postgres,
}

pub(crate) fn at(region: &str) -> InstanceId {
    InstanceId::new("database", region)
}

/// Differences from the usual configuration.
pub(crate) struct Differences<'a> {
    pub(crate) password: &'a str,
    pub(crate) trusted: bool,
    /// Added to `[databases.database]`.
    pub(crate) more: &'a str,
    pub(crate) roles: &'a str,
}

impl Default for Differences<'_> {
    fn default() -> Self {
        Self { password: "\"lab-failoverd\"", trusted: true, more: "", roles: "\"app\"" }
    }
}

impl Pair {
    pub(crate) fn up() -> Self {
        Self::with(&Differences::default())
    }

    pub(crate) fn with(differences: &Differences<'_>) -> Self {
        let lab = Lab::up("pg", &[]);
        let (config, postgres) = postgres(&lab, differences);
        Self { lab, config, postgres }
    }

    pub(crate) fn probe(&self, region: &str) -> PostgresProbe {
        self.postgres.probe(at(region), Duration::from_secs(2), None)
    }

    /// Another failoverd for the same servers.
    pub(crate) fn again(&self, differences: &Differences<'_>) -> Postgres {
        postgres(&self.lab, differences).1
    }

    /// A connection past failoverd, as `app` or `postgres`.
    pub(crate) async fn connect(&self, region: &str, user: &str) -> Result<Client, tokio_postgres::Error> {
        let dsn = self.lab.text(&format!("/regions/{region}/postgres/dsn/{user}"));
        let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The superuser, once the server lets anybody in.
    pub(crate) async fn superuser(&self, region: &str) -> Client {
        eventually("the server is there", async || self.connect(region, "postgres").await.ok()).await
    }

    pub(crate) fn hba(&self, region: &str) -> std::path::PathBuf {
        std::path::Path::new(self.lab.text(&format!("/regions/{region}/postgres/data_dir"))).join("pg_hba.conf")
    }

    pub(crate) fn restart(&self, region: &str) {
        self.lab.tell("kill", &[&format!("pg@{region}")]);
        self.lab.tell("start", &[&format!("pg@{region}")]);
    }
}

fn postgres(lab: &Lab, differences: &Differences<'_>) -> (Config, Postgres) {
    let port = |region: &str| lab.number(&format!("/regions/{region}/postgres/port"));
    let Differences { password, trusted, more, roles } = differences;
    let rest = format!(
        "[databases.database]\nprovider = \"postgres\"\nname = \"omnimesh_db\"\nuser = \"failoverd\"\n\
         password = {password}\n{more}\n\
         [databases.database.fence]\napplication_roles = [{roles}]\n\
         prove_as = {{ role = \"app\", password = \"lab-app\" }}\n\
         [databases.database.regions.{EAST}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [databases.database.regions.{WEST}]\nhost = \"127.0.0.1\"\nport = {}\n",
        port(EAST),
        port(WEST),
    );
    let config = configured(lab.folder(), trusted.then(|| lab.text("/ca_file")), &rest);
    let postgres = Postgres::new(&config, Written::of(&config), &Names::new(&config), Arc::new(SystemClock)).unwrap();
    (config, postgres)
}

#[tokio::test]
async fn a_healthy_pair_tells_its_roles_and_positions_and_nothing_is_lost() {
    let pair = Pair::up();
    let app = pair.connect(EAST, "app").await.unwrap();
    app.batch_execute("INSERT INTO compute_nodes (payload) SELECT 'x' FROM generate_series(1, 500)").await.unwrap();
    let primary = observed(&pair.probe(EAST)).await;
    assert_eq!((&primary.finding, primary.evidence.serving), (&Finding::Alive, Some(Serving::Writable)), "{primary:?}");
    assert!(primary.evidence.details.contains(&"standbys=1".to_owned()), "{primary:?}");
    eventually("the standby has what the primary had", async || {
        let standby = observed(&pair.probe(WEST)).await;
        assert_eq!((&standby.finding, standby.evidence.serving), (&Finding::Alive, Some(Serving::Replica)));
        assert_eq!(standby.evidence.warnings, Vec::<String>::new());
        (standby.evidence.position >= primary.evidence.position && primary.evidence.position.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_standby_received_but_did_not_replay_is_not_lost() {
    let pair = Pair::up();
    let standby = pair.superuser(WEST).await;
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let app = pair.connect(EAST, "app").await.unwrap();
    app.batch_execute("INSERT INTO compute_nodes (payload) SELECT 'x' FROM generate_series(1, 500)").await.unwrap();
    let written = observed(&pair.probe(EAST)).await.evidence.position.unwrap();
    let seen = eventually("it is received", async || {
        let seen = observed(&pair.probe(WEST)).await.evidence;
        (seen.position >= Some(written)).then_some(seen)
    })
    .await;
    assert!(seen.warnings.iter().any(|warning| warning.contains("pg_wal_replay_resume")), "{seen:?}");
    let replayed = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint";
    let replayed: i64 = standby.query_one(replayed, &[]).await.unwrap().get(0);
    assert!(u64::try_from(replayed).unwrap() < written, "it was not replayed, and counts all the same");
}

#[tokio::test]
async fn a_killed_primary_is_failing_at_tcp_and_its_standby_only_warns() {
    let pair = Pair::up();
    pair.lab.tell("kill", &["pg@us-east-1"]);
    let primary = observed(&pair.probe(EAST)).await;
    assert_eq!(failing_layer(&primary), Some(Layer::Tcp), "{primary:?}");
    let warned = eventually("the standby notices", async || {
        let seen = observed(&pair.probe(WEST)).await;
        (!seen.evidence.warnings.is_empty()).then_some(seen)
    })
    .await;
    assert_eq!((warned.finding, warned.evidence.not_ready), (Finding::Alive, vec![]), "it can be promoted");
}

#[tokio::test]
async fn a_stopped_server_is_failing_at_the_greeting_in_time() {
    let pair = Pair::up();
    pair.lab.tell("stop", &["pg@us-east-1"]);
    for trusted in [true, false] {
        let tls = if trusted { "" } else { "tls = \"disable\"" };
        let postgres = pair.again(&Differences { more: tls, ..Differences::default() });
        let began = Instant::now();
        let seen = observed(&postgres.probe(at(EAST), Duration::from_secs(1), None)).await;
        assert_eq!(failing_layer(&seen), Some(Layer::Greeting), "{seen:?}");
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }
    pair.lab.tell("cont", &["pg@us-east-1"]);
    assert_eq!(observed(&pair.probe(EAST)).await.finding, Finding::Alive);
}

#[tokio::test]
async fn a_wrong_password_proves_life_and_is_not_shown() {
    let pair = Pair::up();
    let postgres = pair.again(&Differences { password: "\"s3cret-but-wrong\"", ..Differences::default() });
    let seen = observed(&postgres.probe(at(EAST), Duration::from_secs(2), None)).await;
    assert_eq!((&seen.finding, seen.evidence.credential_refused), (&Finding::Alive, true), "{seen:?}");
    assert!(!format!("{seen:?}").contains("s3cret"), "{seen:?}");
}

#[tokio::test]
async fn a_password_that_we_do_not_have_is_our_own_trouble() {
    let pair = Pair::up();
    let password = "{ file = \"/nonexistent/password\" }";
    let postgres = pair.again(&Differences { password, ..Differences::default() });
    let seen = observed(&postgres.probe(at(EAST), Duration::from_secs(2), None)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("/nonexistent/password")), "{seen:?}");
}

#[tokio::test]
async fn a_certificate_that_we_do_not_trust_says_nothing_about_the_server() {
    let pair = Pair::with(&Differences { trusted: false, ..Differences::default() });
    let seen = observed(&pair.probe(EAST)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("not trusted")), "{seen:?}");
    pair.lab.tell("kill", &["pg@us-east-1"]);
    assert_eq!(failing_layer(&observed(&pair.probe(EAST)).await), Some(Layer::Tcp), "but a dead server is dead");
}

#[tokio::test]
async fn a_server_without_tls_is_not_taken_for_a_dead_one() {
    let pair = Pair::up();
    let superuser = pair.superuser(EAST).await;
    superuser.batch_execute("ALTER SYSTEM SET ssl = off").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it offers no TLS", async || {
        let seen = observed(&pair.probe(EAST)).await;
        assert_eq!(failing_layer(&seen), None, "{seen:?}");
        matches!(&seen.finding, Finding::Unknown { why } if why.contains("does not offer TLS")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_without_free_connections_is_degraded_not_down() {
    let pair = Pair::up();
    let mut held = vec![];
    while let Ok(client) = pair.connect(EAST, "app").await {
        held.push(client);
    }
    let seen = observed(&pair.probe(EAST)).await;
    assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
    assert!(seen.evidence.degraded.as_ref().is_some_and(|why| why.contains("53300")), "{seen:?}");
    assert!(!seen.evidence.credential_refused);
}

#[tokio::test]
async fn a_server_that_does_not_accept_connections_yet_is_failing_at_the_greeting() {
    let pair = Pair::up();
    let standby = pair.superuser(WEST).await;
    standby.batch_execute("ALTER SYSTEM SET hot_standby = off").await.unwrap();
    pair.restart(WEST);
    eventually("it says that it cannot connect now", async || {
        let seen = observed(&pair.probe(WEST)).await;
        let Finding::Failing { layer: Layer::Greeting, why } = &seen.finding else { return None };
        why.contains("57P03").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_heartbeat_is_written_and_a_write_that_hangs_is_failing_at_the_write() {
    let pair = Pair::with(&Differences { more: "heartbeat_table = \"ops.beat\"", ..Differences::default() });
    let missing = observed(&pair.probe(EAST)).await;
    assert_eq!(missing.finding, Finding::Alive);
    assert!(missing.evidence.warnings.iter().any(|warning| warning.contains("ops.beat")), "{missing:?}");
    let owner = pair.connect(EAST, "app").await.unwrap();
    owner
        .batch_execute(
            "CREATE SCHEMA ops; CREATE TABLE ops.beat (beat timestamptz NOT NULL); INSERT INTO ops.beat VALUES ('epoch');
             GRANT USAGE ON SCHEMA ops TO failoverd; GRANT SELECT, UPDATE ON ops.beat TO failoverd",
        )
        .await
        .unwrap();
    let seen = observed(&pair.probe(EAST)).await;
    assert_eq!((&seen.finding, &seen.evidence.warnings), (&Finding::Alive, &vec![]));
    let fresh = "SELECT beat > now() - interval '1 minute' FROM ops.beat";
    assert!(owner.query_one(fresh, &[]).await.unwrap().get::<_, bool>(0));
    owner.batch_execute("BEGIN; LOCK TABLE ops.beat").await.unwrap();
    let hanging = observed(&pair.probe(EAST)).await;
    assert_eq!(failing_layer(&hanging), Some(Layer::Write), "{hanging:?}");
    assert_eq!(observed(&pair.probe(WEST)).await.finding, Finding::Alive, "a standby is not written to");
}

#[tokio::test]
async fn a_heartbeat_table_is_created_where_that_is_wanted_also_by_several_daemons_at_once() {
    let more = "heartbeat_table = \"ops.beat\"\ncreate_heartbeat_table = true";
    let pair = Pair::with(&Differences { more, ..Differences::default() });
    let without = observed(&pair.probe(EAST)).await;
    assert_eq!(without.finding, Finding::Alive);
    assert!(without.evidence.warnings.iter().any(|warning| warning.contains("cannot be created")), "{without:?}");
    let owner = pair.connect(EAST, "app").await.unwrap();
    owner.batch_execute("CREATE SCHEMA ops; GRANT USAGE, CREATE ON SCHEMA ops TO failoverd").await.unwrap();
    let probes = [pair.probe(EAST), pair.probe(EAST), pair.probe(EAST)];
    let seen = futures::future::join_all(probes.iter().map(|probe| observed(probe))).await;
    assert!(seen.iter().all(|seen| seen.finding == Finding::Alive), "{seen:?}");
    let later = observed(&pair.probe(EAST)).await;
    assert_eq!((&later.finding, &later.evidence.warnings), (&Finding::Alive, &vec![]));
    let superuser = pair.superuser(EAST).await;
    let beats =
        superuser.query_one("SELECT count(*) FROM ops.beat WHERE beat > now() - interval '1 minute'", &[]).await;
    assert_eq!(beats.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_database_that_is_read_only_by_default_is_degraded_and_no_target() {
    let pair = Pair::up();
    let superuser = pair.superuser(EAST).await;
    superuser.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it is seen", async || {
        let seen = observed(&pair.probe(EAST)).await;
        assert_eq!(seen.finding, Finding::Alive);
        (seen.evidence.degraded.is_some() && !seen.evidence.not_ready.is_empty()).then_some(())
    })
    .await;
}
