//! Why a ledger cannot be opened or read, in words for people.

use std::io;
use std::path::PathBuf;

use super::codec::HEADER;

/// Why a ledger cannot be opened or read. Each of them means: do not act, and wake someone.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder is not there.
    #[error("the folder of the ledger {path} does not exist; create it, owned by the user that runs failoverd: install -d -m 0700 {folder}", path = path.display(), folder = folder.display())]
    NoFolder {
        /// The ledger.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// There is no such ledger to read.
    #[error("there is no ledger at {path}", path = path.display())]
    Missing {
        /// The ledger.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("the ledger {path} is in use by {}; only one failoverd may use a ledger. Stop that one first, or give this one a ledger of its own", holder_text(*holder), path = path.display())]
    Locked {
        /// The ledger.
        path: PathBuf,
        /// Process id of the holder, where the kernel tells it.
        holder: Option<u32>,
    },
    /// It is some other file.
    #[error("{path} is not a ledger of failoverd (it does not begin with `{}`); nothing was changed. Check `ledger.path`", HEADER.trim_end(), path = path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
    },
    /// It was changed by something other than failoverd, or the disk lost something.
    #[error("the ledger {path} is damaged in frame {frame} (at byte {offset}): {what}. Nothing was changed and nothing will be done. Look at it with `failoverd ledger verify {path}` and `failoverd ledger show {path}`; restore it from a backup, or move it away, start with a new one and run `failoverd adopt`", path = path.display())]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// Frame number.
        frame: u64,
        /// Byte at which the frame begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A ledger that is not a file was changed by something other than failoverd.
    #[error(
        "the ledger {place} is damaged in frame {frame}: {what}. Nothing was changed and nothing will be done. Look at it with `failoverd ledger verify`; restore it from a backup, or start with a new one and run `failoverd adopt`"
    )]
    Broken {
        /// Which ledger.
        place: String,
        /// Frame number.
        frame: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A ledger that is not a file does not answer. It may the next time.
    #[error("the ledger {place} cannot be read: {why}")]
    Unavailable {
        /// Which ledger.
        place: String,
        /// What was seen.
        why: String,
    },
    /// A ledger that is not a file cannot be used as it is configured.
    #[error("the ledger {place} cannot be used: {why}")]
    Unfit {
        /// Which ledger.
        place: String,
        /// What was seen, and what to do.
        why: String,
    },
    /// The operating system refused something.
    #[error("cannot {what} the ledger {path}{}", hint(source), path = path.display())]
    Io {
        /// The ledger.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

pub(super) fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (failoverd must own the file, mode 0600, and be allowed to write to its folder)"
    } else if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        " (the file system is mounted read-only)"
    } else if is_full(error) {
        " (the disk is full, or a quota is used up)"
    } else {
        ""
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl LedgerError {
    pub(super) fn unavailable(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unavailable { place: place.into(), why: why.into() }
    }
}
