//! Signs of life, sent only while the event loop turns: systemd's watchdog, the dead-man switch outside, and the look
//! at the stop file.
//!
//! The loop only drops a word; threads and tasks of their own do what might hang. When they hang, the signs stop, which
//! is what signs of life are for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use secrecy::ExposeSecret as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::gate::{Closed, Gate};
use super::supervise::supervise;
use crate::adapters::failure::describe;
use crate::config::SecretSource;
use crate::telemetry;

/// The loop shows this often that it lives, or three times per watchdog period where that is shorter.
const BEAT: Duration = Duration::from_secs(1);
/// A ping that takes longer has failed; the next one is due anyway.
const PING_WITHIN: Duration = Duration::from_secs(10);

/// What systemd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Everything is started.
    Ready,
    /// The event loop turned.
    Watchdog,
    /// One sentence for `systemctl status`.
    Status(String),
    /// The configuration is being read again; `Ready` follows.
    Reloading,
    /// The daemon ends.
    Stopping,
}

/// Talks to systemd, from a thread of its own: a socket that is full must not stop the event loop.
#[derive(Debug, Clone)]
pub struct Herald {
    words: SyncSender<Spoken>,
}

/// A word, and whom to tell that it was sent.
type Spoken = (Word, Option<oneshot::Sender<()>>);

impl Herald {
    /// Without systemd, words go nowhere.
    pub fn start() -> Self {
        let (words, queue) = sync_channel(64);
        // Without the thread nothing is sent, and systemd says so.
        let _ = std::thread::Builder::new().name("systemd".to_owned()).spawn(move || speak(&queue));
        Self { words }
    }

    /// Queues a word; where the queue is full it is lost, and the watchdog will tell.
    pub fn say(&self, word: Word) {
        let _ = self.words.try_send((word, None));
    }

    /// As `say`; what comes back completes when the word was sent or is lost. A process that ends earlier takes its
    /// words along.
    pub fn say_and_tell(&self, word: Word) -> oneshot::Receiver<()> {
        let (told, sent) = oneshot::channel();
        let _ = self.words.try_send((word, Some(told)));
        sent
    }
}

fn speak(queue: &Receiver<Spoken>) {
    let mut is_failing = false;
    for (word, told) in queue {
        let sent = match &word {
            Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
            Word::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
            Word::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
            Word::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
            }
            Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        };
        match sent {
            Ok(()) => is_failing = false,
            Err(error) if !is_failing => {
                warn!("systemd does not take notifications: {error}");
                is_failing = true;
            }
            Err(_) => {}
        }
        if let Some(told) = told {
            let _ = told.send(());
        }
    }
}

/// The event loop's side: one call per beat, which never waits.
#[derive(Debug)]
pub struct Pulse {
    every: Duration,
    herald: Herald,
    watchdog: bool,
    headline: String,
    ping: Option<(mpsc::Sender<()>, Duration, Instant)>,
    look: mpsc::Sender<()>,
    stop_file: watch::Receiver<Option<Result<(), Closed>>>,
}

/// The dead-man switch.
#[derive(Debug, Clone)]
pub struct Switch {
    /// Where the pings go. A secret: whoever knows it can keep a dead daemon looking alive.
    pub url: SecretSource,
    /// How often.
    pub every: Duration,
}

impl Pulse {
    /// Starts what the pulse needs; it ends with `stop`.
    pub fn start(herald: Herald, switch: Option<Switch>, gate: &Arc<Gate>, stop: &CancellationToken) -> Self {
        let watchdog = sd_notify::watchdog_enabled();
        let every = watchdog.map_or(BEAT, |period| BEAT.min(period / 3)).max(Duration::from_millis(10));
        let ping = switch.map(|switch| {
            let (sender, receiver) = mpsc::channel(1);
            let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
            let (url, due) = (switch.url, Instant::now());
            let task = move || pings(url.clone(), receiver.clone());
            tokio::spawn(supervise("heartbeat", stop.clone(), task));
            (sender, switch.every, due)
        });
        let (look, looks) = mpsc::channel(1);
        let (seen, stop_file) = watch::channel(None);
        let (looks, seen) = (Arc::new(tokio::sync::Mutex::new(looks)), Arc::new(seen));
        let gate = gate.clone();
        let task = move || look_for(gate.clone(), looks.clone(), seen.clone());
        tokio::spawn(supervise("stop-file", stop.clone(), task));
        Self { every, herald, watchdog: watchdog.is_some(), headline: String::new(), ping, look, stop_file }
    }

    /// How often the loop beats.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// What the last look at the stop file showed; none before the first.
    pub fn stop_file(&self) -> Option<Result<(), Closed>> {
        self.stop_file.borrow().clone()
    }

    /// The event loop turned.
    pub fn beat(&mut self, headline: &str) {
        if self.watchdog {
            self.herald.say(Word::Watchdog);
        }
        if self.headline != headline {
            headline.clone_into(&mut self.headline);
            self.herald.say(Word::Status(self.headline.clone()));
        }
        let _ = self.look.try_send(());
        let now = Instant::now();
        if let Some((ping, every, due)) = &mut self.ping
            && now >= *due
        {
            *due = now + *every;
            let _ = ping.try_send(());
        }
    }
}

async fn pings(url: SecretSource, beats: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>) {
    let mut beats = beats.lock().await;
    let client = match reqwest::Client::builder().timeout(PING_WITHIN).build() {
        Ok(client) => client,
        Err(error) => {
            warn!("no heartbeat can be sent: {}", describe(&error));
            return std::future::pending().await;
        }
    };
    let mut is_failing = false;
    while beats.recv().await.is_some() {
        let sent = ping(&client, &url).await;
        telemetry::heartbeat_sent(sent.is_ok());
        match sent {
            Ok(()) if is_failing => {
                info!("the dead-man switch answers again");
                is_failing = false;
            }
            Ok(()) => {}
            Err(why) if !is_failing => {
                warn!("the dead-man switch was not reached, and will page if that goes on: {why}");
                is_failing = true;
            }
            Err(_) => {}
        }
    }
    std::future::pending().await
}

/// Errors never show the address: it is a secret.
async fn ping(client: &reqwest::Client, url: &SecretSource) -> Result<(), String> {
    let url = url.read().map_err(|error| describe(&error))?;
    let answer = client.post(url.expose_secret()).send().await.map_err(|error| describe(&error.without_url()))?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
}

async fn look_for(
    gate: Arc<Gate>,
    looks: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
    seen: Arc<watch::Sender<Option<Result<(), Closed>>>>,
) {
    let mut looks = looks.lock().await;
    while looks.recv().await.is_some() {
        seen.send_replace(Some(gate.stop_file_absent().await));
    }
    std::future::pending().await
}
