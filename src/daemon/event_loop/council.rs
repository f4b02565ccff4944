//! The event loop among others: it leads or follows, casts ballots and hears them, and passes orders on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, warn};

use super::super::handle::label;
use super::super::seat::{News, Seat, Wish};
use super::{Answer, EventLoop, Open};
use crate::decide::{Command, Confirmed, Fitness, Frame, Input, Roles, Severity};
use crate::domain::Now;
use crate::ports::{AppendError, Lease, Ledger, OperatorAnswer, OperatorRequest, Standing, Unusable};

/// A frame of which nobody knows whether it is recorded is sent again after this.
const APPEND_AGAIN: Duration = Duration::from_millis(200);
/// The ledger has been no use for so long: people are told.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);
/// Whoever leads answers an order within this, or it is not known to be in effect.
const ORDER_WITHIN: Duration = Duration::from_secs(14);
/// Nobody led for so long: an order is for nobody.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// Nobody led for so long beyond the lease of a leader that died, in which the last of all may stand for it: people are told.
const LEADERLESS_AFTER: Duration = Duration::from_secs(30);
/// An order that was given longer ago is not carried out: whoever gave it was told that nobody knows what became of it, and
/// may have done something else since. Daemons and stores may differ by some of it.
const ORDER_LIFE: Duration = Duration::from_secs(120);

/// What the loop knows of its place among others.
#[derive(Debug)]
pub struct Council {
    seat: Seat,
    ballot_every: Duration,
    run: Timestamp,
    sequence: u64,
    cast_at: Option<Duration>,
    /// Orders of other daemons that were taken in, by their ids.
    taken: BTreeSet<String>,
    trouble_since: Option<Duration>,
    /// Nobody has led since, as far as is seen from here.
    leaderless_since: Option<Duration>,
}

impl Council {
    /// A place that was just taken. `run` is when this run of the daemon began.
    pub fn new(seat: Seat, ballot_every: Duration, run: Timestamp) -> Self {
        Self {
            seat,
            ballot_every,
            run,
            sequence: 0,
            cast_at: None,
            taken: BTreeSet::new(),
            trouble_since: None,
            leaderless_since: None,
        }
    }

    /// Gives the lead back, or does not take it.
    pub(super) fn resign(&self) {
        self.seat.wish(Wish::Follow);
    }
}

/// What the shared ledger has to tell; never, where there is none.
pub(super) async fn news(council: &mut Option<Council>) -> Option<News> {
    match council {
        Some(council) => council.seat.news.recv().await,
        None => std::future::pending().await,
    }
}

impl EventLoop {
    pub(super) fn hear(&mut self, news: News) {
        self.status = None;
        match news {
            News::Frames(frames) => self.follow(frames),
            // It was elected while it halted.
            News::Elected(..) if self.broken.is_some() => {}
            News::Elected(lease, frames) => {
                self.follow(frames);
                self.lease = lease;
                self.step(Input::Elected { epoch: lease.epoch });
            }
            News::Renewed(lease) if self.parts.controller.leads() => {
                if lease.epoch == self.lease.epoch {
                    self.lease = lease;
                }
            }
            // It had given itself up, and the ledger had not. A frame of its own may be recorded that it does not know of:
            // the lead is given back, and a new epoch begins with a look at what is there.
            News::Renewed(_) => {
                if let Some(council) = &self.council {
                    council.resign();
                }
            }
            News::Broken(why) => self.halt(why),
            News::Deposed(why) => self.deposed(&why),
            News::Stirred => self.look_around(),
        }
    }

    /// Frames that others recorded.
    fn follow(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            if frame.index < self.parts.next_index || self.parts.controller.leads() {
                continue;
            }
            if frame.index > self.parts.next_index {
                let (expected, found) = (self.parts.next_index, frame.index);
                return self.halt(format!("the ledger has a gap: frame {expected} was expected, and {found} came"));
            }
            self.parts.next_index = frame.index + 1;
            self.parts.controller.hear(self.now(), frame.at, &frame.facts);
            let frame = Arc::new(frame);
            self.parts.board.add(frame);
        }
        self.tell_applied();
        // A role that was taken away ends now, not at the next beat.
        self.confirm(self.now());
        self.step(Input::Tick);
    }

    pub(super) fn tell_applied(&self) {
        if let Some(council) = &self.council {
            council.seat.applied(self.parts.next_index);
        }
    }

    /// Another one leads, or nobody. Nothing that was decided here and is not recorded will be.
    pub(super) fn deposed(&mut self, why: &str) {
        if !self.parts.controller.leads() {
            return;
        }
        warn!("leads no more: {why}");
        self.lease = Lease { epoch: 0, until: Duration::ZERO };
        if let Some(open) = self.open.take() {
            self.reply_unknown(&open.perform, why);
        }
        self.parts.executor.cancel_all();
        self.parts.controller.step_down();
        // What people were told stays true until whoever leads now says otherwise, under the same keys.
        self.told.clear();
        self.fail_commands(&format!("this daemon leads no more: {why}"));
        if let Some(council) = &mut self.council {
            council.taken.clear();
        }
        self.tell_applied();
        self.status = None;
    }

    /// The frame is not known to be recorded.
    pub(super) fn not_appended(&mut self, error: AppendError, open: Open) {
        match error {
            AppendError::Unknown(why) if self.now().monotonic < self.lease.until => {
                warn!("frame {} is sent again: {why}", open.frame.index);
                let Some(ledger) = self.ledger.clone() else { return };
                let again = open.frame.as_ref().clone();
                let append = Box::pin(async move {
                    sleep(APPEND_AGAIN).await;
                    ledger.append(again).await
                });
                self.open = Some(Open { is_again: true, append, ..open });
            }
            AppendError::Unknown(why) => {
                self.reply_unknown(&open.perform, &why);
                self.perform_harmless(open.perform, &why);
                self.deposed(&why);
            }
            AppendError::Fenced { epoch } => {
                let why = format!("only epoch {epoch} and later ones can record");
                if open.is_again {
                    self.reply_unknown(&open.perform, &why);
                }
                self.perform_harmless(open.perform, &why);
                self.deposed(&why);
            }
            AppendError::Halted(why) => {
                self.reply_unknown(&open.perform, &why);
                self.halt(why.clone());
                self.perform_harmless(open.perform, &why);
            }
        }
    }

    /// Ballots, orders, and how the ledger is.
    fn look_around(&mut self) {
        let Some(ledger) = self.ledger.clone() else { return };
        let own = self.parts.controller.observer().clone();
        for ballot in ledger.ballots() {
            if ballot.observer != own {
                self.step(Input::Heard(Arc::new(ballot)));
            }
        }
        if !self.parts.controller.leads() || self.broken.is_some() {
            return;
        }
        let requests = ledger.requests();
        let Some(council) = &mut self.council else { return };
        council.taken.retain(|id| requests.iter().any(|request| request.id == *id));
        let new: Vec<OperatorRequest> =
            requests.into_iter().filter(|request| council.taken.insert(request.id.clone())).collect();
        for request in new {
            self.take_order(request, ledger.clone());
        }
    }

    /// An order that another daemon was given.
    fn take_order(&mut self, request: OperatorRequest, ledger: Arc<dyn Ledger>) {
        let (answer, answered) = oneshot::channel();
        let id = self.next_command;
        self.next_command += 1;
        self.waiting.insert(id, (label(&request.command), answer));
        let is_old = request.age(self.now().wall).is_none_or(|age| age > ORDER_LIFE);
        let (name, command) = (request.id.clone(), request.command.clone());
        tokio::spawn(async move {
            let Ok(Ok(answer)) = timeout(ORDER_WITHIN, answered).await else { return };
            let answer = match answer {
                Answer::InEffect(text) => OperatorAnswer::InEffect(text),
                Answer::Refused(why) => OperatorAnswer::Refused(why),
                Answer::NotRecorded(why) => OperatorAnswer::NotRecorded(why),
                // Whoever asked finds out by asking for the status.
                Answer::Unknown(_) => return,
            };
            let deadline = Instant::now() + ORDER_WITHIN;
            while let Err(error) = ledger.answer(&request.id, &answer).await {
                warn!("the answer to the order {} may not have arrived: {error}", request.id);
                if Instant::now() + APPEND_AGAIN > deadline {
                    return;
                }
                sleep(APPEND_AGAIN).await;
            }
        });
        if is_old {
            warn!("the order {name} was given too long ago, and is not carried out");
            let text =
                format!("it came more than {ORDER_LIFE:?} after it was given, and was not carried out; give it again");
            return self.reply(id, Answer::NotRecorded(text));
        }
        self.step(Input::Commanded { id, request: Some(name), command });
    }

    /// An order for whoever leads.
    pub(super) fn pass_on(&mut self, id: u64, command: Command) {
        let Some((label, answer)) = self.waiting.remove(&id) else { return };
        let Some(ledger) = self.ledger.clone() else { return };
        let from = self.parts.controller.observer().clone();
        let request = OperatorRequest::given(self.now().wall, id, command, from);
        tokio::spawn(async move {
            let outcome = order(&*ledger, &request).await;
            crate::telemetry::command_ended(label, "passed_on");
            let _ = answer.send(outcome);
        });
    }

    /// Once a second: says what it sees, and whether it wants to lead.
    pub(super) fn beat_council(&mut self, now: Now) {
        if self.council.is_none() {
            return;
        }
        let is_draining = self.parts.gate.draining().is_cancelled();
        let leads = self.parts.controller.leads();
        let is_idle = self.open.is_none() && self.parts.executor.under_way() == 0;
        let fitness = if self.broken.is_some() || is_draining {
            Fitness::Unfit("it is ending, or halted".to_owned())
        } else {
            self.parts.controller.fitness(now)
        };
        let should_yield = leads && self.parts.controller.should_yield(now);
        let wish = match fitness.patience() {
            _ if leads && !is_idle => None,
            Some(after) if !should_yield => Some(Wish::Lead { after }),
            Some(_) | None => Some(Wish::Follow),
        };
        let inability = self.parts.controller.inability(now).filter(|_| !leads);
        let Some(council) = &mut self.council else { return };
        if let Some(wish) = wish {
            council.seat.wish(wish);
        }
        let is_due = council.cast_at.is_none_or(|at| now.monotonic.saturating_sub(at) >= council.ballot_every);
        if is_due {
            council.cast_at = Some(now.monotonic);
            council.sequence += 1;
            council.seat.cast(self.parts.controller.ballot(now, council.run, council.sequence));
        }
        match inability {
            Some(why) => self.raise(
                "voices",
                Severity::Page,
                format!("if a region were lost now, failoverd would not act by itself: {why}"),
            ),
            None => self.clear("voices"),
        }
        // Halted, it has told why it uses none.
        if let Some(ledger) = self.ledger.clone() {
            self.watch_the_ledger(&ledger.standing(), leads, &fitness, now);
        }
    }

    /// How the ledger is, and whether anybody leads.
    fn watch_the_ledger(&mut self, standing: &Standing, leads: bool, fitness: &Fitness, now: Now) {
        let Some(council) = &mut self.council else { return };
        let lasts = |since: Option<Duration>, enough: Duration| {
            since.is_some_and(|since| now.monotonic.saturating_sub(since) >= enough)
        };
        let trouble = standing.trouble.as_ref();
        council.trouble_since = trouble.map(|_| council.trouble_since.unwrap_or(now.monotonic));
        let is_lasting = lasts(council.trouble_since, TROUBLE_AFTER);
        let is_leaderless = standing.leader.is_none() && trouble.is_none() && !leads;
        council.leaderless_since = is_leaderless.then(|| council.leaderless_since.unwrap_or(now.monotonic));
        let is_leaderless = lasts(council.leaderless_since, LEADERLESS_AFTER);
        self.parts.board.set_ledger_healthy(trouble.is_none() && self.broken.is_none());
        match trouble.filter(|_| is_lasting) {
            Some(Unusable::Unavailable(why) | Unusable::Refused(why) | Unusable::Halted(why)) => {
                self.raise(
                    "ledger",
                    Severity::Page,
                    format!("the ledger cannot be used from here, so nothing can be done: {why}"),
                );
            }
            None => self.clear("ledger"),
        }
        if is_leaderless {
            self.raise(
                "leader",
                Severity::Page,
                format!("no daemon leads, so nothing would be done; the one here: {fitness}"),
            );
        } else {
            self.clear("leader");
        }
    }

    /// The roles, and since when they are certain. What is known to be taken away ends at once, whoever confirms it.
    pub(super) fn confirm(&mut self, at: Now) {
        // A new leader has to read the claims anew; what was read before holds until then.
        self.is_in_charge = self.parts.controller.is_in_charge().or(self.is_in_charge);
        let confirmed = self.confirmed(at).filter(|_| self.is_in_charge == Some(true));
        let controller = &self.parts.controller;
        let guarded = controller.guarded_by(controller.observer());
        // Under another one's claim nobody is told of a role, neither by this daemon nor by others that ask it.
        let is_anothers = self.is_in_charge == Some(false);
        if is_anothers {
            self.parts.board.void();
        }
        let roles = if is_anothers { Roles::new() } else { controller.roles() };
        let policy = controller.policy_hash().to_owned();
        self.parts.board.confirm(Confirmed { by_ledger: confirmed, roles, policy, guarded, ..Confirmed::default() });
    }

    /// When it was last certain how things stand: on a ledger of our own, now, as long as it is ours.
    pub(super) fn confirmed(&self, at: Now) -> Option<Duration> {
        if self.broken.is_some() {
            return None;
        }
        match (&self.council, &self.ledger) {
            (Some(_), Some(ledger)) => {
                let standing = ledger.standing();
                let confirmed = standing.confirmed.filter(|_| standing.frames <= self.parts.next_index);
                confirmed.filter(|confirmed| self.clocks.is_since_the_jump(*confirmed))
            }
            (Some(_), None) => None,
            (None, _) => (self.lease.until > at.monotonic).then_some(at.monotonic),
        }
    }
}

/// Gives an order to whoever leads, and waits for the answer.
async fn order(ledger: &dyn Ledger, request: &OperatorRequest) -> Answer {
    let deadline = Instant::now() + ORDER_WITHIN;
    let has_leader = async {
        let mut standing = ledger.standing();
        while standing.leader.is_none() {
            ledger.stirred(standing.version).await;
            standing = ledger.standing();
        }
    };
    if timeout(LEADER_WITHIN, has_leader).await.is_err() {
        return Answer::NotRecorded(
            "no daemon leads at present, so nobody can record it; see `failoverd status`".to_owned(),
        );
    }
    if let Err(error) = ledger.request(request).await {
        error!("an order could not be passed on: {error}");
        return Answer::Unknown(format!("it may not have reached the daemon that leads: {error}"));
    }
    let answered = async {
        loop {
            let version = ledger.standing().version;
            if let Some(answer) = ledger.answer_of(&request.id) {
                return answer;
            }
            ledger.stirred(version).await;
        }
    };
    match tokio::time::timeout_at(deadline, answered).await {
        Ok(OperatorAnswer::InEffect(text)) => Answer::InEffect(text),
        Ok(OperatorAnswer::Refused(why)) => Answer::Refused(why),
        Ok(OperatorAnswer::NotRecorded(why)) => Answer::NotRecorded(why),
        Err(_elapsed) => Answer::Unknown(format!("the daemon that leads has not answered within {ORDER_WITHIN:?}")),
    }
}
