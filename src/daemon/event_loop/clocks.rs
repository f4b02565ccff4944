//! Wall and monotonic time, side by side: where they jump apart, nothing that was measured says anything.

use std::time::Duration;

use tracing::warn;

use super::EventLoop;
use crate::decide::Severity;
use crate::domain::{Now, time::human};

/// People are told of a jump for so long.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// What the loop knows of the two clocks.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// At the last turn.
    seen: Option<Now>,
    /// When they jumped last, on the monotonic one.
    jumped: Option<Duration>,
}

impl Clocks {
    /// What was confirmed before the last jump is not.
    pub(super) fn is_since_the_jump(&self, confirmed: Duration) -> bool {
        self.jumped.is_none_or(|jumped| confirmed > jumped)
    }
}

impl EventLoop {
    /// At every turn. A wall clock that was set is harmless; a monotonic one that stood still (a virtual machine that was
    /// suspended, moved, or started from a snapshot) is not, and looks the same from here.
    pub(super) fn watch_the_clocks(&mut self) {
        let now = self.now();
        let seen = self.clocks.seen.replace(now);
        let Some(by) = seen.and_then(|seen| now.jumped_since(seen)) else {
            if self.clocks.jumped.is_some_and(|jumped| now.monotonic.saturating_sub(jumped) >= TOLD_FOR) {
                self.clear("clocks");
            }
            return;
        };
        self.parts.controller.clocks_jumped(now, by);
        let (by, way) = (human(by.unsigned_abs()), if by.is_negative() { "back" } else { "ahead" });
        warn!("the wall clock jumped {by} {way} of the monotonic one: windows start again, and the lead is given up");
        self.clocks.jumped = Some(now.monotonic);
        self.parts.board.void();
        if self.council.is_some() {
            self.deposed(&format!("its clocks jumped {by} apart, so that nobody knows how long its lease has lasted"));
        }
        self.status = None;
        self.raise(
            "clocks",
            Severity::Warning,
            format!(
                "the wall clock jumped {by} {way} of the monotonic one: it was set, or the machine stood still. What was \
                 observed before does not count, and the lead was given up; see to the machine's time service"
            ),
        );
    }
}
