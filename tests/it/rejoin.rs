//! Old primaries that become standbys again, by the script that failoverd ships, on real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use failoverd::decide::Fact;

use crate::losses::write_what_is_lost;
use crate::regions::{EAST, Regions, WEST};

/// For pg_rewind as a role that is no superuser.
const MAY_REWIND: &str = "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
    pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO replicator";

#[test]
fn an_old_primary_rejoins_and_takes_the_work_back_without_losing_a_write() {
    let mut regions = with_a_way_back();
    regions.watch();
    regions.write_rows();
    order(&regions, &["switchover", "--from", EAST]);
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    let planned = regions.tell(&["plan", "--if", "rejoin:database@us-east-1"]);
    assert!(
        planned.contains("what it holds is overwritten") && planned.contains("a standby of database@us-west-2"),
        "{planned}"
    );

    order(&regions, &["rejoin", "database@us-east-1"]);
    regions.wait("the standby is ready", |regions| {
        regions.status().instances.iter().filter(|instance| !instance.active).all(|instance| instance.ready)
    });
    let before = regions.rows_acknowledged(EAST);
    order(&regions, &["switchover", "--from", WEST]);
    regions.wait("the application writes in the east", |regions| regions.rows_acknowledged(EAST) > before + 100);
    regions.stop_writing();
    regions.judge(&["--negative", "--there-and-back", "--rows-lost-max", "0", "--only", "rows"]);
    let status = regions.status();
    assert!(status.placement.values().all(|region| region.as_str() == EAST), "{:?}", status.placement);
}

#[test]
fn an_old_primary_with_writes_of_its_own_rejoins_only_where_they_are_given_up_also_after_a_crash() {
    let mut regions = with_a_way_back();
    write_what_is_lost(&mut regions, 100);
    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_until_closed();
    regions.lab.tell("start", &["pg@us-east-1"]);
    regions.wait_for_fact("what the old one holds", |fact| matches!(fact, Fact::DivergenceFound { .. }));
    let refused = regions.cli(&["rejoin", "database@us-east-1", "--reason", "exercise", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("NOT IN EFFECT") && said.contains("rows of compute_nodes"), "{said}");
    assert!(!is_standby(&regions), "nothing was overwritten");

    let said = regions.tell(&["rejoin", "database@us-east-1", "--discard", "--reason", "they are copied out", "--yes"]);
    assert!(said.contains("is declared"), "{said}");
    regions.wait_for_fact(
        "it begins",
        |fact| matches!(fact, Fact::StepStarted { step, .. } if step.as_str() == "rejoin-database@us-east-1"),
    );
    regions.kill();
    regions.start();
    regions.wait_until_closed();
    assert!(is_standby(&regions), "{}", regions.story());
    let told = |regions: &Regions| regions.status().alarms.iter().any(|alarm| alarm.key.starts_with("diverged-"));
    assert!(!told(&regions), "nothing is left of it");
}

/// Self-managed databases, and the shipped script with the lab's ways to stop and start a server.
pub(crate) fn with_a_way_back() -> Regions {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    regions.sql(EAST, MAY_REWIND);
    let folder = regions.lab.folder().to_path_buf();
    let pg = |pointer: &str| regions.lab.text(&format!("/regions/{EAST}/postgres/{pointer}")).to_owned();
    // The tools refuse to run as root, and the lab's processes belong to root.
    let tools = folder.join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["pg_rewind", "pg_basebackup", "psql"] {
        let wrapper = tools.join(tool);
        let text = format!(
            "#!/bin/sh\ncd /\nbin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)\n\
             [ \"$(id -u)\" = 0 ] && set -- runuser -u postgres -- \"$bin/{tool}\" \"$@\" || set -- \"$bin/{tool}\" \"$@\"\n\
             exec \"$@\"\n"
        );
        std::fs::write(&wrapper, text).unwrap();
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/rejoin-postgres.sh");
    let lab = |what: &str| {
        let program = regions.lab.text("/lab");
        format!("python3 {program} {what} --run-dir {}/lab pg@{EAST}", folder.display())
    };
    let replicator = format!("user=replicator dbname={} password={}", pg("database"), pg("passwords/replicator"));
    let path = format!("PG_BIN={}", tools.display());
    let (data, log) = (pg("data_dir"), folder.join("rejoin.log"));
    // A killed server leaves its lock behind.
    let stop = format!("{} && rm -f {data}/postmaster.pid", lab("kill"));
    let command = serde_json::json!(["env", path, script, data, stop, lab("start"), replicator, log]);
    regions.set("FAILOVERD__DATABASES__DATABASE__REJOIN__COMMAND", &command.to_string());
    regions
}

/// Orders it and waits for its end.
pub(crate) fn order(regions: &Regions, words: &[&str]) {
    let words = [words, &["--reason", "exercise", "--yes"]].concat();
    regions.wait("it is in effect", |regions| {
        let output = regions.cli(&words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // On a busy machine a probe may come too late, and a person orders it again.
        let is_late = said.contains("is not seen to take writes");
        assert!(is_late || (output.status.success() && said.contains("is declared")), "{words:?}: {said}");
        !is_late
    });
    regions.wait_until_closed();
}

fn is_standby(regions: &Regions) -> bool {
    let (client, runtime) = regions.superuser(EAST);
    let row = runtime.block_on(client.query_one("SELECT pg_is_in_recovery()", &[]));
    row.unwrap().get(0)
}
