//! What a real failover lost, told by the daemon and counted in the databases.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::decide::Fact;

use crate::regions::{EAST, Regions, WEST};

#[test]
fn the_rows_that_a_failover_lost_are_counted_when_the_old_primary_is_back_and_nobody_overwrites_them() {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    write_what_is_lost(&mut regions, 300);
    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    regions.stop_writing();
    regions.wait_for_fact("how far the new primary had come", |fact| {
        matches!(fact, Fact::RecoveryPointReached { point, lossless: false, .. }
            if point.position.is_some() && point.last_transaction.is_some() && point.watermarks["compute_nodes"].is_some())
    });
    let known = regions.status().losses.remove(0);
    assert_eq!((known.database.to_string(), known.rows), (format!("database@{EAST}"), None));
    assert!(known.bytes > Some(0), "as far as it was seen: {:?}", known.bytes);

    regions.lab.tell("start", &["pg@us-east-1"]);
    regions.wait_for_fact("what the old one holds", |fact| matches!(fact, Fact::DivergenceFound { .. }));
    let loss = regions.status().losses.remove(0);
    let told = loss.rows.expect("it was counted")["compute_nodes"];
    let (old, new) = (payloads(&regions, EAST), payloads(&regions, WEST));
    let lost = old.iter().filter(|payload| !new.contains(*payload)).count();
    assert_eq!(told, lost as u64);
    assert!(told > 300, "{told}");
    let numbers = regions.judge(&["--self-managed", "--only", "database,rows", "--rows-lost-max", "100000"]);
    let acknowledged = numbers["rows_lost"].as_u64().unwrap_or_default();
    // The answer to the last one may never have come.
    assert!(acknowledged <= told && told <= acknowledged + 1, "{told} told, {numbers}");
    assert!(loss.to_position > loss.from_position, "{loss:?}", loss = regions.status().losses);

    regions.wait("somebody is told", |regions| {
        let alarms = regions.status().alarms;
        alarms.iter().any(|alarm| {
            alarm.key == format!("diverged-database@{EAST}") && alarm.text.contains("rows of compute_nodes")
        })
    });
    let shown = String::from_utf8_lossy(&regions.cli(&["status"]).stdout).into_owned();
    assert!(shown.contains(&format!("{told} rows of compute_nodes")), "{shown}");
}

/// An application writes rows that are counted, and from some moment on that many more that never come over.
pub(crate) fn write_what_is_lost(regions: &mut Regions, rows: usize) {
    regions.set("FAILOVERD__DATABASES__DATABASE__WATERMARKS", "{ compute_nodes = \"id\" }");
    regions.sql(EAST, "GRANT SELECT ON compute_nodes TO failoverd");
    regions.watch();
    regions.write_rows();
    // The application does not notice.
    regions.sql(WEST, "ALTER SYSTEM SET primary_conninfo = ''");
    regions.sql(WEST, "SELECT pg_reload_conf()");
    // Until its receiver has ended, rows still come over.
    let (client, runtime) = regions.superuser(WEST);
    regions.wait("the standby receives nothing", |_| {
        let receivers = runtime.block_on(client.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[])).unwrap();
        receivers.get::<_, i64>(0) == 0
    });
    let before = regions.rows_acknowledged(EAST);
    regions.wait("rows that are lost", |regions| regions.rows_acknowledged(EAST) > before + rows);
}

fn payloads(regions: &Regions, region: &str) -> std::collections::BTreeSet<String> {
    let (client, runtime) = regions.superuser(region);
    let rows = runtime.block_on(client.query("SELECT payload FROM compute_nodes WHERE payload LIKE 'writer-%'", &[]));
    rows.unwrap().into_iter().map(|row| row.get(0)).collect()
}
