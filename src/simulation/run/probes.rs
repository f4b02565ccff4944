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

    /// A day by chance has too many probes to take each for itself: those of one interval are a round.
    pub(super) fn begin_to_probe(&mut self, n: usize) {
        let instances: Vec<InstanceId> = self.world.instances().cloned().collect();
        let references: Vec<ReferenceId> = self.world.references().cloned().collect();
        if self.is_rough {
            let instances = instances.iter().map(|id| self.interval(id));
            let rounds: BTreeSet<Duration> =
                instances.chain(references.iter().map(|id| self.asked_every(id))).collect();
            for interval in rounds {
                let after = self.spread(interval);
                self.for_daemon(n, after, ForDaemon::Round(interval));
            }
            return;
        }
        for id in instances {
            let after = self.spread(self.interval(&id));
            self.for_daemon(n, after, ForDaemon::Probe(id));
        }
        for id in references {
            let after = self.spread(Duration::from_secs(5));
            self.for_daemon(n, after, ForDaemon::Ask(id));
        }
    }

    fn asked_every(&self, id: &ReferenceId) -> Duration {
        self.setup.policy.references.get(id).map_or(Duration::from_secs(5), |reference| reference.probing.interval)
    }

    /// Everything that is probed with this interval. What answers, answers at once; the rest takes its time.
    pub(super) fn round(&mut self, n: usize, interval: Duration) {
        let jitter = self.spread(interval / 10);
        self.for_daemon(n, interval - jitter, ForDaemon::Round(interval));
        let here = self.vantage(n);
        let moment = self.clock(n).monotonic;
        let began = moment.saturating_sub(LATENCY);
        let mut answers = Vec::new();
        let setup = self.setup;
        let asked = setup.policy.references.iter().filter(|(_, reference)| reference.probing.interval == interval);
        let with_interval = |id: &&InstanceId| {
            setup.policy.components.get(&id.component).is_some_and(|component| component.probing.interval == interval)
        };
        let probed: Vec<InstanceId> = self.world.instances().filter(with_interval).cloned().collect();
        for id in probed {
            let dice = self.probe_dice.percent();
            let (finding, evidence, takes) = self.world.observe(self.now, &id, dice, &here);
            let observation = Observation { instance: id, began, ended: began + takes, finding, evidence };
            if takes <= LATENCY {
                answers.push(Input::Observed(observation));
            } else {
                self.for_daemon(n, takes - LATENCY, ForDaemon::Observed(Box::new(observation)));
            }
        }
        for (reference, policy) in asked {
            let (reference, timeout) = (reference.clone(), policy.probing.timeout);
            if self.world.reference_answers(&here, &reference) {
                let answered = ReferenceObservation { reference, began, ended: moment, answer: Ok(()) };
                answers.push(Input::ReferenceObserved(answered));
            } else {
                let answer = Err("no answer".to_owned());
                let answered = ReferenceObservation { reference, began, ended: began + timeout, answer };
                self.for_daemon(n, timeout.saturating_sub(LATENCY), ForDaemon::Answered(answered));
            }
        }
        self.steps(n, answers);
    }

    pub(super) fn probe(&mut self, n: usize, id: InstanceId) {
        let dice = self.probe_dice.percent();
        let (finding, evidence, takes) = self.world.observe(self.now, &id, dice, &self.vantage(n));
        let began = self.clock(n).monotonic;
        let observation = Observation { instance: id.clone(), began, ended: began + takes, finding, evidence };
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
        let began = self.clock(n).monotonic;
        let answered = ReferenceObservation { reference: id.clone(), began, ended: began + takes, answer };
        self.for_daemon(n, takes, ForDaemon::Answered(answered));
        self.for_daemon(n, probing.interval.max(takes + Duration::from_millis(1)), ForDaemon::Ask(id));
    }
}
