//! A ledger for the simulation: a disk that outlives its daemons, and that can be made to fail at any append.
//!
//! A disk is either one daemon's own ([`MemoryLedger::open`]), or shared by several ([`MemoryLedger::join`]), with the
//! contract that etcd keeps: a lease in virtual time, epochs, fencing, writes whose answer is lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::lease_margin;
use super::permit::Durable;
use super::view::View;
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now, ObserverId};
use crate::health::Ballot;
use crate::ledger::LedgerError;
use crate::ports::{AppendError, Candidacy, Lease, Ledger, OperatorAnswer, OperatorRequest, Standing, Unusable};

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
    /// The request does not arrive; the answer is unknown.
    RequestLost,
    /// The frame is recorded; the answer is unknown.
    AnswerLost,
    /// The answer is unknown, and the frame is recorded at [`MemoryDisk::deliver_late`] if it still may be.
    Delayed,
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Disk>>,
    view: Arc<View>,
}

#[derive(Debug, Default)]
struct Disk {
    frames: Vec<Frame>,
    /// Looks durable and is not.
    doubtful: Option<Vec<Frame>>,
    /// Its own time; none: the latest that a daemon has named.
    clock: Option<Duration>,
    heard: Duration,
    hold: Option<Hold>,
    /// The highest epoch that anybody had.
    epoch: u64,
    runs: u64,
    /// Observers that cannot reach it.
    cut: BTreeSet<ObserverId>,
    /// On their way, with the run that sent them.
    late: Vec<(u64, Frame)>,
    /// It takes what a deposed leader sends: a deliberate bug.
    is_careless: bool,
}

/// The leader's lease.
#[derive(Debug)]
struct Hold {
    observer: ObserverId,
    run: u64,
    epoch: u64,
    ends: Duration,
}

impl MemoryDisk {
    /// A disk with a new ledger on it.
    pub fn new(ledger: impl Into<LedgerId>, now: Now) -> Self {
        let created = Frame { index: 0, epoch: 0, at: now, facts: vec![Fact::LedgerCreated { ledger: ledger.into() }] };
        Self::with(vec![created])
    }

    /// A disk with these frames on it.
    pub fn with(frames: Vec<Frame>) -> Self {
        let disk = Self::default();
        disk.lock().frames = frames;
        disk.reached();
        disk
    }

    /// What is on it.
    pub fn frames(&self) -> Vec<Frame> {
        self.lock().frames.clone()
    }

    /// How many frames are on it for sure.
    pub fn recorded(&self) -> u64 {
        self.lock().frames.len() as u64
    }

    /// What is on it from `index` on.
    pub fn frames_from(&self, index: usize) -> Vec<Frame> {
        self.lock().frames.get(index..).unwrap_or_default().to_vec()
    }

    /// Somebody has mended it: what was not durable is gone, and what comes will be.
    pub fn mended(&self) {
        self.lock().doubtful = None;
    }

    /// What its own clock says, for daemons whose clocks differ. Never set: it takes the latest time that one names.
    pub fn set_time(&self, time: Duration) {
        let mut disk = self.lock();
        disk.clock = Some(time);
        self.expire(&mut disk);
    }

    /// It takes what a deposed leader sends, behind everything else: a deliberate bug, for the tests to find.
    pub(crate) fn be_careless(&self) {
        self.lock().is_careless = true;
    }

    /// This observer cannot reach it: everything that it asks is without an answer, and without an effect.
    pub fn cut(&self, observer: &ObserverId) {
        self.lock().cut.insert(observer.clone());
    }

    /// This observer can reach it again.
    pub fn heal(&self, observer: &ObserverId) {
        self.lock().cut.remove(observer);
    }

    /// What [`Sabotage::Delayed`] held back arrives now, and is recorded where it still may be: true if anything was.
    pub fn deliver_late(&self) -> bool {
        let mut disk = self.lock();
        self.expire(&mut disk);
        let late = std::mem::take(&mut disk.late);
        let before = disk.frames.len();
        for (run, frame) in late {
            let leads = disk.hold.as_ref().is_some_and(|hold| hold.run == run && hold.epoch == frame.epoch);
            if leads && frame.index == disk.frames.len() as u64 {
                disk.frames.push(frame);
            }
        }
        let is_news = disk.frames.len() > before;
        drop(disk);
        self.reached();
        is_news
    }

    fn fail(&self) {
        self.lock().doubtful.get_or_insert_default();
    }

    fn push(&self, frame: Frame) {
        let mut disk = self.lock();
        match &mut disk.doubtful {
            Some(doubtful) => doubtful.push(frame),
            None => disk.frames.push(frame),
        }
        drop(disk);
        self.reached();
    }

    /// Frames that seem to be there.
    fn len(&self) -> usize {
        let disk = self.lock();
        disk.frames.len() + disk.doubtful.as_ref().map_or(0, Vec::len)
    }

    fn reached(&self) {
        self.view.reached(self.lock().frames.len() as u64);
    }

    /// A lease that ran out is nobody's.
    fn expire(&self, disk: &mut Disk) {
        let time = disk.time();
        if disk.hold.as_ref().is_some_and(|hold| hold.ends <= time) {
            disk.hold = None;
            self.view.update(|kept| kept.leader = None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn time(&self) -> Duration {
        self.clock.unwrap_or(self.heard)
    }

    fn highest(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.epoch).max(self.epoch)
    }
}

/// One daemon's hold on a [`MemoryDisk`]. Only waiting for news waits, so that all else can be polled outside of a
/// runtime.
#[derive(Debug)]
pub struct MemoryLedger {
    disk: MemoryDisk,
    /// None: the disk is this daemon's own.
    member: Option<Member>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Member {
    observer: ObserverId,
    run: u64,
    lasting: Duration,
}

#[derive(Debug, Default)]
struct State {
    lease: Option<Lease>,
    /// After so many appends.
    sabotage: Option<(usize, Sabotage)>,
    halted: Option<String>,
    confirmed: Option<Duration>,
    /// Nobody knows yet what became of the last append.
    is_unsettled: bool,
}

impl State {
    fn sabotage_now(&mut self) -> Option<Sabotage> {
        match &mut self.sabotage {
            Some((left @ 1.., _)) => {
                *left -= 1;
                None
            }
            Some((0, _)) | None => self.sabotage.take().map(|(_, sabotage)| sabotage),
        }
    }
}

impl MemoryLedger {
    /// A daemon starts on this disk, and nobody else uses it.
    pub fn open(disk: &MemoryDisk) -> Self {
        Self { disk: disk.clone(), member: None, state: Mutex::default() }
    }

    /// A run of `observer` starts to use this disk beside others, with leases of `lasting`.
    pub fn join(disk: &MemoryDisk, observer: ObserverId, lasting: Duration) -> Self {
        let mut inner = disk.lock();
        inner.runs += 1;
        let member = Member { observer, run: inner.runs, lasting };
        drop(inner);
        Self { disk: disk.clone(), member: Some(member), state: Mutex::default() }
    }

    /// What happens at the next append. After a crash the ledger refuses everything, as a dead daemon does.
    pub fn sabotage_next(&self, sabotage: Sabotage) {
        self.sabotage_after(0, sabotage);
    }

    /// What happens at the append after so many that go well.
    pub fn sabotage_after(&self, appends: usize, sabotage: Sabotage) {
        self.lock().sabotage = Some((appends, sabotage));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn halt(&self, why: &str) -> AppendError {
        self.lock().halted = Some(why.to_owned());
        AppendError::Halted(why.to_owned())
    }

    fn is_cut(&self) -> bool {
        self.member.as_ref().is_some_and(|member| self.disk.lock().cut.contains(&member.observer))
    }

    fn reach(&self) -> Result<(), Unusable> {
        if let Some(why) = &self.lock().halted {
            return Err(Unusable::Halted(why.clone()));
        }
        if self.is_cut() { Err(Unusable::Unavailable("the ledger does not answer".to_owned())) } else { Ok(()) }
    }

    /// The hold of `member`, prolonged, or a new one where `take` and nobody has one.
    fn hold(&self, member: &Member, now: Now, take: bool) -> Result<Candidacy, Option<Lease>> {
        let mut disk = self.disk.lock();
        disk.heard = disk.heard.max(now.monotonic);
        self.disk.expire(&mut disk);
        let ends = disk.time().saturating_add(member.lasting);
        let highest = disk.highest();
        if take && disk.hold.as_ref().is_some_and(|hold| hold.run == member.run) {
            let state = self.lock();
            let is_over = state.lease.is_some_and(|lease| lease.until <= now.monotonic);
            if is_over || state.is_unsettled {
                // A new epoch: a frame of this one that is still on its way must not arrive behind the caller's back.
                disk.hold = None;
            }
        }
        let epoch = match &mut disk.hold {
            Some(hold) if hold.run == member.run => {
                hold.ends = ends;
                hold.epoch
            }
            Some(hold) => {
                let candidacy = Candidacy::Following { leader: hold.observer.clone(), epoch: hold.epoch };
                self.lock().confirmed = Some(now.monotonic);
                return Ok(candidacy);
            }
            None if !take => {
                self.lock().confirmed = Some(now.monotonic);
                return Err(None);
            }
            None => {
                let epoch = highest + 1;
                disk.hold = Some(Hold { observer: member.observer.clone(), run: member.run, epoch, ends });
                disk.epoch = epoch;
                self.lock().is_unsettled = false;
                epoch
            }
        };
        let until = now.monotonic.saturating_add(member.lasting.saturating_sub(lease_margin(member.lasting)));
        let lease = Lease { epoch, until };
        self.disk.view.update(|kept| kept.leader = Some((member.observer.clone(), epoch)));
        let mut state = self.lock();
        state.lease = Some(lease);
        state.confirmed = Some(now.monotonic);
        Ok(Candidacy::Leading(lease))
    }

    /// As one transaction: the frame is recorded if the lease is ours and the index is the next one.
    fn record(&self, member: &Member, lease: &Lease, frame: Frame) -> Result<Durable, AppendError> {
        let mut disk = self.disk.lock();
        self.disk.expire(&mut disk);
        let leads = disk.hold.as_ref().is_some_and(|hold| hold.run == member.run && hold.epoch == frame.epoch);
        let next = disk.frames.len() as u64;
        if !leads && disk.is_careless {
            disk.frames.push(Frame { index: next, ..frame });
            drop(disk);
            self.disk.reached();
            return Ok(Durable::recorded(next, lease));
        }
        if !leads {
            let epoch = disk.hold.as_ref().map_or(disk.highest() + 1, |hold| hold.epoch);
            return Err(AppendError::Fenced { epoch });
        }
        let index = frame.index;
        if index == next {
            disk.frames.push(frame);
            drop(disk);
            self.disk.reached();
            return Ok(Durable::recorded(index, lease));
        }
        let is_ours =
            usize::try_from(index).ok().and_then(|at| disk.frames.get(at)).is_some_and(|there| *there == frame);
        drop(disk);
        if is_ours {
            return Ok(Durable::recorded(index, lease));
        }
        Err(self.halt("a frame was to be recorded where it does not belong"))
    }

    /// The append of a daemon among others.
    fn append_beside_others(&self, member: &Member, frame: Frame) -> Result<Durable, AppendError> {
        let (lease, sabotage) = {
            let mut state = self.lock();
            (state.lease, state.sabotage_now())
        };
        let Some(lease) = lease else {
            let disk = self.disk.lock();
            let epoch = disk.hold.as_ref().map_or(disk.highest() + 1, |hold| hold.epoch);
            return Err(AppendError::Fenced { epoch });
        };
        if frame.epoch != lease.epoch {
            return if frame.epoch < lease.epoch {
                Err(AppendError::Fenced { epoch: lease.epoch })
            } else {
                Err(self.halt("a frame was to be recorded where it does not belong"))
            };
        }
        let unknown = || {
            self.lock().is_unsettled = true;
            Err(AppendError::Unknown("the ledger does not answer".to_owned()))
        };
        if self.is_cut() {
            return unknown();
        }
        match sabotage {
            Some(Sabotage::CrashBefore) => Err(self.halt("the daemon died before the frame was written")),
            Some(Sabotage::CrashAfter) => {
                let _ = self.record(member, &lease, frame);
                Err(self.halt("the daemon died after the frame was written"))
            }
            // It lives, and others use it; whoever is told so has to stop.
            Some(Sabotage::Full) => Err(AppendError::Halted("the frame cannot be recorded".to_owned())),
            Some(Sabotage::RequestLost) => unknown(),
            Some(Sabotage::AnswerLost | Sabotage::Lost) => {
                let _ = self.record(member, &lease, frame);
                unknown()
            }
            Some(Sabotage::Delayed) => {
                self.disk.lock().late.push((member.run, frame));
                unknown()
            }
            None => {
                let recorded = self.record(member, &lease, frame);
                self.lock().is_unsettled = false;
                recorded
            }
        }
    }

    /// The append of a daemon whose own the disk is.
    fn append_alone(&self, frame: Frame) -> Result<Durable, AppendError> {
        let next = self.disk.len() as u64;
        let highest = self.disk.lock().frames.last().map_or(0, |frame| frame.epoch);
        if frame.epoch < highest {
            return Err(AppendError::Fenced { epoch: highest });
        }
        let (lease, sabotage) = {
            let mut state = self.lock();
            (state.lease, state.sabotage_now())
        };
        let Some(lease) = lease.filter(|lease| lease.epoch == frame.epoch && frame.index == next) else {
            return Err(self.halt("a frame was to be recorded where it does not belong"));
        };
        let index = frame.index;
        match sabotage {
            Some(Sabotage::CrashBefore) => Err(self.halt("the daemon died before the frame was written")),
            Some(Sabotage::CrashAfter) => {
                self.disk.push(frame);
                Err(self.halt("the daemon died after the frame was written"))
            }
            Some(Sabotage::Full | Sabotage::RequestLost | Sabotage::Delayed) => {
                self.disk.fail();
                Err(self.halt("the disk is full"))
            }
            Some(Sabotage::Lost | Sabotage::AnswerLost) => {
                self.disk.push(frame);
                Err(self.halt("no answer from the disk"))
            }
            None => {
                self.disk.push(frame);
                Ok(Durable::recorded(index, &lease))
            }
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn campaign(&self, now: Now) -> Result<Candidacy, Unusable> {
        let Some(member) = &self.member else {
            let last = self.disk.lock().frames.last().map_or(0, |frame| frame.epoch);
            let mut state = self.lock();
            let lease = *state.lease.get_or_insert(Lease { epoch: last + 1, until: Duration::MAX });
            state.confirmed = Some(now.monotonic);
            self.disk.view.update(|kept| kept.leader = Some((ObserverId::from("this daemon"), lease.epoch)));
            return Ok(Candidacy::Leading(lease));
        };
        self.reach()?;
        match self.hold(member, now, true) {
            Ok(candidacy) => Ok(candidacy),
            Err(_) => Err(Unusable::Unavailable("nobody leads".to_owned())),
        }
    }

    async fn renew(&self, now: Now) -> Result<Option<Lease>, Unusable> {
        self.reach()?;
        let Some(member) = &self.member else {
            let mut state = self.lock();
            state.confirmed = Some(now.monotonic);
            return Ok(state.lease);
        };
        if self.lock().lease.is_none() {
            return Ok(None);
        }
        let lease = self.hold(member, now, false).ok().and_then(|candidacy| candidacy.lease());
        if lease.is_none() {
            self.lock().lease = None;
        }
        Ok(lease)
    }

    async fn resign(&self) {
        let Some(member) = &self.member else { return };
        self.lock().lease = None;
        if self.is_cut() {
            return;
        }
        let mut disk = self.disk.lock();
        if disk.hold.as_ref().is_some_and(|hold| hold.run == member.run) {
            disk.hold = None;
            self.disk.view.update(|kept| kept.leader = None);
        }
    }

    async fn append(&self, frame: Frame) -> Result<Durable, AppendError> {
        if let Some(why) = &self.lock().halted {
            return Err(AppendError::Halted(why.clone()));
        }
        match &self.member {
            Some(member) => self.append_beside_others(member, frame),
            None => self.append_alone(frame),
        }
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        if self.is_cut() {
            return Err(LedgerError::unavailable("in memory", "the ledger does not answer"));
        }
        Ok(self.disk.lock().frames.iter().filter(|frame| frame.index >= index).cloned().collect())
    }

    async fn changed(&self, index: u64) {
        self.disk.view.changed(index).await;
    }

    async fn stirred(&self, since: u64) -> u64 {
        self.disk.view.stirred(since).await
    }

    async fn publish(&self, ballot: &Ballot) -> Result<(), Unusable> {
        self.reach()?;
        self.disk.view.update(|kept| drop(kept.ballots.insert(ballot.observer.clone(), ballot.clone())));
        Ok(())
    }

    /// What an observer that is cut off heard before is not kept: a simulation has no need for it.
    fn ballots(&self) -> Vec<Ballot> {
        if self.is_cut() { vec![] } else { self.disk.view.ballots() }
    }

    async fn request(&self, request: &OperatorRequest) -> Result<(), Unusable> {
        self.reach()?;
        self.disk.view.update(|kept| {
            if !kept.answers.contains_key(&request.id) {
                kept.requests.insert(request.id.clone(), request.clone());
            }
        });
        Ok(())
    }

    fn requests(&self) -> Vec<OperatorRequest> {
        if self.is_cut() { vec![] } else { self.disk.view.requests() }
    }

    async fn answer(&self, id: &str, answer: &OperatorAnswer) -> Result<(), Unusable> {
        self.reach()?;
        self.disk.view.update(|kept| kept.answer(id, answer));
        Ok(())
    }

    fn answer_of(&self, id: &str) -> Option<OperatorAnswer> {
        if self.is_cut() { None } else { self.disk.view.answer_of(id) }
    }

    fn standing(&self) -> Standing {
        let trouble = self.reach().err();
        let confirmed = self.lock().confirmed;
        self.disk.view.standing(confirmed, trouble)
    }
}
