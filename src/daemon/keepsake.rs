//! What a daemon leaves on the disk for the day on which the shared ledger is gone: where everything was served, and
//! what was owed. Break-glass reads it; nothing else does, and it is no authority on anything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::config::Config;
use crate::decide::LastKnown;

/// Longer than any of ours, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Frames that were known.
    pub frames: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What was known.
    #[serde(flatten)]
    pub known: LastKnown,
}

/// Where the file is: beside the ledger that a single daemon would have.
pub fn place(config: &Config) -> PathBuf {
    config.ledger.path.with_file_name(format!("{}.last-known.json", config.deployment.name))
}

/// What was kept there.
///
/// # Errors
/// It cannot be read, or is none of ours. `NotFound` where nobody ever wrote one.
pub fn read(path: &Path) -> io::Result<Kept> {
    read_json(path)
}

/// Writes the file whenever there is something new to know.
#[derive(Debug)]
pub(super) struct Keepsake {
    scribe: Scribe,
    last: Option<LastKnown>,
}

impl Keepsake {
    /// Nothing is kept without a place.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let cost = "whoever has to break the glass here would have to know by heart where everything is served";
        Self { scribe: Scribe::new(path, cost), last: None }
    }

    pub(super) fn keep(&mut self, known: Option<LastKnown>, frames: u64, at: Timestamp) {
        let Some(known) = known.filter(|known| self.last.as_ref() != Some(known)) else { return };
        if self.scribe.is_free() {
            self.last = Some(known.clone());
            self.scribe.write(Kept { frames, at, known });
        }
    }
}

/// Writes a file again and again, from a thread that may hang without anybody waiting.
#[derive(Debug)]
pub(super) struct Scribe {
    path: Option<Arc<Path>>,
    /// What it costs that the file cannot be written; told once, until it can be.
    cost: &'static str,
    is_failing: Arc<AtomicBool>,
    /// One at a time: a later one is not to be overtaken.
    writing: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Nothing is written without a place.
    pub(super) fn new(path: Option<PathBuf>, cost: &'static str) -> Self {
        Self { path: path.map(Arc::from), cost, is_failing: Arc::default(), writing: None }
    }

    /// Nothing is being written at this moment, and there is a place.
    pub(super) fn is_free(&self) -> bool {
        self.path.is_some() && self.writing.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub(super) fn write(&mut self, content: impl Serialize + Send + 'static) {
        let Some(path) = self.path.clone() else { return };
        let (cost, is_failing) = (self.cost, self.is_failing.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let written = write(&path, &content);
            let was_failing = is_failing.swap(written.is_err(), Ordering::Relaxed);
            if let Err(error) = written.map_err(|error| error.to_string())
                && !was_failing
            {
                warn!("{} cannot be written: {error}; {cost}", path.display());
            }
        }));
    }
}

/// Whole or not at all.
fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(content).map_err(io::Error::other)?;
    text.push('\n');
    let new = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).inspect_err(|_| drop(std::fs::remove_file(&new)))
}

/// The content of a file of ours.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    if std::fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::other("it is longer than anything of ours"));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
}
