//! The ledger of a single daemon: one append-only file, one fsync per frame, an exclusive lock.
//!
//! Nothing in the file is ever overwritten, and nothing is removed but a last line that a crash cut short. After a
//! write or an fsync that failed, nobody knows what is on the disk (the kernel may have dropped the dirty pages), so
//! neither is tried again: the ledger refuses everything until a restart has read the file anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::Durable;
use super::codec::{self, Chain, Damage, HEADER, Head, ReadError, Scanner, Torn};
use super::error::{LedgerError, hint};
use super::view::View;
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now, ObserverId};
use crate::health::Ballot;
use crate::ports::{AppendError, Candidacy, Lease, Ledger, OperatorAnswer, OperatorRequest, Standing, Unusable};

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

/// A ledger in a file. See [`Ledger`] for what it promises; ballots and requests stay in this process.
#[derive(Debug)]
pub struct FileLedger {
    path: PathBuf,
    file: Arc<File>,
    state: Mutex<State>,
    view: View,
}

#[derive(Debug)]
struct State {
    head: Head,
    length: u64,
    next: u64,
    epoch: u64,
    leading: bool,
    /// An append is under way; or it was dropped half-way, and nobody will ever know what was written.
    open: bool,
    halted: Option<String>,
    confirmed: Option<Duration>,
}

impl State {
    fn halt(&mut self, why: String) -> AppendError {
        self.halted = Some(why.clone());
        AppendError::Halted(why)
    }

    /// The line to write for `frame`, and the head after it.
    fn prepare(&mut self, frame: &Frame) -> Result<(Vec<u8>, Head), AppendError> {
        if let Some(why) = &self.halted {
            return Err(AppendError::Halted(why.clone()));
        }
        if self.open {
            return Err(self.halt("an append was abandoned before its end was known; restart failoverd".to_owned()));
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
        codec::encode(self.head, frame).map_err(|error| self.halt(error.to_string()))
    }
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
        let (Chain { head, next, epoch }, length, torn) = {
            let mut scanner = Scanner::new(BufReader::new(&file)).map_err(|error| at(path, error))?;
            while scanner.next_frame().map_err(|error| at(path, error))?.is_some() {}
            (scanner.chain(), scanner.offset(), scanner.torn())
        };
        if torn.is_some() {
            file.set_len(length).and_then(|()| file.sync_all()).map_err(io_error("cut the incomplete last line of"))?;
        }
        let mut state = State { head, length, next, epoch, leading: false, open: false, halted: None, confirmed: None };
        let created = next == 0;
        if created {
            create(&file, &mut state, now).map_err(io_error("create"))?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("make durable the name of"))?;
        }
        let opening = Opening { created, torn, frames: state.next };
        let view = View::default();
        view.reached(state.next);
        Ok((Self { path: path.to_owned(), file: Arc::new(file), state: Mutex::new(state), view }, opening))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the header (unless it is there) and the frame that says which ledger this is.
fn create(mut file: &File, state: &mut State, now: Now) -> io::Result<()> {
    let ledger = LedgerId::from(uuid::Uuid::now_v7().to_string());
    let frame = Frame { index: 0, epoch: 0, at: now, facts: vec![Fact::LedgerCreated { ledger }] };
    let (line, head) = codec::encode(state.head, &frame).map_err(io::Error::other)?;
    let mut text = if state.length == 0 { HEADER.as_bytes().to_vec() } else { Vec::new() };
    text.extend_from_slice(&line);
    file.write_all(&text)?;
    file.sync_all()?;
    state.head = head;
    state.length += text.len() as u64;
    state.next = 1;
    Ok(())
}

/// Nobody else can take a file over while its lock is held.
fn for_ever(epoch: u64) -> Lease {
    Lease { epoch, until: Duration::MAX }
}

#[async_trait]
impl Ledger for FileLedger {
    /// Whoever holds the lock leads, for ever: there is nobody else.
    async fn campaign(&self, now: Now) -> Result<Candidacy, Unusable> {
        let mut state = self.lock();
        if let Some(why) = &state.halted {
            return Err(Unusable::Halted(why.clone()));
        }
        if !state.leading {
            state.epoch += 1;
            state.leading = true;
            let epoch = state.epoch;
            self.view.update(|kept| kept.leader = Some((ObserverId::from("this daemon"), epoch)));
        }
        state.confirmed = Some(now.monotonic);
        Ok(Candidacy::Leading(for_ever(state.epoch)))
    }

    async fn renew(&self, now: Now) -> Result<Option<Lease>, Unusable> {
        let mut state = self.lock();
        if let Some(why) = &state.halted {
            return Err(Unusable::Halted(why.clone()));
        }
        state.confirmed = Some(now.monotonic);
        Ok(state.leading.then(|| for_ever(state.epoch)))
    }

    /// There is nobody to resign for; the lock goes with the process.
    async fn resign(&self) {}

    async fn append(&self, frame: Frame) -> Result<Durable, AppendError> {
        let (line, head, length) = {
            let mut state = self.lock();
            let (line, head) = state.prepare(&frame)?;
            state.open = true;
            (line, head, state.length)
        };
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let bytes = line.len() as u64;
        let written = tokio::task::spawn_blocking(move || write_durably(&file, &path, length, &line)).await;
        let mut state = self.lock();
        state.open = false;
        match written {
            Ok(Ok(())) => {
                state.head = head;
                state.length += bytes;
                state.next += 1;
                self.view.reached(state.next);
                Ok(Durable::recorded(frame.index, &for_ever(frame.epoch)))
            }
            Ok(Err(error)) => {
                let why = format!(
                    "frame {} could not be made durable in {}: {error}{}. It is not retried, because nobody knows what \
                     is on the disk; nothing was done about it. Put it right and restart failoverd",
                    frame.index,
                    self.path.display(),
                    hint(&error),
                );
                Err(state.halt(why))
            }
            Err(stopped) => Err(state.halt(format!("frame {} was not written: {stopped}", frame.index))),
        }
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || read(&path, index).map(|contents| contents.frames)).await.map_err(
            |stopped| LedgerError::Io { path: self.path.clone(), what: "read", source: io::Error::other(stopped) },
        )?
    }

    async fn changed(&self, index: u64) {
        self.view.changed(index).await;
    }

    async fn stirred(&self, since: u64) -> u64 {
        self.view.stirred(since).await
    }

    async fn publish(&self, ballot: &Ballot) -> Result<(), Unusable> {
        self.view.update(|kept| drop(kept.ballots.insert(ballot.observer.clone(), ballot.clone())));
        Ok(())
    }

    fn ballots(&self) -> Vec<Ballot> {
        self.view.ballots()
    }

    async fn request(&self, request: &OperatorRequest) -> Result<(), Unusable> {
        self.view.update(|kept| {
            if !kept.answers.contains_key(&request.id) {
                kept.requests.insert(request.id.clone(), request.clone());
            }
        });
        Ok(())
    }

    fn requests(&self) -> Vec<OperatorRequest> {
        self.view.requests()
    }

    async fn answer(&self, id: &str, answer: &OperatorAnswer) -> Result<(), Unusable> {
        self.view.update(|kept| kept.answer(id, answer));
        Ok(())
    }

    fn answer_of(&self, id: &str) -> Option<OperatorAnswer> {
        self.view.answer_of(id)
    }

    fn standing(&self) -> Standing {
        let state = self.lock();
        self.view.standing(state.confirmed, state.halted.clone().map(Unusable::Halted))
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
    Ok(Contents { frames, count: scanner.chain().next, head: scanner.chain().head.text(), torn: scanner.torn() })
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

/// Who uses the ledger at `path` at this moment, in words; none where nobody does. Changes nothing.
///
/// # Errors
/// It is not there, or cannot be opened.
pub fn in_use(path: &Path) -> Result<Option<String>, LedgerError> {
    let file = File::open(path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            LedgerError::Missing { path: path.to_owned() }
        } else {
            LedgerError::Io { path: path.to_owned(), what: "open", source }
        }
    })?;
    match lock(path, &file) {
        // Given back when the file is closed.
        Ok(()) => Ok(None),
        Err(LedgerError::Locked { holder, .. }) => {
            Ok(Some(holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))))
        }
        Err(error) => Err(error),
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
