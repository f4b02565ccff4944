//! The daemon looks at its world, on schedule.

use super::*;

impl Simulation<'_> {
    pub(super) fn interval(&self, id: &InstanceId) -> Duration {
        self.setup.policy.components.get(&id.component).map_or(Duration::from_secs(5), |c| c.probing.interval)
    }

    /// Nothing without a seed; with one, some part of `limit`.
    pub(super) fn spread(&mut self, limit: Duration) -> Duration {
        match &mut self.dice {
            Some(dice) => Duration::from_millis(dice.below(u64::try_from(limit.as_millis()).unwrap_or(1))),
            None => Duration::ZERO,
        }
    }

    pub(super) fn probe(&mut self, n: usize, id: InstanceId) {
        let dice = self.probe_dice.percent();
        let (finding, evidence, takes) = self.world.observe(self.now, &id, dice, &self.vantage(n));
        let observation =
            Observation { instance: id.clone(), began: self.now, ended: self.now + takes, finding, evidence };
        self.for_daemon(n, takes, ForDaemon::Observed(Box::new(observation)));
        let interval = self.interval(&id);
        let jitter = self.spread(interval / 10);
        self.for_daemon(n, (interval - jitter).max(takes + Duration::from_millis(1)), ForDaemon::Probe(id));
    }

    pub(super) fn ask(&mut self, n: usize, id: ReferenceId) {
        let Some(probing) = self.setup.policy.references.get(&id).map(|reference| reference.probing) else { return };
        let answers = self.world.reference_answers(&self.vantage(n), &id);
        let takes = if answers { LATENCY } else { probing.timeout };
        let answer = if answers { Ok(()) } else { Err("no answer".to_owned()) };
        let answered = ReferenceObservation { reference: id.clone(), began: self.now, ended: self.now + takes, answer };
        self.for_daemon(n, takes, ForDaemon::Answered(answered));
        self.for_daemon(n, probing.interval.max(takes + Duration::from_millis(1)), ForDaemon::Ask(id));
    }
}
