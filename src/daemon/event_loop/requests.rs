//! What is asked of the loop: the status, a dry run, orders and their answers, a new configuration.

use std::sync::Arc;
use std::time::Duration;

use super::super::handle::{Answer, Reload, Request, label};
use super::EventLoop;
use crate::decide::{Effect, Input, Severity, Status};
use crate::telemetry::{self, Meters};

/// A status is not made more often than this, whoever asks.
const STATUS_FRESH: Duration = Duration::from_millis(100);

impl EventLoop {
    pub(super) fn fail_commands(&mut self, why: &str) {
        for id in self.waiting.keys().copied().collect::<Vec<_>>() {
            self.reply(id, Answer::NotRecorded(why.to_owned()));
        }
    }

    /// The frame may be recorded, or not: so may the order in it be in effect.
    pub(super) fn reply_unknown(&mut self, effects: &[Effect], why: &str) {
        for effect in effects {
            if let Effect::Reply { id, answer: Ok(_) } = effect {
                let text =
                    format!("it may be recorded, and then it is carried out: look at `failoverd status` ({why})");
                self.reply(*id, Answer::Unknown(text));
            }
        }
    }

    pub(super) fn reply(&mut self, id: u64, answer: Answer) {
        let Some((command, waiting)) = self.waiting.remove(&id) else { return };
        let outcome = match &answer {
            Answer::InEffect(_) => "in_effect",
            Answer::Refused(_) => "refused",
            Answer::NotRecorded(_) => "not_recorded",
            Answer::Unknown(_) => "unknown",
        };
        telemetry::command_ended(command, outcome);
        // Whoever asked may have gone away; the command is in effect all the same.
        let _ = waiting.send(answer);
    }

    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Request::PlanIf(scope, answer) => {
                let _ = answer.send(self.parts.controller.plan_if(self.now(), &scope));
            }
            Request::Command(command, answer) => {
                let id = self.next_command;
                self.next_command += 1;
                self.waiting.retain(|_, (_, waiting)| !waiting.is_closed());
                self.waiting.insert(id, (label(&command), answer));
                if let Some(why) = self.broken.clone() {
                    return self.reply(id, Answer::NotRecorded(why));
                }
                if self.parts.gate.draining().is_cancelled() {
                    return self.reply(id, Answer::NotRecorded("the daemon is ending".to_owned()));
                }
                if self.council.is_some() && !self.parts.controller.leads() {
                    return self.pass_on(id, command);
                }
                self.step(Input::Commanded { id, request: None, command });
            }
            Request::Reload(reload, answer) => {
                let _ = answer.send(self.reload(*reload));
            }
            Request::Warning { key, text: Some(text) } => self.raise(key, Severity::Warning, text),
            Request::Warning { key, text: None } => self.clear(key),
        }
    }

    fn reload(&mut self, reload: Reload) -> Result<(), String> {
        if self.open.is_some() {
            return Err("a decision is being recorded; try again".to_owned());
        }
        // Probes of the old configuration have stopped. What they saw last must not count as seen under the new one: a
        // typo in an address would look like an outage.
        while self.parts.observations.try_recv().is_ok() {}
        let Reload { policy, policy_hash, world } = reload;
        let meters = Meters::new(&policy);
        self.parts.controller.reload(policy, policy_hash)?;
        self.parts.meters = meters;
        self.parts.executor.replace_world(world);
        self.status = None;
        self.step(Input::Tick);
        Ok(())
    }

    pub(super) fn status(&mut self) -> Arc<Status> {
        let now = self.now();
        if let Some((made, status)) = &self.status
            && now.monotonic.saturating_sub(*made) < STATUS_FRESH
        {
            return status.clone();
        }
        let mut status = self.parts.controller.status(now);
        status.alarms.extend(self.alarms.values().cloned());
        if let Some(alarm) = self.alarms.get("daemon/ledger").or_else(|| self.alarms.get("daemon/leader")) {
            status.headline = format!("NOBODY CAN ACT: {}; {}", alarm.text, status.headline);
        }
        let status = Arc::new(status);
        self.status = Some((now.monotonic, status.clone()));
        status
    }
}
