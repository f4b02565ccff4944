//! Effects that change nothing in the deployment: they need no fact, and no permit.

use super::{Answer, EventLoop};
use crate::decide::Effect;

impl EventLoop {
    /// Effects that need no fact. Any other is a bug, and halts before it is performed.
    pub(super) fn perform_unrecorded(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Look { plan, step, action } => self.parts.executor.look(plan, step, action),
                Effect::Survey => self.parts.executor.survey(),
                Effect::Verify { check, expects, region, deadline } => {
                    self.parts.executor.verify(check, expects, region, deadline);
                }
                Effect::Measure { measure, watermarks, deadline } => {
                    self.parts.executor.measure(measure, watermarks, deadline);
                }
                Effect::Cancel { plan, step } => self.parts.executor.cancel(&plan, &step),
                Effect::Alarm(alarm) => self.tell(alarm),
                Effect::AlarmCleared { key } => self.tell_cleared(key),
                Effect::Reply { id, answer } => {
                    let answer = match answer {
                        Ok(text) => Answer::InEffect(text),
                        Err(why) => Answer::Refused(why),
                    };
                    self.reply(id, answer);
                }
                effect @ (Effect::Perform(_)
                | Effect::Undo { .. }
                | Effect::FenceOwed { .. }
                | Effect::Claim { .. }) => {
                    self.halt(format!(
                        "an effect came without a fact, which is a bug, and was not performed: {effect:?}"
                    ));
                }
            }
        }
    }

    /// The facts of a decision are not durable: people are told, commands fail, nothing else happens.
    pub(super) fn perform_harmless(&mut self, effects: Vec<Effect>, why: &str) {
        for effect in effects {
            match effect {
                Effect::Alarm(_) | Effect::AlarmCleared { .. } | Effect::Cancel { .. } | Effect::Survey => {
                    self.perform_unrecorded(vec![effect]);
                }
                Effect::Reply { id, .. } => self.reply(id, Answer::NotRecorded(why.to_owned())),
                Effect::Perform(_)
                | Effect::Undo { .. }
                | Effect::FenceOwed { .. }
                | Effect::Claim { .. }
                | Effect::Verify { .. }
                | Effect::Measure { .. }
                | Effect::Look { .. } => {}
            }
        }
    }
}
