//! How much of a plan's time is our own, over real components: a whole region of the lab dies and is replaced by the
//! daemon. What is counted as whose, says `tests/lab/overhead.py`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::script;
use crate::table::{Figure, Goal};

/// In milliseconds.
pub(crate) fn measure(_folder: &Path) -> Result<Vec<Figure>> {
    let output = Command::new("python3")
        .arg(script("overhead.py"))
        .args(["--binary", env!("CARGO_BIN_EXE_failoverd")])
        .output()
        .context("python3 is not installed")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the failover could not be measured: {said}");
    let result: Value = serde_json::from_slice(&output.stdout).context("overhead.py said nothing to be understood")?;
    let steps = result["steps"].as_array().context("no steps")?;
    ensure!(steps.len() >= 10, "only {} steps were done: this was no regional failover", steps.len());
    let own = |step: &Value| step["own_ms"].as_f64().unwrap_or(f64::NAN);
    let mut worst: Vec<&Value> = steps.iter().collect();
    worst.sort_by(|a, b| own(a).total_cmp(&own(b)));
    let longest = worst.last().context("no steps")?;
    let sum = |name: &str| steps.iter().filter_map(|step| step[name].as_f64()).sum::<f64>();
    let processor = 1000.0 * result["daemon_cpu_s"].as_f64().unwrap_or(f64::NAN) / steps.len() as f64;
    let note = format!(
        "{} steps, the longest is {}; median {:.1}; {:.0} calls took {:.0} ms, {:.0} pauses {:.0} ms; daemon's whole \
         processor time over the failover, per step: {processor:.0} ms",
        steps.len(),
        longest["step"].as_str().unwrap_or_default(),
        own(worst[worst.len() / 2]),
        sum("calls"),
        sum("calls_ms"),
        sum("polls"),
        sum("polls_ms"),
    );
    Ok(vec![Figure {
        name: "overhead".to_owned(),
        what: "a step of a regional failover, beyond calls and one poll interval, at most".to_owned(),
        value: own(longest),
        unit: "ms",
        goal: Some(Goal::Below(100.0)),
        note,
    }])
}
