//! What a daemon leaves on the disk for the day on which the shared ledger is gone: where everything was served, and
//! what was owed. Break-glass reads it; nothing else does, and it is no authority on anything.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
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
    if std::fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::other("it is longer than anything of ours"));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
}

/// Writes the file whenever there is something new to know, from a thread that may hang without anybody waiting.
#[derive(Debug)]
pub(super) struct Keepsake {
    path: Option<PathBuf>,
    last: Option<LastKnown>,
    /// One at a time: a later one is not to be overtaken.
    writing: Option<JoinHandle<()>>,
}

impl Keepsake {
    /// Nothing is kept without a place.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, last: None, writing: None }
    }

    pub(super) fn keep(&mut self, known: Option<LastKnown>, frames: u64, at: Timestamp) {
        let (Some(path), Some(known)) = (&self.path, known) else { return };
        let is_busy = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if self.last.as_ref() == Some(&known) || is_busy {
            return;
        }
        self.last = Some(known.clone());
        let (path, kept) = (path.clone(), Kept { frames, at, known });
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&path, &kept) {
                let path = path.display();
                warn!(
                    "{path} cannot be written: {error}; whoever has to break the glass here would have to know by heart where everything is served"
                );
            }
        }));
    }
}

/// Whole or not at all.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(kept).map_err(io::Error::other)?;
    text.push('\n');
    let new = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).inspect_err(|_| drop(std::fs::remove_file(&new)))
}
