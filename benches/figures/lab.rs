//! Real components from `tests/lab`, stopped when the value is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The lab's regions, the primary first.
pub(crate) const REGIONS: [&str; 2] = ["us-east-1", "us-west-2"];

/// What `lab.py up` started.
pub(crate) struct Lab {
    json: Value,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Starts `components` (`pg,redis,…`).
    pub(crate) fn up(components: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("failoverd-bench-").tempdir()?;
        let pid = std::process::id().to_string();
        let output = Command::new("python3")
            .arg(script("lab.py"))
            .args(["up", "--only", components, "--parent-pid", &pid, "--run-dir"])
            .arg(folder.path())
            .output()
            .context("python3 is not installed")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "the lab does not start (run tests/lab/install.sh): {said}");
        let json = serde_json::from_slice(&fs::read(folder.path().join("lab.json"))?)?;
        Ok(Self { json, folder })
    }

    /// A text of `lab.json`; empty where there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The texts of a list of `lab.json`.
    pub(crate) fn texts(&self, pointer: &str) -> Vec<&str> {
        let list = self.json.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A number of `lab.json`.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.json.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Should this fail, the lab's own supervisor stops it when this process is gone.
        let _ =
            Command::new("python3").arg(script("lab.py")).args(["down", "--run-dir"]).arg(self.folder.path()).output();
    }
}

/// A program of the lab.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(name)
}
