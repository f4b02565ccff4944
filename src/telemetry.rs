//! Fact or effect -> one log event and its metrics. Names of metrics exist only here.
//!
//! `warn` means look tomorrow, `error` means wake someone. Nothing here waits: log lines go through a bounded queue
//! to a thread of their own, and are counted and dropped where the reader of standard error hangs.

mod events;
mod gauges;
mod logs;
mod metrics;

pub use events::{applied, booting, effect};
pub use gauges::{Gauges, Machine};
pub use logs::{LogFormat, LogGuard, init as init_logs};
pub use metrics::{
    Meters, api_request, append_took, command_ended, deadline_late, decision_took, heartbeat_sent, install,
    log_dropped, notice_dropped, panicked, reloaded, restarted, step_ended, unauthorized,
};
