//! Where log lines go: standard error, through a thread that may hang without anybody waiting for it.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Lines that wait for a slow reader. At a few hundred bytes a line this is a megabyte or two.
const QUEUED_MAX: usize = 8192;
/// How long the end of the program waits for the last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Flushes what is queued when it is dropped.
#[derive(Debug)]
pub struct LogGuard {
    lines: SyncSender<Line>,
    writer: Option<JoinHandle<()>>,
}

/// Sends events to standard error. `filter` is what `RUST_LOG` would be; none means `info`, and `warn` for libraries.
/// The first call wins; a second one changes nothing.
pub fn init(format: LogFormat, filter: Option<&str>) -> LogGuard {
    let (lines, queue) = sync_channel(QUEUED_MAX);
    let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&queue)).ok();
    let filter = EnvFilter::try_new(filter.unwrap_or(FILTER)).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let sink = Sink { lines: lines.clone() };
    let registry = tracing_subscriber::registry().with(filter);
    // Refused only where a subscriber is there already, which then goes on.
    let _ = if json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
        registry.with(layer.with_writer(sink)).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(io::stderr().is_terminal());
        registry.with(layer.with_writer(sink)).try_init()
    };
    LogGuard { lines, writer }
}

const FILTER: &str = "warn,failoverd=info";

impl Drop for LogGuard {
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let until = Instant::now() + FLUSH_WITHIN;
        // A full queue means a reader that hangs; then there is nothing to wait for.
        if self.lines.try_send(Line::End).is_err() {
            return;
        }
        while !writer.is_finished() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    End,
}

fn write_all(queue: &Receiver<Line>) {
    let mut dropped_reported = 0;
    loop {
        match queue.recv_timeout(Duration::from_secs(60)) {
            Ok(Line::Text(line)) => {
                // A standard error that is gone must not end the daemon.
                let _ = io::stderr().lock().write_all(&line);
            }
            Ok(Line::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let dropped = super::metrics::log_dropped_so_far();
        if dropped > dropped_reported {
            let _ = writeln!(
                io::stderr(),
                "{{\"level\":\"WARN\",\"message\":\"log lines were dropped because the reader of standard error was too slow\",\"dropped\":{dropped}}}"
            );
            dropped_reported = dropped;
        }
    }
}

#[derive(Debug, Clone)]
struct Sink {
    lines: SyncSender<Line>,
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine { lines: self.lines.clone(), text: Vec::with_capacity(256) }
    }
}

/// Collects one event and queues it when it is complete.
#[derive(Debug)]
struct OneLine {
    lines: SyncSender<Line>,
    text: Vec<u8>,
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        match self.lines.try_send(Line::Text(std::mem::take(&mut self.text))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => super::metrics::log_dropped(),
        }
    }
}
