//! One attempt at a goal: look, act only if needed, verify; patient within the deadline, honest after it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::gate::{Closed, Gate, Permits};
use crate::domain::time::human;
use crate::plan::Action;
use crate::ports::{Actuator, Clock, Permit, PermitExpired, Setback};

/// A verification that is not there yet is repeated after this long, at first.
const POLL_MIN: Duration = Duration::from_millis(50);
/// And at the slowest after this long.
const POLL_MAX: Duration = Duration::from_secs(5);
/// After throttling, a 5xx or no answer, at first.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// And at the slowest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A closed gate (the stop file) is tried again after this long.
const GATE_RETRY: Duration = Duration::from_secs(1);
/// Longest look and longest verification; both change nothing and can be given up.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// A mutating call ends before its permit does. One that does not has lost its way, and nobody knows what became of it.
const OVERDUE: Duration = Duration::from_secs(10);

/// The goal is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// What was seen.
    pub note: String,
    /// Something had to be done for it.
    pub acted: bool,
}

/// The goal is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Refused, or out of time: what was tried, and what came of it.
    Failed(String),
    /// Out of time, and the last call got no answer.
    OutOfReach(String),
    /// On request.
    Cancelled,
    /// Nothing was sent, and nothing may be: the stop file, a pause, a hold.
    NotBegun { why: String, stop_file: bool },
    /// The world is another one than when it was judged.
    TooLate { why: String, acted: bool },
    /// The daemon ends. Nothing is reported: what was started is taken up again after the next start.
    Interrupted,
}

/// What an attempt works with.
pub(super) struct Ensure<'a> {
    /// `plan/step`.
    pub key: &'a str,
    /// The goal.
    pub action: &'a Action,
    /// Who brings it about.
    pub actuator: &'a dyn Actuator,
    /// Looked at before every mutating call.
    pub gate: &'a Gate,
    /// More time for long steps.
    pub permits: &'a Permits,
    /// A permit with less left than this is renewed before it is used: the longest single call.
    pub call_timeout: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// From now on.
    pub deadline: Duration,
    /// Stops between two calls.
    pub cancel: &'a CancellationToken,
    /// Told whenever there is something new to tell.
    pub progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl Ensure<'_> {
    /// Brings the goal about.
    ///
    /// A mutating call is never given up half-way. Whatever its answer, the world is looked at again before another.
    pub(super) async fn reach(&self, permit: Permit) -> Result<Reached, Stopped> {
        let mut patience = Patience::new(self);
        let mut permit = permit;
        let mut acted = false;
        loop {
            patience.check()?;
            let look = match patience.bounded("look", self.actuator.look(self.key, self.action)).await? {
                Ok(look) => look,
                Err(setback) => {
                    patience.weigh("look", setback).await?;
                    continue;
                }
            };
            if look.satisfied && !acted {
                patience.tell(&look.summary);
            }
            if !look.satisfied {
                permit = patience.at_the_gate(permit, Some(acted)).await?;
                patience.tell(&format!("{}; acting", look.summary));
                let call = self.actuator.act(self.key, self.action, &look, &permit);
                // Whatever comes back, something may have been done.
                acted = true;
                if let Err(setback) = patience.uninterrupted("act", call, &permit).await {
                    patience.weigh("act", setback).await?;
                    continue;
                }
                patience.restart_polling();
            }
            loop {
                patience.check()?;
                match patience.bounded("verify", self.actuator.verify(self.key, self.action)).await? {
                    Ok(note) => return Ok(Reached { note, acted }),
                    Err(setback) => patience.weigh("verify", setback).await?,
                }
            }
        }
    }

    /// Brings the former state back. The text says what was seen.
    pub(super) async fn undo(&self, previous: &serde_json::Value, permit: Permit) -> Result<String, Stopped> {
        let mut patience = Patience::new(self);
        let mut permit = permit;
        loop {
            patience.check()?;
            permit = patience.at_the_gate(permit, None).await?;
            let call = self.actuator.undo(self.key, self.action, previous, &permit);
            match patience.uninterrupted("undo", call, &permit).await {
                Ok(note) => return Ok(note),
                Err(setback) => patience.weigh("undo", setback).await?,
            }
        }
    }
}

/// The deadline, the pace, and what was tried so far.
struct Patience<'a> {
    ensure: &'a Ensure<'a>,
    began: Duration,
    poll: Duration,
    backoff: Duration,
    tries: u32,
    last: Option<String>,
    /// It got no answer.
    is_unanswered: bool,
    told: String,
}

/// A call, or a wait between two.
struct Timed<'a> {
    ensure: &'a Ensure<'a>,
    name: &'static str,
    began: Duration,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let took = self.ensure.clock.now().monotonic.saturating_sub(self.began);
        tracing::debug!(key = self.ensure.key, call = self.name, took_us = took.as_micros(), "ended");
    }
}

impl<'a> Patience<'a> {
    fn new(ensure: &'a Ensure<'a>) -> Self {
        let began = ensure.clock.now().monotonic;
        Self {
            ensure,
            began,
            poll: POLL_MIN,
            backoff: BACKOFF_MIN,
            tries: 0,
            last: None,
            is_unanswered: false,
            told: String::new(),
        }
    }

    fn left(&self) -> Duration {
        let spent = self.ensure.clock.now().monotonic.saturating_sub(self.began);
        self.ensure.deadline.saturating_sub(spent)
    }

    /// Between two calls: is there a reason to stop?
    fn check(&self) -> Result<(), Stopped> {
        if self.ensure.gate.draining().is_cancelled() {
            return Err(Stopped::Interrupted);
        }
        if self.ensure.cancel.is_cancelled() {
            return Err(Stopped::Cancelled);
        }
        if self.left().is_zero() { Err(self.out_of_time()) } else { Ok(()) }
    }

    fn out_of_time(&self) -> Stopped {
        let deadline = human(self.ensure.deadline);
        let why = match &self.last {
            Some(last) => format!("not reached within {deadline}, after {} tries; the last one: {last}", self.tries),
            None => format!("not reached within {deadline}"),
        };
        if self.is_unanswered { Stopped::OutOfReach(why) } else { Stopped::Failed(why) }
    }

    /// A call that changes nothing: it can be given up at any time.
    async fn bounded<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, Setback>>,
    ) -> Result<Result<T, Setback>, Stopped> {
        let limit = self.left().min(LOOK_MAX);
        let _timed = self.timed(name);
        tokio::select! {
            biased;
            () = self.ensure.gate.draining().cancelled() => Err(Stopped::Interrupted),
            () = self.ensure.cancel.cancelled() => Err(Stopped::Cancelled),
            answer = tokio::time::timeout(limit, call) => Ok(answer.unwrap_or_else(|_elapsed| {
                Err(Setback::Transient(format!("no answer within {}", human(limit))))
            })),
        }
    }

    /// A call that changes something: it is waited for. A panic in it leaves nobody knowing what it did.
    async fn uninterrupted<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, Setback>>,
        permit: &Permit,
    ) -> Result<T, Setback> {
        let limit = permit.time_left(self.ensure.clock.now()).unwrap_or_default() + OVERDUE;
        let _timed = self.timed(name);
        match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_elapsed) => {
                let why = format!("the call did not end within {}; it is not known what it did", human(limit));
                Err(Setback::Transient(why))
            }
        }
    }

    /// Waits for the gate within the deadline; the stop file may go away again. Where nothing was sent yet, nothing waits
    /// for that: by then the world is another one, and the step is judged anew. `acted`: a call of the step was sent before;
    /// none for an undo, which is not judged.
    async fn at_the_gate(&mut self, permit: Permit, acted: Option<bool>) -> Result<Permit, Stopped> {
        let is_grave = self.ensure.action.is_grave();
        let (is_first, is_again) = (acted == Some(false), acted == Some(true) && is_grave);
        loop {
            self.check()?;
            if is_first && is_grave && permit.time_left(self.ensure.clock.now()).is_err() {
                // Renewing it would say that the ledger is still ours, and not that the world is still as it was judged.
                return Err(Stopped::TooLate { why: PermitExpired.to_string(), acted: false });
            }
            let Ensure { gate, key, call_timeout, permits, .. } = *self.ensure;
            let passed = match gate.moves(key) {
                Ok(()) => gate.pass_with(key, &permit, call_timeout, is_again, permits).await,
                Err(closed) => Err(closed),
            };
            // What came meanwhile wins: nothing has been sent yet.
            let passed = passed.and_then(|permit| self.ensure.gate.moves(self.ensure.key).map(|()| permit));
            match passed {
                Ok(permit) => {
                    self.check()?;
                    return Ok(permit);
                }
                Err(Closed::Stopped(why)) if is_first => return Err(Stopped::NotBegun { why, stop_file: true }),
                Err(Closed::Held(why)) if is_first => return Err(Stopped::NotBegun { why, stop_file: false }),
                Err(Closed::Outdated(why)) => return Err(Stopped::TooLate { why, acted: !is_first }),
                Err(Closed::Draining) => return Err(Stopped::Interrupted),
                Err(closed @ Closed::Halted(_)) => return Err(Stopped::Failed(closed.to_string())),
                Err(closed @ (Closed::Stopped(_) | Closed::Held(_) | Closed::NoPermit(_))) => {
                    self.tries = self.tries.saturating_add(1);
                    self.tell(&closed.to_string());
                    self.last = Some(closed.to_string());
                    self.pause(GATE_RETRY).await?;
                }
            }
        }
    }

    /// Refused: give up. Otherwise: wait as long as it is worth.
    async fn weigh(&mut self, during: &str, setback: Setback) -> Result<(), Stopped> {
        self.tries = self.tries.saturating_add(1);
        self.is_unanswered = matches!(setback, Setback::Transient(_));
        let wait = match setback {
            Setback::Refused(why) => return Err(Stopped::Failed(format!("refused at {during}: {why}"))),
            Setback::NotYet(note) => {
                self.tell(&note);
                self.last = Some(note);
                let wait = self.poll;
                self.poll = (self.poll * 3 / 2).min(POLL_MAX);
                wait
            }
            Setback::Transient(why) => {
                let why = format!("{during}: {why}");
                self.tell(&format!("{why}; trying again"));
                self.last = Some(why);
                let wait = self.backoff;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                wait
            }
        };
        self.pause(wait).await
    }

    async fn pause(&self, wait: Duration) -> Result<(), Stopped> {
        let wait = wait.min(self.left());
        let _timed = self.timed("wait");
        tokio::select! {
            biased;
            () = self.ensure.gate.draining().cancelled() => Err(Stopped::Interrupted),
            () = self.ensure.cancel.cancelled() => Err(Stopped::Cancelled),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// Logs how long it lasted when it is dropped: where a step's time went.
    fn timed(&self, name: &'static str) -> Timed<'_> {
        Timed { ensure: self.ensure, name, began: self.ensure.clock.now().monotonic }
    }

    fn restart_polling(&mut self) {
        self.poll = POLL_MIN;
        self.backoff = BACKOFF_MIN;
    }

    /// Once per text, so that a slow step does not flood anybody.
    fn tell(&mut self, note: &str) {
        if self.told != note {
            (self.ensure.progress)(note);
            self.told = note.to_owned();
        }
    }
}
