//! A ledger for the simulation: a disk that outlives its daemon, and that can be made to fail at any append.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::file::LedgerError;
use super::permit::Durable;
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now};
use crate::ports::{AppendError, Lease, Ledger};

/// What happens at the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The daemon dies before anything is written: the frame is not there after the restart.
    CrashBefore,
    /// The daemon dies after the frame is durable and before it hears of it.
    CrashAfter,
    /// The disk is full. What is written after that is not durable before somebody has mended it: the kernel reports a
    /// failed fsync once, and the next one succeeds although the pages are gone.
    Full,
    /// The frame is durable, and the answer says otherwise.
    Lost,
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    frames: Arc<Mutex<Vec<Frame>>>,
    /// Looks durable and is not.
    doubtful: Arc<Mutex<Option<Vec<Frame>>>>,
}

impl MemoryDisk {
    /// A disk with a new ledger on it.
    pub fn new(ledger: impl Into<LedgerId>, now: Now) -> Self {
        let created = Frame { index: 0, epoch: 0, at: now, facts: vec![Fact::LedgerCreated { ledger: ledger.into() }] };
        Self::with(vec![created])
    }

    /// A disk with these frames on it.
    pub fn with(frames: Vec<Frame>) -> Self {
        Self { frames: Arc::new(Mutex::new(frames)), doubtful: Arc::default() }
    }

    /// What is on it.
    pub fn frames(&self) -> Vec<Frame> {
        self.lock().clone()
    }

    /// What is on it from `index` on.
    pub fn frames_from(&self, index: usize) -> Vec<Frame> {
        self.lock().get(index..).unwrap_or_default().to_vec()
    }

    /// Somebody has mended it: what was not durable is gone, and what comes will be.
    pub fn mended(&self) {
        *self.doubtful.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fail(&self) {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }

    fn push(&self, frame: Frame) {
        match &mut *self.doubtful.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(doubtful) => doubtful.push(frame),
            None => self.lock().push(frame),
        }
    }

    /// Frames that seem to be there.
    fn len(&self) -> usize {
        let doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Vec::len);
        self.lock().len() + doubtful
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One daemon's hold on a [`MemoryDisk`]. Its futures never wait, so that they can be polled outside of a runtime.
#[derive(Debug)]
pub struct MemoryLedger {
    disk: MemoryDisk,
    epoch: Option<u64>,
    sabotage: Option<Sabotage>,
    halted: Option<String>,
}

impl MemoryLedger {
    /// A daemon starts on this disk.
    pub fn open(disk: &MemoryDisk) -> Self {
        Self { disk: disk.clone(), epoch: None, sabotage: None, halted: None }
    }

    /// What happens at the next append. After a crash the ledger refuses everything, as a dead daemon does.
    pub fn sabotage_next(&mut self, sabotage: Sabotage) {
        self.sabotage = Some(sabotage);
    }

    fn halt(&mut self, why: &str) -> AppendError {
        self.halted = Some(why.to_owned());
        AppendError::Halted(why.to_owned())
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn campaign(&mut self, _now: Now) -> Result<Lease, AppendError> {
        let last = self.disk.lock().last().map_or(0, |frame| frame.epoch);
        let epoch = *self.epoch.get_or_insert(last + 1);
        Ok(Lease { epoch, until: Duration::MAX })
    }

    async fn append(&mut self, frame: Frame) -> Result<Durable, AppendError> {
        if let Some(why) = &self.halted {
            return Err(AppendError::Halted(why.clone()));
        }
        let next = self.disk.len() as u64;
        let highest = self.disk.lock().last().map_or(0, |frame| frame.epoch);
        if frame.epoch < highest {
            return Err(AppendError::Fenced { epoch: highest });
        }
        if self.epoch != Some(frame.epoch) || frame.index != next {
            return Err(self.halt("a frame was to be recorded where it does not belong"));
        }
        let (index, epoch) = (frame.index, frame.epoch);
        match self.sabotage.take() {
            Some(Sabotage::CrashBefore) => Err(self.halt("the daemon died before the frame was written")),
            Some(Sabotage::CrashAfter) => {
                self.disk.push(frame);
                Err(self.halt("the daemon died after the frame was written"))
            }
            Some(Sabotage::Full) => {
                self.disk.fail();
                Err(self.halt("the disk is full"))
            }
            Some(Sabotage::Lost) => {
                self.disk.push(frame);
                Err(self.halt("no answer from the disk"))
            }
            None => {
                self.disk.push(frame);
                Ok(Durable::recorded(index, epoch))
            }
        }
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        Ok(self.disk.lock().iter().filter(|frame| frame.index >= index).cloned().collect())
    }
}
