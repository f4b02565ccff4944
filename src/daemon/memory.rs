//! What a run of the daemon leaves to the next one on this machine: since when databases are silent, and where their logs
//! stood. It is written every two seconds and never synced: it has to outlive the process, not the machine.
//!
//! Without it nothing goes wrong. A restart in the middle of an outage then counts all that went before as time in which the
//! database may have written, so that a person is asked.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::keepsake::{Scribe, read_json};
use crate::config::Config;
use crate::decide::Controller;
use crate::domain::{Now, ObserverId};
use crate::health::Memory;

/// It is written down this often.
const EVERY: Duration = Duration::from_secs(2);
/// Another one after every boot. See `random(4)`.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Times of another boot say nothing.
    boot: String,
    #[serde(flatten)]
    memory: Memory,
}

/// Where the file is: beside the ledger that a single daemon would have.
pub(super) fn place(config: &Config, observer: &ObserverId) -> PathBuf {
    config.ledger.path.with_file_name(format!("{}.{observer}.last-seen.json", config.deployment.name))
}

/// What the run before this one left, if that was since the machine was booted.
pub(super) fn read(path: &Path) -> Option<Memory> {
    let kept: Kept = match read_json(path) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("{} cannot be read, so an outage that had begun counts from now on: {error}", path.display());
            return None;
        }
    };
    (Some(kept.boot) == boot_id()).then_some(kept.memory)
}

fn boot_id() -> Option<String> {
    std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned())
}

/// Writes it down.
#[derive(Debug)]
pub(super) struct Diary {
    scribe: Scribe,
    boot: Option<String>,
    written: Option<Duration>,
}

impl Diary {
    /// Nothing is written without a place.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let cost = "after a restart in the middle of an outage, all of it would count as lost";
        Self { scribe: Scribe::new(path, cost), boot: boot_id(), written: None }
    }

    pub(super) fn keep(&mut self, controller: &mut Controller, now: Now) {
        let is_due = self.written.is_none_or(|at| now.monotonic.saturating_sub(at) >= EVERY);
        let Some(boot) = self.boot.clone().filter(|_| is_due && self.scribe.is_free()) else { return };
        self.written = Some(now.monotonic);
        self.scribe.write(Kept { boot, memory: controller.memory(now) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_before_the_machine_was_booted_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kept.json");
        let now = Now { monotonic: Duration::from_secs(7), wall: jiff::Timestamp::UNIX_EPOCH };
        let memory = Memory { at: now, databases: [].into() };
        let write = |boot: &str| {
            let kept = Kept { boot: boot.to_owned(), memory: memory.clone() };
            std::fs::write(&path, serde_json::to_string(&kept).expect("serializes")).expect("written");
        };
        write("another");
        assert_eq!(read(&path), None);
        write(&boot_id().expect("a boot"));
        assert_eq!(read(&path), Some(memory.clone()));
        std::fs::write(&path, "{").expect("written");
        assert_eq!(read(&path), None, "half of it says nothing");
    }
}
