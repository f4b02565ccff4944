//! What people are told: alarms of the daemon itself and of the controller, once per meaning.

use std::time::Duration;

use super::EventLoop;
use crate::decide::{Alarm, Severity};
use crate::ports::Notice;

/// An alarm whose text differs in its numbers only is told again after this.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(600);

impl EventLoop {
    /// An alarm of the daemon itself; the controller's are its own.
    pub(super) fn raise(&mut self, key: &str, severity: Severity, text: String) {
        let alarm = Alarm { key: format!("daemon/{key}"), severity, text, region: None };
        if self.alarms.get(&alarm.key) != Some(&alarm) {
            self.alarms.insert(alarm.key.clone(), alarm.clone());
            self.status = None;
            self.tell(alarm);
        }
    }

    pub(super) fn clear(&mut self, key: &str) {
        let key = format!("daemon/{key}");
        if self.alarms.remove(&key).is_some() {
            self.status = None;
            self.tell_cleared(key);
        }
    }

    /// Once per meaning: an alarm that counts seconds is not told every second.
    pub(super) fn tell(&mut self, alarm: Alarm) {
        let now = self.now().monotonic;
        let meaning: String = alarm.text.chars().filter(|c| !c.is_ascii_digit()).collect();
        if let Some((severity, told, at)) = self.told.get(&alarm.key)
            && (*severity, told) == (alarm.severity, &meaning)
            && now.saturating_sub(*at) < TOLD_AGAIN_AFTER
        {
            return;
        }
        self.told.insert(alarm.key.clone(), (alarm.severity, meaning, now));
        self.parts.notices.tell(Notice::Raised(alarm));
    }

    pub(super) fn tell_cleared(&mut self, key: String) {
        if self.told.remove(&key).is_some() {
            self.parts.notices.tell(Notice::Cleared { key });
        }
    }
}
