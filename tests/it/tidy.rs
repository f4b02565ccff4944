//! The tree keeps its promises: pure folders stay pure, SDKs stay in their corner, documents name what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use failoverd::cli::Exit;
use failoverd::cli::args::Args;
use failoverd::decide::GuardKind;

/// Folders without clocks, without I/O, without chance.
const PURE: [&str; 4] = ["src/domain", "src/health", "src/plan", "src/decide"];

/// What none of them may name.
const IMPURE: [&str; 22] = [
    "tokio",
    "reqwest",
    "aws_",
    "kube",
    "redis",
    "axum",
    "hyper",
    "futures",
    "etcd_client",
    "rustix",
    "tracing",
    "metrics",
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "async",
    "await",
    "thread",
    "rand",
    "now_v7",
    "now_v4",
];

/// Paths of the standard library and of jiff that read the world.
const IMPURE_PATHS: [&str; 7] =
    ["std::env", "std::fs", "std::net", "std::process", "std::io", "Timestamp::now", "Zoned::now"];

/// Crates that only adapters and ledgers may name.
const SDKS: [&str; 12] = [
    "aws_config",
    "aws_sdk_route53",
    "aws_sdk_rds",
    "aws_sdk_s3",
    "aws_sdk_elasticache",
    "aws_smithy_types",
    "aws_sigv4",
    "kube",
    "k8s_openapi",
    "tokio_postgres",
    "redis",
    "etcd_client",
];

/// A file that is longer does more than one thing.
const LINES_MAX: usize = 600;

/// Longer all the same: the shape of the configuration, one flat list of keys; and the loop that owns the controller,
/// which is easier to trust in one piece.
const LONG: [&str; 2] = ["src/config/schema.rs", "src/daemon/event_loop.rs"];

#[test]
fn pure_folders_name_no_clock_no_runtime_and_no_client() {
    let mut found = vec![];
    for file in PURE.iter().flat_map(|folder| files(folder, "rs")) {
        for (number, line) in code_lines(&file) {
            for word in words(&line).filter(|word| is_impure(word)) {
                found.push(format!("{}:{number}: `{word}` in a pure folder", name(&file)));
            }
            for path in IMPURE_PATHS.iter().filter(|path| line.contains(**path)) {
                found.push(format!("{}:{number}: `{path}` in a pure folder", name(&file)));
            }
        }
    }
    assert_none(&found);
}

fn is_impure(word: &str) -> bool {
    IMPURE.iter().any(|impure| if impure.ends_with('_') { word.starts_with(impure) } else { word == *impure })
}

#[test]
fn pure_folders_have_the_lints_that_ban_clocks_and_hash_maps() {
    for folder in PURE {
        let root = read(&Path::new(folder).join("mod.rs"));
        let deny = "#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]";
        assert!(root.contains(deny), "{folder}/mod.rs has to begin with {deny}");
    }
}

#[test]
fn only_adapters_and_ledgers_name_an_sdk() {
    let mut found = vec![];
    for file in files("src", "rs") {
        if file.starts_with("src/adapters") || file.starts_with("src/ledger") {
            continue;
        }
        for (number, line) in code_lines(&file) {
            for sdk in SDKS {
                // `adapters::redis::` and `kube::` differ in what stands before them.
                let at = line.find(&format!("{sdk}::"));
                if at.is_some_and(|at| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')) {
                    found.push(format!("{}:{number}: `{sdk}` outside of adapters and ledger", name(&file)));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn only_telemetry_names_metrics() {
    let mut found = vec![];
    for file in files("src", "rs") {
        if file.starts_with("src/telemetry") || file == Path::new("src/telemetry.rs") {
            continue;
        }
        for (number, line) in code_lines(&file) {
            let named = ["counter!", "gauge!", "histogram!", "\"failoverd_"].iter().find(|name| line.contains(**name));
            if let Some(named) = named {
                found.push(format!("{}:{number}: `{named}` outside of telemetry", name(&file)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut found = vec![];
    for file in ["src", "tests/it", "benches"].iter().flat_map(|folder| files(folder, "rs")) {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG.contains(&name(&file).as_str()) {
            found.push(format!("{}: {lines} lines, at most {LINES_MAX}", name(&file)));
        }
        if !text.starts_with("//!") {
            found.push(format!("{}: has to begin with what it is for (//!)", name(&file)));
        }
    }
    assert_none(&found);
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, because this file is searched as well.
    let later = ["TO", "FIX", "XX"].map(|start| {
        format!(
            "{start}{}",
            if start == "TO" {
                "DO"
            } else if start == "XX" {
                "X"
            } else {
                "ME"
            }
        )
    });
    let unfinished =
        [format!("{}!(", "todo"), format!("{}!(", "unimplemented"), format!("#[{}", "ignore"), format!("{}!(", "dbg")];
    let mut found = vec![];
    let sources = ["rs", "py", "sh", "toml", "md", "txt", "yaml"];
    for file in sources.iter().flat_map(|kind| files("", kind)) {
        for (number, line) in read(&file).lines().enumerate() {
            let marks = later.iter().filter(|mark| words(line).any(|word| word == **mark));
            let calls = unfinished.iter().filter(|call| line.contains(call.as_str()));
            found.extend(marks.chain(calls).map(|what| format!("{}:{}: `{what}`", name(&file), number + 1)));
        }
    }
    assert_none(&found);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut found = vec![];
    for file in files("", "md") {
        let folder = file.parent().unwrap_or(Path::new(""));
        for target in links(&read(&file)) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                found.push(format!("{}: {target} does not exist", name(&file)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn the_operators_handbook_knows_every_command_guard_exit_code_and_metric() {
    let handbook = read(Path::new("docs/operations.md"));
    let mut missing = vec![];
    for command in Args::command().get_subcommands() {
        let command = format!("`failoverd {}", command.get_name());
        if !handbook.contains(&command) {
            missing.push(format!("{command}`"));
        }
    }
    for guard in GuardKind::ALL {
        if !handbook.contains(&format!("**{guard}**")) {
            missing.push(format!("guard {guard}"));
        }
    }
    for exit in Exit::ALL {
        if !handbook.contains(&format!("| {} |", exit.number())) {
            missing.push(format!("exit code {}", exit.number()));
        }
    }
    for metric in metrics() {
        if !handbook.contains(&format!("`{metric}`")) {
            missing.push(metric);
        }
    }
    assert!(missing.is_empty(), "docs/operations.md does not mention: {}", missing.join(", "));
}

/// Every metric, by the constants in telemetry.
fn metrics() -> BTreeSet<String> {
    let telemetry = files("src/telemetry", "rs").into_iter().map(|file| read(&file)).collect::<String>();
    let names: BTreeSet<String> = telemetry
        .split('"')
        .filter(|text| {
            text.starts_with("failoverd_")
                && text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        })
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 20, "the metrics are somewhere else: {names:?}");
    names
}

/// The targets of markdown links.
fn links(text: &str) -> Vec<String> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()).map(str::to_owned).collect()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// Lines with their numbers, without comments and without what stands between quotes.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let mut lines = vec![];
    for (number, line) in read(file).lines().enumerate() {
        let mut code = String::new();
        for (n, part) in line.split('"').enumerate() {
            if n % 2 == 1 {
                // Kept for names of metrics, which are whole literals.
                code.push('"');
                code.push_str(if part.starts_with("failoverd_") { part } else { "" });
                code.push('"');
            } else if let Some((before, _comment)) = part.split_once("//") {
                code.push_str(before);
                break;
            } else {
                code.push_str(part);
            }
        }
        lines.push((number + 1, code));
    }
    lines
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn name(file: &Path) -> String {
    file.display().to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Files of a kind below a folder, relative to the package.
fn files(folder: &str, kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    let mut open = vec![root.join(folder)];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                // What is built is large and none of ours.
                let is_ours = !["target", ".git"].iter().any(|folder| path.ends_with(folder));
                open.extend(is_ours.then_some(path));
            } else if path.extension().is_some_and(|extension| extension == kind) {
                found.push(path.strip_prefix(root).expect("below the root").to_path_buf());
            }
        }
    }
    found.sort();
    found
}
