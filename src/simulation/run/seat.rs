//! A daemon's seat at the shared ledger: it campaigns, renews and resigns, follows what others record, casts ballots. What
//! `daemon::seat` and `daemon::event_loop::council` do, in virtual time.

use super::*;
use crate::ports::{AppendError, Candidacy};

/// A lease is renewed after this part of it.
const RENEWALS_PER_LEASE: u32 = 4;
/// Through the ledger.
pub(super) const NEWS_TAKES: Duration = Duration::from_millis(50);
/// A frame of which nobody knows whether it is recorded is sent again after this.
const APPEND_AGAIN: Duration = Duration::from_millis(200);

impl Simulation<'_> {
    /// Looks around.
    pub(super) fn beat(&mut self, n: usize) {
        self.for_daemon(n, self.beat_every(), ForDaemon::Beat);
        let reaches = self.reaches_ledger(n);
        self.follow(n);
        self.confirm_roles(n, reaches);
        self.ask_the_others(n);
        self.tell_the_guardian(n);
        self.cast(n, reaches);
        let now = self.clock(n);
        let Some(daemon) = self.daemon_mut(n) else { return };
        let leads = daemon.controller.leads();
        let is_idle = daemon.open.is_none() && daemon.running.is_empty();
        let fitness = daemon.controller.fitness(now);
        if leads {
            let (guards, states) = daemon.controller.at_work();
            self.coverage.look(guards, states);
            let Some(daemon) = self.daemon_mut(n) else { return };
            // One that is halted sends nothing more, whatever it waits for.
            let may = is_idle || daemon.controller.is_halted();
            if may && daemon.controller.should_yield(now) {
                let _ = daemon.ledger.resign().now_or_never();
                return self.deposed(n, "it gave the lead up");
            }
            return self.renew(n);
        }
        let Some(patience) = fitness.patience() else { return };
        if !reaches || daemon.ledger.standing().leader.is_some() {
            daemon.vacant_since = None;
            return;
        }
        let since = *daemon.vacant_since.get_or_insert(now.monotonic);
        if now.monotonic.saturating_sub(since) >= patience {
            self.campaign(n);
        }
    }

    /// A daemon looks around every second; in a day by chance, every two.
    pub(super) fn beat_every(&self) -> Duration {
        Duration::from_secs(if self.is_rough { 2 } else { 1 })
    }

    fn campaign(&mut self, n: usize) {
        let now = self.clock(n);
        let Some(daemon) = self.daemon_mut(n) else { return };
        let Some(Ok(Candidacy::Leading(lease))) = daemon.ledger.campaign(now).now_or_never() else { return };
        daemon.vacant_since = None;
        daemon.lease = lease;
        daemon.renewed = now.monotonic;
        self.follow(n);
        let text = self.of_node(n, "leads");
        self.note(What::Daemon { text });
        self.stirred = self.now;
        // Whoever leads tells people anew what is wrong, under the same keys.
        self.alarms.clear();
        self.step(n, Input::Elected { epoch: lease.epoch });
        self.hand_over_orders(n);
    }

    fn renew(&mut self, n: usize) {
        let (now, lasting) = (self.clock(n), self.setup.lease);
        let Some(daemon) = self.daemon_mut(n) else { return };
        if now.monotonic.saturating_sub(daemon.renewed) < lasting / RENEWALS_PER_LEASE {
            return;
        }
        match daemon.ledger.renew(now).now_or_never() {
            Some(Ok(Some(renewed))) if renewed.epoch == daemon.lease.epoch => {
                daemon.lease = renewed;
                daemon.renewed = now.monotonic;
            }
            Some(Ok(_)) => self.deposed(n, "the ledger gave the lead away"),
            Some(Err(_)) | None if now.monotonic >= daemon.lease.until => {
                self.deposed(n, "its lease ran out before the ledger answered");
            }
            Some(Err(_)) | None => {}
        }
    }

    /// Another one leads, or nobody. Nothing that was decided here and is not recorded will be.
    pub(super) fn deposed(&mut self, n: usize, why: &str) {
        let Some(daemon) = self.daemon_mut(n) else { return };
        daemon.open = None;
        daemon.running.clear();
        daemon.controller.step_down();
        self.coverage.count("refusal", Refusal::LeaseLost);
        let text = self.of_node(n, &format!("leads no more: {why}"));
        self.note(What::Daemon { text });
        self.stirred = self.now;
    }

    /// What others recorded.
    pub(super) fn follow(&mut self, n: usize) {
        let now = self.clock(n);
        let Some(daemon) = self.daemon_mut(n) else { return };
        if daemon.controller.leads() {
            return;
        }
        let Some(Ok(frames)) = daemon.ledger.read_from(daemon.next_index).now_or_never() else { return };
        for frame in frames {
            daemon.next_index = frame.index + 1;
            daemon.controller.hear(now, frame.at, &frame.facts);
        }
        self.confirm_roles(n, false);
    }

    /// Shows the others what this one sees.
    fn cast(&mut self, n: usize, reaches: bool) {
        let (now, run, every) = (self.clock(n), self.story.settings.from, self.setup.ballot_every);
        let Some(daemon) = self.daemon_mut(n) else { return };
        if daemon.cast_at.is_some_and(|at| now.monotonic.saturating_sub(at) < every) {
            return;
        }
        daemon.cast_at = Some(now.monotonic);
        daemon.sequence += 1;
        let ballot = daemon.controller.ballot(now, run + daemon.began, daemon.sequence);
        if !reaches {
            return;
        }
        let ballot = Arc::new(ballot);
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            if self.nodes[other].daemon.is_some() && self.reaches_ledger(other) {
                self.for_daemon(other, NEWS_TAKES, ForDaemon::Ballot(ballot.clone()));
            }
        }
    }

    /// The frame is not known to be recorded.
    pub(super) fn not_appended(&mut self, n: usize, error: AppendError, frame: Frame, perform: Vec<Effect>) {
        let now = self.clock(n).monotonic;
        match &error {
            AppendError::Unknown(_) => self.coverage.count("refusal", Refusal::FrameUnknown),
            AppendError::Fenced { .. } => self.coverage.count("refusal", Refusal::FrameFenced),
            AppendError::Halted(_) => {}
        }
        let is_taken_for_a_failure = self.setup.bugs.has(Bug::LostAppendIsFailure);
        let recorded = self.disk.frames().len() as u64;
        let Some(daemon) = self.daemon_mut(n) else { return };
        match error {
            AppendError::Halted(why) => self.append_failed(n, why, frame, perform),
            AppendError::Unknown(_) if is_taken_for_a_failure => {
                daemon.controller.apply(frame.at, &[]);
                daemon.next_index = recorded;
                self.step(n, Input::Tick);
            }
            AppendError::Unknown(_) if now < daemon.lease.until => {
                daemon.open = Some((frame, perform));
                self.for_daemon(n, APPEND_AGAIN, ForDaemon::Appended);
            }
            AppendError::Unknown(why) => self.deposed(n, &why),
            AppendError::Fenced { epoch } => {
                self.deposed(n, &format!("only epoch {epoch} and later ones can record"));
            }
        }
    }
}
