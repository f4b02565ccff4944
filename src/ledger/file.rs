//! The ledger of a single daemon: one append-only file, one fsync per frame, an exclusive lock.
//!
//! Nothing in the file is ever overwritten, and nothing is removed but a last line that a crash cut short. After a
//! write or an fsync that failed, nobody knows what is on the disk (the kernel may have dropped the dirty pages), so
//! neither is tried again: the ledger refuses everything until a restart has read the file anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Durable;
use super::codec::{self, Damage, HEADER, Head, ReadError, Scanner, Torn};
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now};
use crate::ports::{AppendError, Lease, Ledger};

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

fn hint(error: &io::Error) -> &'static str {
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

/// What was found when a ledger was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// There was none, and it was created.
    pub created: bool,
    /// A crash had cut the last line short; it was removed. To be logged.
    pub torn: Option<Torn>,
    /// Number of frames in it.
    pub frames: u64,
}

/// A ledger in a file. See [`Ledger`] for what it promises.
#[derive(Debug)]
pub struct FileLedger {
    path: PathBuf,
    file: Arc<File>,
    head: Head,
    length: u64,
    next: u64,
    epoch: u64,
    leading: bool,
    halted: Option<String>,
}

impl FileLedger {
    /// Opens the ledger at `path` for this process alone, and creates it with its first frame if there is none.
    ///
    /// Reads and checks every frame, and cuts off a last line that a crash left incomplete. Blocks: to be called
    /// while starting.
    ///
    /// # Errors
    /// See [`LedgerError`]; the file is unchanged then.
    pub fn open(path: &Path, now: Now) -> Result<(Self, Opening), LedgerError> {
        let io_error = |what| move |source| LedgerError::Io { path: path.to_owned(), what, source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(LedgerError::NoFolder { path: path.to_owned(), folder: folder.to_owned() });
        }
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io_error("open"))?;
        lock(path, &file)?;
        let (head, length, next, epoch, torn) = {
            let mut scanner = Scanner::new(BufReader::new(&file)).map_err(|error| at(path, error))?;
            while scanner.next_frame().map_err(|error| at(path, error))?.is_some() {}
            (scanner.head(), scanner.offset(), scanner.frames(), scanner.epoch(), scanner.torn())
        };
        if torn.is_some() {
            file.set_len(length).and_then(|()| file.sync_all()).map_err(io_error("cut the incomplete last line of"))?;
        }
        let mut ledger = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            head,
            length,
            next,
            epoch,
            leading: false,
            halted: None,
        };
        let created = next == 0;
        if created {
            ledger.create(now).map_err(io_error("create"))?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("make durable the name of"))?;
        }
        let opening = Opening { created, torn, frames: ledger.next };
        Ok((ledger, opening))
    }

    /// Writes the header (unless it is there) and the frame that says which ledger this is.
    fn create(&mut self, now: Now) -> io::Result<()> {
        let ledger = LedgerId::from(uuid::Uuid::now_v7().to_string());
        let frame = Frame { index: 0, epoch: 0, at: now, facts: vec![Fact::LedgerCreated { ledger }] };
        let (line, head) = codec::encode(self.head, &frame).map_err(io::Error::other)?;
        let mut text = if self.length == 0 { HEADER.as_bytes().to_vec() } else { Vec::new() };
        text.extend_from_slice(&line);
        (&*self.file).write_all(&text)?;
        self.file.sync_all()?;
        self.head = head;
        self.length += text.len() as u64;
        self.next = 1;
        Ok(())
    }

    fn halt(&mut self, why: String) -> AppendError {
        self.halted = Some(why.clone());
        AppendError::Halted(why)
    }
}

#[async_trait]
impl Ledger for FileLedger {
    /// Whoever holds the lock leads, for ever: there is nobody else.
    async fn campaign(&mut self, _now: Now) -> Result<Lease, AppendError> {
        if let Some(why) = &self.halted {
            return Err(AppendError::Halted(why.clone()));
        }
        if !self.leading {
            self.epoch += 1;
            self.leading = true;
        }
        Ok(Lease { epoch: self.epoch, until: Duration::MAX })
    }

    async fn append(&mut self, frame: Frame) -> Result<Durable, AppendError> {
        if let Some(why) = &self.halted {
            return Err(AppendError::Halted(why.clone()));
        }
        if !self.leading {
            return Err(self.halt("a frame was to be recorded before this daemon campaigned".to_owned()));
        }
        if frame.epoch < self.epoch {
            return Err(AppendError::Fenced { epoch: self.epoch });
        }
        if frame.epoch > self.epoch || frame.index != self.next {
            return Err(self.halt(format!(
                "frame {} of epoch {} was to be recorded where frame {} of epoch {} belongs",
                frame.index, frame.epoch, self.next, self.epoch
            )));
        }
        let (line, head) = match codec::encode(self.head, &frame) {
            Ok(encoded) => encoded,
            Err(error) => return Err(self.halt(error.to_string())),
        };
        // Taken back below. If this future is dropped half-way, nobody will ever know what was written.
        self.halted = Some("an append was abandoned before its end was known; restart failoverd".to_owned());
        let (file, path, length) = (Arc::clone(&self.file), self.path.clone(), self.length);
        let bytes = line.len() as u64;
        let written = tokio::task::spawn_blocking(move || write_durably(&file, &path, length, &line)).await;
        match written {
            Ok(Ok(())) => {
                self.halted = None;
                self.head = head;
                self.length += bytes;
                self.next += 1;
                Ok(Durable::recorded(frame.index, frame.epoch))
            }
            Ok(Err(error)) => {
                let why = format!(
                    "frame {} could not be made durable in {}: {error}{}. It is not retried, because nobody knows what \
                     is on the disk; nothing was done about it. Put it right and restart failoverd",
                    frame.index,
                    self.path.display(),
                    hint(&error),
                );
                Err(self.halt(why))
            }
            Err(stopped) => Err(self.halt(format!("frame {} was not written: {stopped}", frame.index))),
        }
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || read(&path, index).map(|contents| contents.frames)).await.map_err(
            |stopped| LedgerError::Io { path: self.path.clone(), what: "read", source: io::Error::other(stopped) },
        )?
    }
}

/// Writes the line at the end of the file and waits until it is on the disk.
///
/// The file is looked at first: if it was cut, grew or was replaced while the lock was held, then somebody else's
/// hands are in it, and a frame written there would not be found again.
fn write_durably(mut file: &File, path: &Path, length: u64, line: &[u8]) -> io::Result<()> {
    let open = file.metadata()?;
    if open.len() != length {
        return Err(io::Error::other(format!(
            "the file has {} bytes and should have {length}: something else changed it",
            open.len()
        )));
    }
    let named = fs::metadata(path)?;
    if (named.dev(), named.ino()) != (open.dev(), open.ino()) {
        return Err(io::Error::other("the file was replaced by another one of the same name"));
    }
    file.write_all(line)?;
    file.sync_data()
}

/// A ledger as it is on the disk.
#[derive(Debug)]
pub struct Contents {
    /// The frames from the index that was asked for.
    pub frames: Vec<Frame>,
    /// Number of all frames.
    pub count: u64,
    /// Hash over everything, as hexadecimal digits.
    pub head: String,
    /// A last line that is not complete: being written, or cut short by a crash.
    pub torn: Option<Torn>,
}

/// Reads the ledger at `path` from frame `from` on, checks all of it, changes nothing and needs no lock.
///
/// # Errors
/// Like [`FileLedger::open`].
pub fn read(path: &Path, from: u64) -> Result<Contents, LedgerError> {
    let file = File::open(path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            LedgerError::Missing { path: path.to_owned() }
        } else {
            LedgerError::Io { path: path.to_owned(), what: "open", source }
        }
    })?;
    let mut scanner = Scanner::new(BufReader::with_capacity(1 << 16, file)).map_err(|error| at(path, error))?;
    let mut frames = Vec::new();
    while let Some(frame) = scanner.next_frame().map_err(|error| at(path, error))? {
        if frame.index >= from {
            frames.push(frame);
        }
    }
    Ok(Contents { frames, count: scanner.frames(), head: scanner.head().text(), torn: scanner.torn() })
}

fn at(path: &Path, error: ReadError) -> LedgerError {
    let path = path.to_owned();
    match error {
        ReadError::Io(source) => LedgerError::Io { path, what: "read", source },
        ReadError::NotALedger => LedgerError::NotALedger { path },
        ReadError::Damaged(Damage { frame, offset, what }) => LedgerError::Damaged { path, frame, offset, what },
    }
}

fn lock(path: &Path, file: &File) -> Result<(), LedgerError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(LedgerError::Locked { path: path.to_owned(), holder: file.metadata().ok().and_then(holder) })
        }
        Err(TryLockError::Error(source)) => Err(LedgerError::Io { path: path.to_owned(), what: "lock", source }),
    }
}

/// Who holds the lock, as far as `/proc/locks` tells: `1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF`.
fn holder(metadata: fs::Metadata) -> Option<u32> {
    let inode = metadata.ino().to_string();
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (kind, pid, place) = (words.nth(1)?, words.nth(2)?, words.next()?);
        let held = kind == "FLOCK" && place.rsplit(':').next() == Some(inode.as_str());
        held.then(|| pid.parse().ok()).flatten()
    })
}
