//! The daemon's life: it starts, it dies, its disk fails, and somebody mends that.

use super::*;
use crate::ports::Candidacy;

impl Simulation<'_> {
    pub(super) fn boot(&mut self) {
        self.run += 1;
        self.disk.mended();
        let frames = self.disk.frames();
        let next_index = frames.len() as u64;
        let ledger = MemoryLedger::open(&self.disk);
        let Some(Ok(Candidacy::Leading(lease))) = ledger.campaign(self.clock()).now_or_never() else { return };
        let setup = match &self.options.after_restart {
            Some(edited) if self.run > 1 => edited,
            Some(_) | None => self.setup,
        };
        let (policy, hash) = (setup.policy.clone(), setup.policy_hash.clone());
        let controller = match Controller::recover_with(policy, hash, frames, self.setup.bugs) {
            Ok(controller) => controller,
            Err(corrupt) => return self.broken(vec![format!("its own ledger is refused: {corrupt}")]),
        };
        self.daemon = Some(Daemon {
            controller,
            ledger,
            lease,
            next_index,
            open: None,
            running: BTreeMap::new(),
            next_task: 0,
            deadline: 0,
        });
        self.alarms.clear();
        self.stirred = self.now;
        let is_alone = self.setup.policy.council.is_alone();
        self.step(if is_alone { Input::Restarted } else { Input::Elected { epoch: lease.epoch } });
        let instances: Vec<InstanceId> = self.world.instances().cloned().collect();
        for id in instances {
            let after = self.spread(self.interval(&id));
            self.for_daemon(after, ForDaemon::Probe(id));
        }
        let references: Vec<ReferenceId> = self.world.references().cloned().collect();
        for id in references {
            let after = self.spread(Duration::from_secs(5));
            self.for_daemon(after, ForDaemon::Ask(id));
        }
    }

    pub(super) fn die(&mut self, back_after: Duration) {
        if self.daemon.take().is_some() {
            self.note(What::Daemon { text: "stops".to_owned() });
        }
        // What it had under way is lost with it.
        self.run += 1;
        self.stirred = self.now;
        self.schedule(self.now + back_after, Event::Boot);
    }

    pub(super) fn crashes(&mut self, here: impl Fn(Crash) -> bool) -> bool {
        let Some(n) = self.crashes.iter().position(|crash| here(*crash)) else { return false };
        self.crashes.remove(n);
        true
    }

    /// Nothing is performed any more: nobody knows what is in the ledger until somebody has looked.
    pub(super) fn append_failed(&mut self, why: String, frame: Frame, perform: Vec<Effect>) {
        if self.setup.bugs.has(Bug::LostAppendIsFailure) || self.setup.bugs.has(Bug::FailedAppendTriedAgain) {
            return self.append_failed_and_nobody_cares(frame, perform);
        }
        let Some(daemon) = &mut self.daemon else { return };
        let is_news = daemon.controller.halted().is_none();
        daemon.controller.halt(why.clone());
        if is_news {
            self.note(What::Daemon { text: format!("halts: {why}") });
            self.schedule(self.now + MENDED_AFTER, Event::Mend(self.run));
            self.step(Input::Tick);
        }
    }

    /// What a careless loop would do instead.
    fn append_failed_and_nobody_cares(&mut self, frame: Frame, perform: Vec<Effect>) {
        let now = self.clock();
        let Some(daemon) = &mut self.daemon else { return };
        daemon.ledger = MemoryLedger::open(&self.disk);
        if let Some(Ok(Candidacy::Leading(lease))) = daemon.ledger.campaign(now).now_or_never() {
            daemon.lease = lease;
        }
        if self.setup.bugs.has(Bug::LostAppendIsFailure) {
            daemon.next_index = self.disk.frames().len() as u64;
            daemon.controller.apply(now, &[]);
            return self.step(Input::Tick);
        }
        daemon.open = Some((Frame { epoch: daemon.lease.epoch, ..frame }, perform));
        self.for_daemon(APPEND, ForDaemon::Appended);
    }
}
