//! Days by chance: outages, partitions, crashes, lost answers and people, and three daemons that decide together.

use std::process::{Command, Output};

#[test]
fn days_by_chance_break_nothing() {
    in_the_background();
    let played = simulate(&["--seeds", "200", "--from", "1"]);
    let told = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success(), "{told}\n{}", String::from_utf8_lossy(&played.stderr));
    assert!(told.ends_with("Nothing broke.\n"), "{told}");
    for line in ["commit_point_passed", "takeover_completed", "frame_unknown"] {
        let counted = told.lines().find(|told| told.contains(line)).unwrap_or_else(|| panic!("{line}: {told}"));
        assert!(!counted.trim_end().ends_with(" 0"), "a simulation in which nothing happens shows nothing: {counted}");
    }
}

#[test]
fn the_same_seed_gives_the_same_day_to_the_byte() {
    let [first, second] = [(); 2].map(|()| simulate(&["--seeds", "2", "--from", "41"]).stdout);
    assert_eq!(String::from_utf8_lossy(&first), String::from_utf8_lossy(&second));
    let other = simulate(&["--seeds", "2", "--from", "43"]).stdout;
    assert_ne!(first, other, "a seed that changes nothing tests nothing");
}

fn simulate(args: &[&str]) -> Output {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/omnimesh.toml");
    let failoverd = env!("CARGO_BIN_EXE_failoverd");
    Command::new(failoverd).arg("simulate").args(args).args(["--config", config]).output().expect("runs")
}

/// Minutes of computing that nothing waits for: the servers of other tests must not wait for it.
pub(crate) fn in_the_background() {
    // Of this thread, and of what it starts.
    let _ = rustix::process::nice(10);
}
