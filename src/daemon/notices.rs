//! Telling people, without anybody waiting for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::supervise::supervise;
use crate::decide::Severity;
use crate::ports::{Notice, Notifier};
use crate::telemetry;

/// Notices that wait for slow channels. There are a few dozen alarms at most.
const QUEUED_MAX: usize = 256;
/// A channel that takes longer has not taken it.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// The queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices {
    queue: Vec<(&'static str, mpsc::Sender<Notice>)>,
}

impl Notices {
    /// Starts one task per channel, so that a channel that hangs delays no other. They end with `stop`.
    pub fn start(channels: Vec<Arc<dyn Notifier>>, stop: &CancellationToken) -> Self {
        let queue = channels
            .into_iter()
            .map(|channel| {
                let (sender, receiver) = mpsc::channel(QUEUED_MAX);
                let name = channel.name();
                let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
                tokio::spawn(supervise("notifier", stop.clone(), move || tell(channel.clone(), receiver.clone())));
                (name, sender)
            })
            .collect();
        Self { queue }
    }

    /// Queues a notice for every channel; a channel whose queue is full misses it, which is counted.
    pub fn tell(&self, notice: Notice) {
        for (name, queue) in &self.queue {
            if queue.try_send(notice.clone()).is_err() {
                telemetry::notice_dropped(name);
                warn!(channel = name, "a notice was dropped: {notice:?}");
            }
        }
    }
}

async fn tell(channel: Arc<dyn Notifier>, queue: Arc<tokio::sync::Mutex<mpsc::Receiver<Notice>>>) {
    let name = channel.name();
    let mut queue = queue.lock().await;
    while let Some(notice) = queue.recv().await {
        let told = match tokio::time::timeout(TOLD_WITHIN, channel.notify(&notice)).await {
            Ok(told) => told,
            Err(_elapsed) => Err(format!("it was not taken within {TOLD_WITHIN:?}")),
        };
        if let Err(why) = told {
            telemetry::notice_dropped(name);
            warn!(channel = name, "a notice was not delivered: {why}");
        }
    }
    // The sender lives as long as the event loop does.
    std::future::pending::<()>().await;
}

/// The log: `error` wakes someone, `warn` is for tomorrow.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogNotifier;

#[async_trait::async_trait]
impl Notifier for LogNotifier {
    fn name(&self) -> &'static str {
        "log"
    }

    async fn notify(&self, notice: &Notice) -> Result<(), String> {
        match notice {
            Notice::Raised(alarm) => match alarm.severity {
                Severity::Page => error!(alarm = alarm.key, "{}", alarm.text),
                Severity::Warning => warn!(alarm = alarm.key, "{}", alarm.text),
            },
            Notice::Cleared { key } => info!(alarm = key, "the alarm is over"),
        }
        Ok(())
    }
}
