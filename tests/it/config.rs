//! Configuration: layers, mistakes, the files that are shipped, and what `check-config` says of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use failoverd::config::{ConfigErrors, DEFAULTS, Key, Loaded, Place, SecretSource, Shape, load, outline, policy_hash};
use failoverd::domain::{Mode, UnfencedPromotion};
use proptest::prelude::*;

#[test]
fn the_configuration_of_the_document_is_accepted_and_says_what_the_document_says() {
    let loaded = load(&[shipped("omnimesh.toml")], &nothing()).map_err(|e| panic!("{e}")).unwrap();
    let policy = &loaded.policy;
    assert_eq!(policy.mode, Mode::Automatic);
    assert_eq!(policy.failover_within, minutes(15));
    assert_eq!(policy.observer_region.as_str(), "eu-west-1");

    let row = |name: &str| policy.components[&name.into()].row.unwrap();
    assert_eq!((row("kubernetes").after, row("kubernetes").confirm_for), (seconds(30), seconds(90)));
    assert_eq!(row("database").after, minutes(5));
    assert_eq!(row("cache").after, minutes(2));
    assert_eq!(row("storage").after, minutes(10));
    assert_eq!(policy.regional.after, seconds(120));
    assert_eq!(policy.components[&"database".into()].unfenced_promotion, UnfencedPromotion::Allow);
    assert_eq!(policy.components[&"traffic".into()].control_plane.as_ref().unwrap().as_str(), "us-east-1");

    let workloads: Vec<_> = policy.components[&"kubernetes".into()]
        .workloads
        .iter()
        .map(|workload| (workload.name.as_str(), workload.active, workload.standby))
        .collect();
    assert_eq!(workloads, [("nexus-prime-core", 5, 2), ("go-node-proxies", 10, 3), ("ai-agents", 20, 5)]);
    // The manifests are there, beside the file that names them.
    for manifest in &policy.components[&"kubernetes".into()].manifests {
        assert!(Path::new(manifest).is_file(), "{manifest}");
    }
    // The database's names and the bucket are published where the document says.
    let published: Vec<_> = policy
        .components
        .values()
        .flat_map(|component| &component.publications)
        .map(|publication| format!("{}/{}", publication.name, publication.key))
        .collect();
    assert_eq!(published, ["redis-config/host", "database-credentials/host", "s3-config/bucket", "s3-config/region"]);
}

#[test]
fn the_control_plane_in_the_primary_region_is_warned_of() {
    let loaded = load(&[shipped("omnimesh.toml")], &nothing()).unwrap();
    let warning = loaded.warnings.iter().map(ToString::to_string).find(|line| line.contains("Route 53 control plane"));
    assert!(warning.as_ref().is_some_and(|line| line.contains("us-east-1")), "{:?}", loaded.warnings);
}

#[test]
fn a_region_that_would_lose_its_roles_with_the_ledger_is_warned_of() {
    let council = |seat: &str| {
        let seats: String = ["eu-west-1", "eu-central-1", "eu-north-1"]
            .map(|region| format!("[council.observers.in-{region}]\nregion = \"{region}\"\n{seat}"))
            .concat();
        let own =
            "[observer]\nname = \"in-eu-north-1\"\nregion = \"eu-north-1\"\n[api]\nrole_listen = \"127.0.0.1:8781\"\n";
        let ledger = "[ledger.etcd]\nendpoints = [\"https://a:1\", \"https://b:1\", \"https://c:1\"]\n";
        let folder = tempfile::tempdir().unwrap();
        let files =
            [write(&folder, "base.toml", SOUND), write(&folder, "above.toml", &format!("{own}{ledger}{seats}"))];
        let loaded = load(&files, &nothing()).unwrap();
        lines(&loaded)
    };
    assert!(!council("api = \"127.0.0.1:8780\"\n").contains("council.observers"));
    let warned = council("");
    assert!(warned.contains("in-eu-west-1") && warned.contains("every role would end with the ledger"), "{warned}");
}

#[test]
fn by_default_nothing_is_done() {
    // Whoever writes no mode gets the one that only looks.
    let loaded = sound_with(|text| text.replace("mode = \"automatic\"", "")).unwrap();
    assert_eq!(loaded.policy.mode, Mode::Observe);
}

#[test]
fn later_files_lie_on_top_of_earlier_ones_and_the_environment_on_top_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let base = write(&folder, "base.toml", SOUND);
    let above = write(&folder, "above.toml", "[probes]\ntimeout = \"2s\"\n[deployment]\nname = \"above\"");
    let env = variables([("FAILOVERD__DEPLOYMENT__NAME", "environment")]);
    let loaded = load(&[base, above.clone()], &env).unwrap();

    assert_eq!(loaded.config.deployment.name, "environment");
    assert_eq!(loaded.config.probes.timeout, seconds(2));
    assert_eq!(loaded.config.probes.interval, seconds(5), "a table is merged, not replaced");
    assert_eq!(loaded.place_of(&Key::of(["probes", "timeout"])), Place::Line(above.display().to_string(), 2));
    assert_eq!(loaded.place_of(&Key::of(["probes", "interval"])), Place::BuiltIn);
}

#[test]
fn variables_reach_names_with_dashes_lists_and_tables_whatever_their_case() {
    let env = variables([
        ("FAILOVERD__DATABASES__DATABASE__REGIONS__US_WEST_2__HOST", "replica.example.internal"),
        ("FAILOVERD__databases__Database__regions__us-west-2__port", "5433"),
        ("FAILOVERD__PROBES__NAMESERVERS", "[\"10.0.0.2:53\"]"),
        ("FAILOVERD__PROBES__FAILING_RATIO", "0.9"),
        ("FAILOVERD__HTTP__SITE__CLIENT_PATH", "true"),
        ("FAILOVERD__CLUSTERS__MAIN__AFTER_FAILOVER__APP_CONFIG__LOG_LEVEL", "debug"),
        ("FAILOVERD__REFERENCES__CLOUDFLARE__ADDRESS", "1.1.1.1:53"),
        ("FAILOVERD_URL", "not configuration: one underscore"),
    ]);
    let loaded = sound(&env).map_err(|e| panic!("{e}")).unwrap();
    let database = &loaded.config.databases[&"database".into()].regions[&"us-west-2".into()];
    assert_eq!((database.host.as_deref(), database.port), (Some("replica.example.internal"), Some(5433)));
    assert_eq!(loaded.config.probes.nameservers, ["10.0.0.2:53".parse().unwrap()]);
    assert!((loaded.config.probes.failing_ratio - 0.9).abs() < 1e-9);
    assert!(loaded.config.references.contains_key(&"cloudflare".into()));
    // The keys of maps that are there already are found with their own spelling.
    assert_eq!(loaded.config.clusters[&"main".into()].after_failover["app-config"]["log_level"], "debug");
}

#[test]
fn a_secret_from_the_environment_replaces_the_source_in_the_file() {
    let env = variables([("FAILOVERD__DATABASES__DATABASE__PASSWORD", "{ file = \"/run/secrets/db\" }")]);
    let loaded = sound(&env).unwrap();
    let password = loaded.config.databases[&"database".into()].password.as_ref().unwrap();
    assert!(matches!(password, SecretSource::File { file } if file == Path::new("/run/secrets/db")), "{password:?}");
}

#[test]
fn a_secret_in_a_variable_is_no_secret_in_the_configuration() {
    let env = variables([("FAILOVERD__DATABASES__DATABASE__PASSWORD", "correct horse")]);
    let loaded = sound(&env).unwrap();
    assert!(!lines(&loaded).contains("stands in the configuration itself"), "{}", lines(&loaded));
}

#[test]
fn a_literal_secret_works_with_a_warning_that_does_not_repeat_it() {
    let loaded = sound_with(|text| text.replace("{ env = \"APP_DB_PASSWORD\" }", "\"hunter2\"")).unwrap();
    let shown = format!("{} {:?} {}", lines(&loaded), loaded.config, serde_json::to_string(&loaded.policy).unwrap());
    assert!(shown.contains("{ env = \"NAME\" } or { file = \"/path\" }"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_literal_secret_among_the_headers_of_a_check_is_warned_of_as_well() {
    let with_header = |text: &str| {
        text.replace("/health\" }", "/health\", secret_headers = { Authorization = \"Bearer hunter2\" } }")
    };
    let loaded = sound_with(with_header).unwrap();
    let shown = lines(&loaded);
    assert!(shown.contains("checks.health.http.secret_headers.Authorization"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn relative_paths_are_relative_to_their_file() {
    let loaded = sound_with(|text| text.replace("/etc/failoverd/kubeconfig", "keys/kubeconfig")).unwrap();
    let kubeconfig = loaded.config.clusters[&"main".into()].regions[&"us-east-1".into()].kubeconfig.clone().unwrap();
    assert!(kubeconfig.is_absolute() && kubeconfig.ends_with("keys/kubeconfig"), "{}", kubeconfig.display());
}

#[test]
fn the_hash_of_a_policy_is_the_same_for_every_observer_and_differs_with_every_decision() {
    let hash = |env: &BTreeMap<String, String>| policy_hash(&sound(env).unwrap().policy);
    let one = hash(&nothing());
    assert_eq!(one.len(), 64);
    let another_observer = variables([
        ("FAILOVERD__OBSERVER__NAME", "another"),
        ("FAILOVERD__OBSERVER__REGION", "eu-central-1"),
        ("FAILOVERD__DATABASES__DATABASE__REGIONS__US_WEST_2__HOST", "10.0.0.9"),
    ]);
    assert_eq!(hash(&another_observer), one);
    for (variable, value) in [
        ("FAILOVERD__DATABASES__DATABASE__TRIGGER__AFTER", "6m"),
        ("FAILOVERD__DEPLOYMENT__MODE", "approve"),
        ("FAILOVERD__GUARDS__COOLDOWN", "2h"),
        ("FAILOVERD__DEADLINES__VERIFY", "30s"),
    ] {
        assert_ne!(hash(&variables([(variable, value)])), one, "{variable}");
    }
}

#[test]
fn an_instance_has_the_same_fingerprint_until_its_address_changes() {
    let fingerprints =
        |env: &BTreeMap<String, String>| sound(env).unwrap().policy.components[&"database".into()].fingerprints.clone();
    let before = fingerprints(&nothing());
    assert_eq!(before, fingerprints(&variables([("FAILOVERD__DATABASES__DATABASE__TRIGGER__AFTER", "6m")])));
    let moved = fingerprints(&variables([("FAILOVERD__DATABASES__DATABASE__REGIONS__US_WEST_2__HOST", "10.9.9.9")]));
    assert_eq!(before[&"us-east-1".into()], moved[&"us-east-1".into()]);
    assert_ne!(before[&"us-west-2".into()], moved[&"us-west-2".into()]);
}

// ---- default.toml documents everything -----------------------------------------------------------------------------

#[test]
fn the_defaults_mention_every_key_of_the_schema() {
    let mentioned = keys_of(&with_examples(|_| true).parse().unwrap());
    let missing: Vec<String> = outline()
        .into_iter()
        .filter(|(key, _)| !key.names().is_empty())
        .map(|(key, _)| key)
        .filter(|key| !mentioned.contains(key) && key.names().last().is_some_and(|name| name != "[]"))
        .map(|key| key.to_string())
        .collect();
    assert!(missing.is_empty(), "not in config/default.toml: {missing:#?}");
}

#[test]
fn the_examples_in_the_defaults_are_a_configuration_that_works() {
    let folder = tempfile::tempdir().unwrap();
    // They show an identifier and an address for the same instance; only one of them can be right.
    let addresses = ["host = \"db.us-west-2", "port = 5432", "host = \"redis.us-west-2", "port = 6379"];
    let examples = with_examples(|line| !addresses.iter().any(|address| line.starts_with(address)));
    // They show both ledgers for several daemons, and only one of them can be there.
    for ledger in ["etcd", "s3"] {
        let mut examples: toml::Table = examples.parse().unwrap();
        examples["ledger"].as_table_mut().unwrap().remove(ledger).unwrap();
        let path = write(&folder, "examples.toml", &examples.to_string());
        let loaded = load(&[path], &nothing()).map_err(|errors| panic!("{errors}")).unwrap();
        assert_eq!(loaded.config.regions.len(), 3);
    }
}

#[test]
fn every_key_that_has_a_default_stands_in_the_defaults_with_a_comment() {
    // Nothing but regions and one component: whatever else is needed has to come from the defaults.
    let minimal = "[regions.a]\nrole = \"primary\"\n[http.site.regions.a]\nurl = \"http://127.0.0.1/\"";
    let folder = tempfile::tempdir().unwrap();
    load(&[write(&folder, "minimal.toml", minimal)], &nothing()).map_err(|errors| panic!("{errors}")).unwrap();

    let mut commented = false;
    for line in DEFAULTS.lines() {
        // The objectives of the levels share one comment above their first table.
        if !line.starts_with(['#', '[']) && line.contains('=') && !line.starts_with("rto") && !line.starts_with("rpo") {
            assert!(commented, "no comment above `{line}`");
        }
        commented = line.starts_with('#');
    }
}

// ---- whatever comes ------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_makes_the_reading_panic(text in mutated()) {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "mutated.toml", &text);
        if let Err(errors) = load(&[path], &nothing()) {
            prop_assert!(!errors.0.is_empty());
            for mistake in errors.0 {
                let line = mistake.to_string();
                prop_assert!(!line.contains('\n'), "{line:?}");
            }
        }
    }

    #[test]
    fn no_variable_makes_the_reading_panic(name in "[A-Z_\\[\\].]{0,40}", value in ".{0,40}") {
        let env = BTreeMap::from([(format!("FAILOVERD__{name}"), value)]);
        let _ = sound(&env);
    }
}

/// The sound configuration with a few pieces cut, doubled, or replaced by something else.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(String::new()),
        Just("\"-5s\"".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("[[[[".to_owned()),
        Just("\"x[99999999999]\" = 1\n".to_owned()),
        Just("= nan".to_owned()),
        Just("\"9999999999999h\"".to_owned()),
        Just("18446744073709551615".to_owned()),
        ".{0,12}",
    ];
    proptest::collection::vec((0..SOUND.len(), 0..40_usize, piece), 1..5).prop_map(|cuts| {
        let mut text = SOUND.to_owned();
        for (start, length, piece) in cuts {
            let mut start = start.min(text.len());
            let mut end = (start + length).min(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            while !text.is_char_boundary(end) {
                end += 1;
            }
            text.replace_range(start..end, &piece);
        }
        text
    })
}

// ---- helpers -------------------------------------------------------------------------------------------------------

/// A small configuration of every kind of component, in which nothing is wrong.
pub(crate) const SOUND: &str = include_str!("config_cases/sound.toml");

fn sound(env: &BTreeMap<String, String>) -> Result<Loaded, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    load(&[write(&folder, "sound.toml", SOUND)], env)
}

fn sound_with(change: impl Fn(&str) -> String) -> Result<Loaded, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let changed = change(SOUND);
    assert_ne!(changed, SOUND, "the change changes nothing");
    load(&[write(&folder, "sound.toml", &changed)], &nothing())
}

fn lines(loaded: &Loaded) -> String {
    loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(crate) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

pub(crate) fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn nothing() -> BTreeMap<String, String> {
    BTreeMap::new()
}

pub(crate) fn variables<const N: usize>(variables: [(&str, &str); N]) -> BTreeMap<String, String> {
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn minutes(number: u64) -> Duration {
    Duration::from_secs(60 * number)
}

/// The defaults with their examples switched on: lines with a `#` directly in front.
fn with_examples(wanted: impl Fn(&str) -> bool) -> String {
    let uncommented = |line: &'static str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with([' ', '#']) => example,
        Some(_) | None => line,
    };
    DEFAULTS.lines().map(uncommented).filter(|line| wanted(line)).collect::<Vec<_>>().join("\n")
}

/// Every key in a document, with the names that operators choose called `*` and list entries `[]`.
fn keys_of(table: &toml::Table) -> std::collections::BTreeSet<Key> {
    let outline = outline();
    let mut keys = std::collections::BTreeSet::new();
    fn walk(at: &Key, value: &toml::Value, outline: &BTreeMap<Key, Shape>, keys: &mut std::collections::BTreeSet<Key>) {
        keys.insert(at.clone());
        match value {
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let name = if outline.get(at) == Some(&Shape::Names) { "*" } else { name.as_str() };
                    walk(&at.child(name), value, outline, keys);
                }
            }
            toml::Value::Array(entries) => entries.iter().for_each(|entry| walk(&at.child("[]"), entry, outline, keys)),
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
    }
    walk(&Key::default(), &toml::Value::Table(table.clone()), &outline, &mut keys);
    keys
}
