//! Three daemons in three regions, each a network namespace with its own servers, that really are cut off, killed and healed.
//! `make soak` plays every scenario many times; these two, which have most in them, are played once here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `soak.py` ends with where namespaces cannot be made.
const SKIPPED: i32 = 77;

#[test]
fn an_active_region_that_is_cut_off_loses_its_role_is_replaced_once_and_fenced_after_the_heal() {
    plays("active-cut-off");
}

#[test]
fn a_leader_killed_between_the_answer_of_its_promotion_and_its_fact_is_succeeded_and_nothing_is_done_twice() {
    plays("leader-killed-before-fact");
}

fn plays(scenario: &str) {
    let folder = tempfile::Builder::new().prefix("failoverd-distributed-").tempdir().unwrap();
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/soak.py"))
        .args(["--runs", "1", "--only", scenario, "--dies-with-parent", "--binary", env!("CARGO_BIN_EXE_failoverd")])
        .arg("--folder")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("python3 is installed");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(SKIPPED) {
        // Past what captures the output of tests: nobody shall believe that it was played.
        let banner = format!("\n!!! {scenario} was NOT PLAYED !!!\n{told}\n");
        std::io::stderr().write_all(banner.as_bytes()).unwrap();
        return;
    }
    if !output.status.success() {
        let kept = folder.keep();
        let run = kept.join(format!("01-{scenario}"));
        let read = |file: &str| std::fs::read_to_string(run.join(file)).unwrap_or_default();
        panic!("{told}\n{}\n--- ledger\n{}\nlogs are kept in {}", read("story.txt"), read("ledger.txt"), run.display());
    }
    eprintln!("{told}");
}
