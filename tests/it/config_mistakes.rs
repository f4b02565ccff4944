//! Every kind of broken configuration gets helpful lines and exit code 78. The snapshot is what an operator reads.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use super::config::{SOUND, nothing, shipped, variables, write};

const BAD_CONFIGURATION: i32 = 78;

#[test]
fn every_kind_of_mistake_is_one_helpful_line_and_exit_78() {
    let (mut story, mut not_one) = (String::new(), String::new());
    for (name, from, to) in MISTAKES {
        assert!(from.is_empty() || SOUND.contains(from), "{name}: `{from}` is not in the sound configuration");
        let text = if from.is_empty() { format!("{SOUND}\n{to}\n") } else { SOUND.replacen(from, to, 1) };
        let text = if to.contains("[ledger.") { text + COUNCIL } else { text };
        let printed = check(&text, &nothing());
        assert_eq!(printed.code, BAD_CONFIGURATION, "{name}: {}{}", printed.out, printed.err);
        assert_eq!(printed.out, "", "{name}: nothing but the mistake");
        if printed.err.lines().count() != 1 {
            writeln!(not_one, "{name}:\n{}", printed.err).unwrap();
        }
        writeln!(story, "{name}\n  {}", printed.err.trim_end()).unwrap();
    }
    assert_eq!(not_one, "", "each is one mistake, and one line");
    insta::assert_snapshot!("mistakes", story);
}

/// A ledger for several daemons wants to know which.
const COUNCIL: &str = "[council.observers]\nobserver.region = \"office\"\n\
     east.region = \"us-east-1\"\nwest.region = \"us-west-2\"\n";

/// What is wrong; the text in the sound configuration that is replaced (or nothing: appended); by what.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("not TOML", "[observer]", "[observer"),
    ("an unknown key", "record = ", "recrod = \"x\"\nrecord = "),
    ("an unknown key far from any other", "record = ", "colour = \"x\"\nrecord = "),
    ("an unknown section", "", "[databasse.x]\nname = \"x\""),
    ("a duration without a unit", "after = \"5m\"", "after = \"30\""),
    ("a duration that is a number", "after = \"5m\"", "after = 30"),
    ("a duration in no unit of time", "after = \"5m\"", "after = \"5 parsecs\""),
    ("a negative duration", "after = \"5m\"", "after = \"-5m\""),
    ("a duration beyond all bounds", "ttl = \"30s\"", "ttl = \"9999999h\""),
    ("a mode that does not exist", "mode = \"automatic\"", "mode = \"automtic\""),
    ("a text for a number", "active = 3", "active = \"three\""),
    ("a number that is too large", "host = \"10.1.0.5\"", "host = \"10.1.0.5\"\nport = 70000"),
    ("a table for a text", "zone_id = \"Z123\"", "zone_id = { id = \"Z123\" }"),
    ("a value where a table belongs", "trigger = { after = \"5m\" }", "trigger = \"5m\""),
    ("a key that is missing", "namespace = \"app\"\n", ""),
    ("two sources for one secret", "{ env = \"APP_DB_PASSWORD\" }", "{ env = \"A\", file = \"/b\" }"),
    ("an unknown source for a secret", "{ env = \"APP_DB_PASSWORD\" }", "{ vault = \"x\" }"),
    ("a region that is not defined", "[http.site.regions.us-east-1]", "[http.site.regions.us-esat-1]"),
    ("two primary regions", "role = \"secondary\"", "role = \"primary\""),
    ("no primary region", "role = \"primary\"", "role = \"tertiary\""),
    ("two regions that could take over", "", "[regions.eu-west-1]\nrole = \"secondary\""),
    ("a component with no place to go", "[buckets.storage.regions.us-west-2]\nbucket = \"sound-us-west-2\"\n", ""),
    ("two components with one name", "", "[http.cache.regions.us-east-1]\nurl = \"https://www.example.com/\""),
    ("a trigger that is too fast for its probes", "after = \"30s\", confirm_for", "after = \"10s\", confirm_for"),
    ("traffic that moves before the trigger", "confirm_for = \"90s\"", "confirm_for = \"20s\""),
    ("a single observer in the region it watches", "region = \"office\"", "region = \"us-east-1\""),
    ("one reference point is none", "[references.google]\naddress = \"https://www.google.com/\"\n", ""),
    ("a reference point inside the deployment", "https://www.google.com/", "https://api.example.com/"),
    ("one kind of evidence only", "client_path = true", "client_path = false"),
    ("a restart of a workload that is not there", "restart = [\"web\"]", "restart = [\"wbe\"]"),
    ("a bucket that is published as a host", "value = \"host\"", "value = \"bucket\""),
    ("two regions that are one cluster", "context = \"west\"", "context = \"east\""),
    ("two regions that are one database", "host = \"10.2.0.5\"", "host = \"10.1.0.5\""),
    ("an identifier of something that has none", "host = \"10.2.0.5\"", "identifier = \"replica\""),
    ("a fence that locks failoverd out", "application_roles = [\"app\"]", "application_roles = [\"failoverd\"]"),
    ("a heartbeat table that is no name", "failoverd.heartbeat", "heartbeat; drop table x"),
    (
        "a heartbeat table to be created that has no name",
        "heartbeat_table = \"failoverd.heartbeat\"",
        "create_heartbeat_table = true",
    ),
    ("a rejoin that nothing does", "heartbeat_table = \"failoverd.heartbeat\"", "rejoin = { deadline = \"1h\" }"),
    (
        "protection of a database that RDS does not manage",
        "heartbeat_table = \"failoverd.heartbeat\"",
        "protect = { multi_az = true }",
    ),
    ("a port in a host", "host = \"10.1.0.6\"", "host = \"10.1.0.6:6379\""),
    ("an address without a scheme", "url = \"https://api.example.com/health\"\n", "url = \"api.example.com\"\n"),
    ("a record with a final dot", "record = \"api.example.com\"", "record = \"api.example.com.\""),
    ("a record that is no address", "value = \"192.0.2.2\"", "value = \"elb.example.com\""),
    ("two records with one address", "value = \"192.0.2.2\"", "value = \"192.0.2.1\""),
    ("a TTL of nothing", "ttl = \"30s\"", "ttl = \"0s\""),
    (
        "an object to flip where records are changed",
        "value = \"192.0.2.2\"",
        "value = \"192.0.2.2\"\nflip = { region = \"us-west-2\", bucket = \"flips\", key = \"west\" }",
    ),
    ("a check of nothing", "", "[checks.nothing]"),
    ("a ledger in etcd without members", "", "[ledger.etcd]\nendpoints = []"),
    (
        "members of etcd that are not alike",
        "",
        "[ledger.etcd]\nendpoints = [\"http://a:2379\", \"https://b:2379\", \"https://c:2379\"]",
    ),
    (
        "a certificate where no TLS is",
        "",
        "[ledger.etcd]\nendpoints = [\"http://a:1\", \"http://b:1\", \"http://c:1\"]\nca_file = \"ca.pem\"",
    ),
    (
        "a certificate without its key",
        "",
        "[ledger.etcd]\nendpoints = [\"https://a:1\", \"https://b:1\", \"https://c:1\"]\ncert_file = \"sound.toml\"",
    ),
    (
        "a user without a password",
        "",
        "[ledger.etcd]\nendpoints = [\"https://a:1\", \"https://b:1\", \"https://c:1\"]\nuser = \"failoverd\"",
    ),
    (
        "a lease that is too short",
        "",
        "[ledger.etcd]\nendpoints = [\"https://a:1\", \"https://b:1\", \"https://c:1\"]\nlease = \"2s\"",
    ),
    (
        "a lease that is looked at too seldom",
        "",
        "[ledger.s3]\nbucket = \"ledger\"\nregion = \"eu-west-1\"\npoll = \"10s\"\n[council]\nballot_fresh = \"30s\"",
    ),
    (
        "ballots that are stale before they are read again",
        "",
        "[ledger.s3]\nbucket = \"ledger\"\nregion = \"eu-west-1\"\npoll = \"6s\"\nlease = \"60s\"",
    ),
    (
        "roles that end between two looks at the bucket",
        "[api]\n",
        "[ledger.s3]\nbucket = \"ledger\"\nregion = \"eu-west-1\"\npoll = \"15s\"\nlease = \"60s\"\n\
         [council]\nballot_fresh = \"30s\"\n[api]\n\
         role_listen = \"127.0.0.1:8781\"\n",
    ),
    (
        "two ledgers",
        "",
        "[ledger.s3]\nbucket = \"ledger\"\nregion = \"eu-west-1\"\n[ledger.etcd]\n\
         endpoints = [\"https://a:1\", \"https://b:1\", \"https://c:1\"]",
    ),
    (
        "a check of two things",
        "http = { url = \"https://api.example.com/health\" }",
        "http = { url = \"https://api.example.com/health\" }\npods = { cluster = \"main\", running_min = 1 }",
    ),
    ("a command that cannot be repeated", "", "[checks.own]\ncommand = { argv = [\"/bin/true\"], repeatable = false }"),
    (
        "a check that changes something",
        "http = { url = \"https://api.example.com/health\" }",
        "http = { url = \"https://api.example.com/health\", method = \"POST\" }",
    ),
    ("a canary in no cage", "", "[checks.own]\ncanary = { component = \"main\" }"),
    ("a check of the workloads of no cluster", "", "[checks.own]\nworkloads = { cluster = \"mian\" }"),
    ("a check of no record", "", "[checks.own]\ndns = {}"),
    ("a check of a record that may be anything", "", "[checks.own]\ndns = { record = \"mail.example.com\" }"),
    (
        "a header that shows a secret",
        "",
        "[checks.own]\nhttp = { url = \"https://api.example.com\", headers = { Authorization = \"Bearer x\" } }",
    ),
    (
        "a pointer that points nowhere",
        "",
        "[checks.own]\nhttp = { url = \"https://api.example.com\", answer = { status = \"ok\" } }",
    ),
    ("an answer that is a text and a number", "query = \"SELECT 1\"", "query = \"SELECT 1\", equals = \"1\", min = 1"),
    ("a range of nothing", "query = \"SELECT 1\"", "query = \"SELECT 1\", min = 2, max = 1"),
    ("a query that writes", "SELECT 1", "DELETE FROM accounts"),
    ("a check after nothing", "after = [\"main\"]", "after = [\"mian\"]"),
    ("a permit shorter than a call", "", "[ledger]\ncall_timeout = \"30s\""),
    ("a pause that is too long", "", "[guards]\npause_max = \"8h\""),
    ("a deadline of nothing", "", "[deadlines]\nverify = \"0s\""),
    ("a ratio out of range", "", "[probes]\nfailing_ratio = 1.5"),
    ("no incidents allowed", "", "[guards]\nincidents_per_day = 0"),
    ("more critical failures than components", "", "[regional]\ncritical_failing = 9"),
    ("a zone that is lost at once", "", "[zones]\nafter = \"0s\""),
    ("healing before anything was seen", "", "[healing]\nenabled = true\nafter = \"5s\""),
    ("a share that is everybody", "", "[degradation]\nreroute_percent = 100"),
    ("a stage that is everybody", "", "[failback]\nstages = [10, 100]"),
    ("stages that do not grow", "", "[failback]\nstages = [50, 10]"),
    ("a stage that nobody looks at", "", "[failback]\nstage_for = \"10s\""),
    ("an interval without probes", "", "[failback]\ninterval = \"5s\""),
    (
        "a share of a record that is not there",
        "[traffic.dns]\nzone_id = \"Z123\"\nrecord = \"api.example.com\"\nttl = \"30s\"\nprovider = \"route53-records\"\n\
         control_region = \"us-west-2\"\n[traffic.dns.regions.us-east-1]\nset_identifier = \"east\"\nvalue = \"192.0.2.1\"\n\
         [traffic.dns.regions.us-west-2]\nset_identifier = \"west\"\nvalue = \"192.0.2.2\"\n",
        "[degradation]\nreroute_percent = 10\n",
    ),
];

#[test]
fn a_switch_that_knows_on_and_off_cannot_move_a_share() {
    let flip = |region: &str| format!("flip = {{ region = \"us-west-2\", bucket = \"flips\", key = \"{region}\" }}");
    let text = SOUND
        .replace("provider = \"route53-records\"", "provider = \"data-plane-flip\"")
        .replace("value = \"192.0.2.1\"", &format!("value = \"192.0.2.1\"\n{}", flip("east")))
        .replace("value = \"192.0.2.2\"", &format!("value = \"192.0.2.2\"\n{}", flip("west")));
    let printed = check(&format!("{text}\n[degradation]\nreroute_percent = 10\n"), &nothing());
    assert_eq!(printed.code, BAD_CONFIGURATION, "{}{}", printed.out, printed.err);
    assert_eq!(printed.err.lines().count(), 1, "{}", printed.err);
    assert!(printed.err.contains("degradation.reroute_percent: traffic.dns has provider"), "{}", printed.err);
}

#[test]
fn all_mistakes_are_found_in_one_go() {
    let text = SOUND
        .replace("after = \"5m\"", "after = \"30\"")
        .replace("active = 3", "active = \"three\"")
        .replace("mode = \"automatic\"", "mode = \"manual\"")
        .replace("record = ", "recrod = ");
    let printed = check(&text, &nothing());
    insta::assert_snapshot!("at_once", printed.err);

    let text = SOUND
        .replace("bucket = \"sound-us-east-1\"", "bucket = \"Sound\"")
        .replace("value = \"192.0.2.2\"", "value = \"elb.example.com\"")
        .replace("SELECT 1", "VACUUM");
    assert_eq!(check(&text, &nothing()).err.lines().count(), 3);
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let env = variables([
        ("FAILOVERD__DEPLOYMENT__MODE", "manual"),
        ("FAILOVERD__PROBES__INTERVALL", "5s"),
        ("FAILOVERD__PROBES__TIMEOUT__X", "5s"),
        ("FAILOVERD__DATABASES__DATABASE__REGIONS__US_WEST_2__PORT", "no number"),
    ]);
    let printed = check(SOUND, &env);
    assert_eq!(printed.code, BAD_CONFIGURATION);
    insta::assert_snapshot!("environment", printed.err);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let printed = failoverd(&["check-config", "--config", "/nowhere/failoverd.toml"], &nothing());
    assert_eq!(printed.code, BAD_CONFIGURATION);
    assert!(printed.err.contains("/nowhere/failoverd.toml: cannot read the file: No such file"), "{}", printed.err);
}

#[test]
fn no_file_at_all_is_a_question_of_usage() {
    assert_eq!(failoverd(&["check-config"], &nothing()).code, 2);
}

#[test]
fn a_row_that_cannot_fit_is_named_with_what_dominates_it() {
    let omnimesh = shipped("omnimesh.toml").display().to_string();
    let args = ["check-config", "--config", omnimesh.as_str()];
    let env = variables([("FAILOVERD__DEADLINES__PROMOTE_MANAGED", "14m")]);
    let printed = failoverd(&args, &env);
    assert_eq!(printed.code, BAD_CONFIGURATION, "{}", printed.out);
    insta::assert_snapshot!("over_budget", printed.err.replace(env!("CARGO_MANIFEST_DIR"), ""));

    // Where failoverd does not act by itself it is worth knowing, and stops nothing.
    let env = variables([("FAILOVERD__DEADLINES__PROMOTE_MANAGED", "14m"), ("FAILOVERD__DEPLOYMENT__MODE", "observe")]);
    let printed = failoverd(&args, &env);
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.out.contains("the row `database` takes up to"), "{}", printed.out);
}

#[test]
fn check_config_on_the_document_shows_a_budget_in_which_every_row_fits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = failoverd(&["check-config", "--config", "config/omnimesh.toml"], &nothing());
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.out.lines().filter(|line| !line.starts_with("warning:")).all(|line| line.chars().count() <= 100));
    let policy_hash = printed.out.lines().find_map(|line| line.strip_prefix("  policy      ")).unwrap();
    let shown = printed.out.replace(&format!("{}/", folder.display()), "").replace(policy_hash, "(hash)");
    insta::assert_snapshot!("omnimesh", shown);
}

#[test]
fn every_row_of_the_document_fits_in_15_minutes_with_cited_deadlines() {
    let printed = failoverd(&["budget", "--config", "config/omnimesh.toml", "--json"], &nothing());
    assert_eq!(printed.code, 0, "{}", printed.err);
    let value: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    let rows = value["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["cache", "database", "kubernetes", "storage", "regional outage", "degradation", "healing", "data centre"]
    );
    for row in rows {
        assert_eq!(row["fits"], true, "{row:#}");
        assert!(row["seconds"].as_f64().unwrap() <= 900.0, "{row:#}");
        for leg in row["path"].as_array().unwrap() {
            let key = leg["deadline_key"].as_str().unwrap();
            assert!(value["deadlines"][key]["why"].as_str().unwrap().len() > 30, "{key} has no reason");
        }
    }
    assert_eq!(rows[1]["detection"], "5m 8s");
    let route53 = value["dependencies"].as_array().unwrap().iter().find(|d| d["service"] == "Route 53").unwrap();
    assert_eq!((route53["region"].as_str(), route53["lost_when_needed"].as_bool()), (Some("us-east-1"), Some(true)));
}

#[test]
fn the_budget_counts_every_wait() {
    let row = |env: &BTreeMap<String, String>, name: &str| {
        let printed = failoverd(&["budget", "--config", "config/omnimesh.toml", "--json"], env);
        let value: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
        value["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone()
    };
    // Pods that are ready after 10 s: traffic waits for confirm_for (90 s and the last probe, 98 s) instead, of which
    // detection, takeover and pods have taken 38 + 10 + 10.
    let quick = row(&variables([("FAILOVERD__DEADLINES__REPLICAS", "10s")]), "kubernetes");
    let traffic = quick["path"].as_array().unwrap().iter().find(|leg| leg["deadline_key"] == "traffic").unwrap();
    assert_eq!(traffic["waiting"], "40s", "{quick:#}");
    assert_eq!(row(&nothing(), "kubernetes")["path"][1]["waiting"], "0s");
    // Where roles are served, a region that is cut off gets time to stop by itself.
    let fenced = variables([
        ("FAILOVERD__API__ROLE_LISTEN", "127.0.0.1:8781"),
        ("FAILOVERD__API__SELF_FENCE_AFTER", "6s"),
        ("FAILOVERD__API__ROLE_CHECK_PERIOD", "4s"),
    ]);
    let waits = (&row(&nothing(), "cache")["waits"], &row(&fenced, "cache")["waits"]);
    assert_eq!(waits, (&"10s".into(), &"20s 500ms".into()));
    // Only what moves traffic waits for resolvers.
    assert_eq!(
        (&row(&nothing(), "cache")["ttl"], &row(&nothing(), "kubernetes")["ttl"]),
        (&"0s".into(), &"30s".into())
    );
}

#[test]
fn a_deadline_of_ones_own_is_named_with_its_place_instead_of_a_citation() {
    let env = variables([("FAILOVERD__DEADLINES__VERIFY", "40s")]);
    let printed = failoverd(&["budget", "--config", "config/omnimesh.toml"], &env);
    assert!(printed.out.contains("set in environment variable FAILOVERD__DEADLINES__VERIFY"), "{}", printed.out);
}

#[test]
fn mistakes_are_there_for_programs_too() {
    let printed = failoverd(&["check-config", "--json", "--config", "/nowhere"], &nothing());
    assert_eq!(printed.code, BAD_CONFIGURATION);
    let value: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(value["usable"], false);
    assert_eq!(value["mistakes"].as_array().unwrap().len(), 1);
}

// ---- helpers -------------------------------------------------------------------------------------------------------

struct Printed {
    code: i32,
    out: String,
    err: String,
}

fn check(text: &str, env: &BTreeMap<String, String>) -> Printed {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "failoverd.toml", text).display().to_string();
    let mut printed = failoverd(&["check-config", "--config", &path], env);
    printed.err = printed.err.replace(&format!("{}/", folder.path().display()), "");
    printed
}

/// Runs the real program, in the repository, with nothing in its environment but `env`.
fn failoverd(args: &[&str], env: &BTreeMap<String, String>) -> Printed {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_failoverd"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("LANG", "C.UTF-8")
        .envs(env)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}
