//! Tasks that have to live as long as the daemon does.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// A task that panics at once is not started more often than this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs what `make` makes until `stop`, and makes it anew when it panics or ends: counted, logged, never silent.
pub(super) async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    stop: CancellationToken,
    make: impl Fn() -> F,
) {
    loop {
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            end = AssertUnwindSafe(make()).catch_unwind() => end,
        };
        match end {
            Err(panic) => {
                telemetry::panicked(name);
                tracing::error!(task = name, "the task panicked and is started again: {}", panic_message(&*panic));
            }
            Ok(()) if stop.is_cancelled() => return,
            Ok(()) => tracing::error!(task = name, "the task ended and is started again"),
        }
        telemetry::restarted(name);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
    }
}

/// The text of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
