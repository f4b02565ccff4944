//! How everybody else talks to the event loop: requests with a time limit, and a few things it leaves lying around so
//! that nobody has to ask.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::decide::{Command, Confirmed, DryRun, Frame, Known, Scope, Status};
use crate::domain::{ComponentId, Now, ObserverId, Policy, RegionId};
use crate::ports::Clock;

/// A turn of the loop takes microseconds; a loop that does not answer within this is in trouble.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A command waits for its facts to be durable: an fsync, on a bad day a slow one.
const COMMAND_WITHIN: Duration = Duration::from_secs(15);
/// Frames kept in memory for those who follow the ledger; older ones are read from its file.
const FRAMES_KEPT: usize = 2048;

/// What can be asked of the event loop.
pub enum Request {
    /// How things are.
    Status(oneshot::Sender<Arc<Status>>),
    /// What would be done.
    PlanIf(Scope, oneshot::Sender<Result<DryRun, String>>),
    /// A person wants something.
    Command(Command, oneshot::Sender<Answer>),
    /// The configuration was read again.
    Reload(Box<Reload>, oneshot::Sender<Result<(), String>>),
    /// Something about the daemon itself that people should look at tomorrow, or its end.
    Warning {
        /// Tells it from other warnings.
        key: &'static str,
        /// What is wrong; none where it is over.
        text: Option<String>,
    },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Status(_) => "Status",
            Self::PlanIf(..) => "PlanIf",
            Self::Command(..) => "Command",
            Self::Reload(..) => "Reload",
            Self::Warning { .. } => "Warning",
        })
    }
}

/// A new policy, and the world that goes with it.
#[derive(Debug)]
pub struct Reload {
    /// What the core has to know.
    pub policy: Policy,
    /// Its hash.
    pub policy_hash: String,
    /// Where effects come about from now on.
    pub world: super::executor::World,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its facts are durable.
    InEffect(String),
    /// The controller said no; nothing was recorded.
    Refused(String),
    /// It could not be recorded. NOT IN EFFECT.
    NotRecorded(String),
    /// Nobody knows: no answer in time.
    Unknown(String),
}

/// The loop does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event loop does not answer")]
pub struct NoAnswer;

/// Asks the event loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    board: Arc<Board>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// A handle, and where its requests arrive.
    pub fn channel(board: Arc<Board>) -> (Self, mpsc::Receiver<Request>) {
        // The API lets fewer requests in than this.
        let (requests, receiver) = mpsc::channel(128);
        (Self { requests, board }, receiver)
    }

    /// What lies around.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// How things are, at most a fraction of a second old.
    pub async fn status(&self) -> Result<Arc<Status>, NoAnswer> {
        self.ask(Request::Status).await
    }

    /// What would be done if `scope` were lost.
    pub async fn plan_if(&self, scope: Scope) -> Result<Result<DryRun, String>, NoAnswer> {
        self.ask(|answer| Request::PlanIf(scope, answer)).await
    }

    /// Orders something. The answer comes once it is in effect, or certain not to be.
    pub async fn command(&self, command: Command) -> Answer {
        let (answer, answered) = oneshot::channel();
        let sent = tokio::time::timeout(ANSWER_WITHIN, self.requests.send(Request::Command(command, answer))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Answer::NotRecorded("the event loop does not take requests".to_owned());
        }
        match tokio::time::timeout(COMMAND_WITHIN, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::Unknown("the daemon ended before it answered".to_owned()),
            Err(_elapsed) => Answer::Unknown(format!("no answer within {COMMAND_WITHIN:?}")),
        }
    }

    /// Takes over a new configuration, or says why not.
    pub async fn reload(&self, reload: Reload) -> Result<(), String> {
        self.ask(|answer| Request::Reload(Box::new(reload), answer)).await.map_err(|error| error.to_string())?
    }

    /// Shows a warning about the daemon itself until it is over. Lost where the loop does not take requests.
    pub async fn warn(&self, key: &'static str, text: Option<String>) {
        let _ = tokio::time::timeout(ANSWER_WITHIN, self.requests.send(Request::Warning { key, text })).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.requests.send(request(answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(NoAnswer),
        }
    }
}

/// What the event loop leaves lying around: written by it alone, read by anybody without asking.
pub struct Board {
    clock: Arc<dyn Clock>,
    confirmed: watch::Sender<Confirmed>,
    /// Monotonic milliseconds; 0 is never.
    turned: AtomicU64,
    ledger_healthy: AtomicBool,
    stopped: AtomicBool,
    frames: Mutex<VecDeque<Arc<Frame>>>,
    next_frame: watch::Sender<u64>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// Nothing is confirmed yet: every role is somebody else's. `frames` is what the ledger holds already.
    pub fn new(clock: Arc<dyn Clock>, frames: Vec<Frame>) -> Self {
        let board = Self {
            clock,
            confirmed: watch::Sender::default(),
            turned: AtomicU64::new(0),
            ledger_healthy: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            frames: Mutex::default(),
            next_frame: watch::Sender::new(0),
        };
        for frame in frames {
            board.add(Arc::new(frame));
        }
        board
    }

    /// Whether `region` serves `component`, for sure, no longer than `within` ago.
    pub fn serves(&self, region: &RegionId, component: &ComponentId, within: Duration) -> bool {
        self.confirmed.borrow().serves(region, component, within, self.clock.now())
    }

    /// To be told when a role is confirmed once more, or is another one.
    pub fn confirmations(&self) -> watch::Receiver<Confirmed> {
        self.confirmed.subscribe()
    }

    /// Since the loop's last turn; none before the first.
    pub fn silent(&self) -> Option<Duration> {
        let turned = self.turned.load(Ordering::Acquire);
        (turned > 0).then(|| Duration::from_millis(self.millis().saturating_sub(turned)))
    }

    /// The ledger takes frames.
    pub fn is_ledger_healthy(&self) -> bool {
        self.ledger_healthy.load(Ordering::Acquire)
    }

    /// The stop file was there when it was last looked for.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Index of the next frame: the number of durable ones.
    pub fn frames(&self) -> u64 {
        *self.next_frame.borrow()
    }

    /// To be told when a frame is added.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.next_frame.subscribe()
    }

    /// Up to `limit` frames from `from` on; none where `from` is older than what is kept in memory.
    pub fn recent(&self, from: u64, limit: usize) -> Option<Vec<Arc<Frame>>> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let first = frames.front().map_or(u64::MAX, |frame| frame.index);
        if from < first && from < self.frames() {
            return None;
        }
        Some(frames.iter().filter(|frame| frame.index >= from).take(limit).cloned().collect())
    }

    pub(super) fn turn(&self, now: Duration) {
        self.turned.store(millis(now), Ordering::Release);
    }

    /// What is known now; `by_ledger` where that was confirmed once more.
    pub(super) fn confirm(&self, next: Confirmed) {
        let now = self.clock.now();
        self.confirmed.send_if_modified(|confirmed| confirmed.confirm(next, now));
    }

    /// See [`Confirmed::promised`].
    pub(super) fn promised(&self, asked: Now) {
        let now = self.clock.now();
        self.confirmed.send_modify(|confirmed| confirmed.promised(asked, now));
    }

    /// Nothing is confirmed any more.
    pub(super) fn void(&self) {
        let now = self.clock.now();
        self.confirmed.send_modify(|confirmed| confirmed.void(now));
    }

    /// See [`Confirmed::is_to_be_promised`].
    pub(super) fn is_to_be_promised(&self, within: Duration) -> Option<Duration> {
        self.confirmed.borrow().is_to_be_promised(within, self.clock.now())
    }

    /// What this daemon knows of the roles, for the others.
    pub fn known(&self, observer: &ObserverId) -> Known {
        self.confirmed.borrow().known(observer)
    }

    pub(super) fn set_ledger_healthy(&self, healthy: bool) {
        self.ledger_healthy.store(healthy, Ordering::Release);
    }

    pub(super) fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Release);
    }

    pub(super) fn add(&self, frame: Arc<Frame>) {
        let next = frame.index + 1;
        {
            let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            if frames.len() == FRAMES_KEPT {
                frames.pop_front();
            }
            frames.push_back(frame);
        }
        self.next_frame.send_replace(next);
    }

    fn millis(&self) -> u64 {
        millis(self.clock.now().monotonic)
    }
}

/// At least 1, because 0 is never.
fn millis(monotonic: Duration) -> u64 {
    u64::try_from(monotonic.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The command's name in metrics, as it is in JSON.
pub(super) fn label(command: &Command) -> &'static str {
    match command {
        Command::Failover { .. } => "failover",
        Command::Switchover { .. } => "switchover",
        Command::Rejoin { .. } => "rejoin",
        Command::Failback { .. } => "failback",
        Command::Continue { .. } => "continue",
        Command::Approve { .. } => "approve",
        Command::Hold { .. } => "hold",
        Command::Pause { .. } => "pause",
        Command::Resume { .. } => "resume",
        Command::Ack { .. } => "ack",
        Command::Retry { .. } => "retry",
        Command::Skip { .. } => "skip",
        Command::Abort { .. } => "abort",
        Command::Adopt { .. } => "adopt",
        Command::Merge { .. } => "merge",
        Command::BreakGlass(_) => "break_glass",
    }
}
