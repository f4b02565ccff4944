//! The daemon's side: starts the guardian, passes confirmations of roles on, and tells the event loop what is guarded.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::super::handle::{Board, Handle};
use super::super::supervise::supervise;
use super::{Order, Report, address, guarded, millis};
use crate::config::Config;
use crate::decide::Input;
use crate::domain::{ComponentId, InstanceId};

/// A guardian that has just been started is asked for again after this.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// And it has to be there within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A guardian that ended is started again after this.
const START_AGAIN: Duration = Duration::from_secs(1);
/// A local socket takes a line at once; a guardian that takes none is replaced.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// Key of the alarm about the guardian.
const ALARM: &str = "guardian";

/// Keeps a guardian while the daemon runs.
#[derive(Debug)]
pub(in crate::daemon) struct Keeper {
    /// The configuration was read again.
    renew: watch::Sender<Arc<Config>>,
    /// Nobody guards any more, and the ledger knows; or nothing ever was.
    released: CancellationToken,
}

struct Parts {
    paths: Vec<PathBuf>,
    config: watch::Receiver<Arc<Config>>,
    board: Arc<Board>,
    handle: Handle,
    inputs: mpsc::Sender<Input>,
    draining: CancellationToken,
    released: CancellationToken,
    self_fence_after: Duration,
}

impl Keeper {
    /// Starts the task that keeps one, where there is something to guard.
    pub(in crate::daemon) fn start(
        paths: Vec<PathBuf>,
        config: Arc<Config>,
        handle: Handle,
        inputs: mpsc::Sender<Input>,
        draining: CancellationToken,
        stop: &CancellationToken,
    ) -> Self {
        let self_fence_after = config.api.self_fence_after;
        let (renew, config) = watch::channel(config);
        let released = CancellationToken::new();
        let board = handle.board().clone();
        let parts =
            Parts { paths, config, board, handle, inputs, draining, released: released.clone(), self_fence_after };
        let parts = Arc::new(parts);
        let task = move || keep(parts.clone());
        tokio::spawn(supervise("guardian", stop.clone(), task));
        Self { renew, released }
    }

    /// A new configuration: a new guardian takes over.
    pub(in crate::daemon) fn renew(&self, config: Arc<Config>) {
        self.renew.send_replace(config);
    }

    /// Ends when nobody guards any more.
    pub(in crate::daemon) fn released(&self) -> CancellationToken {
        self.released.clone()
    }
}

async fn keep(parts: Arc<Parts>) {
    let mut config = parts.config.clone();
    loop {
        let current = config.borrow_and_update().clone();
        if guarded(&current).is_empty() {
            parts.guards(BTreeSet::new()).await;
            tokio::select! {
                _ = config.changed() => continue,
                () = parts.draining.cancelled() => {}
            }
            parts.released.cancel();
            return std::future::pending().await;
        }
        let why = match parts.accompany(&current, &mut config).await {
            Ok(End::Renewed) => continue,
            Ok(End::Released) => {
                parts.handle.warn(ALARM, None).await;
                parts.released.cancel();
                return std::future::pending().await;
            }
            Err(why) => why,
        };
        parts.guards(BTreeSet::new()).await;
        error!("the guardian is started again: {why}");
        let text = format!("no guardian is beside the database, so it would not fence itself: {why}");
        parts.handle.warn(ALARM, Some(text)).await;
        sleep(START_AGAIN).await;
    }
}

/// Why a guardian is not accompanied any longer.
enum End {
    /// There is another configuration.
    Renewed,
    /// It is not needed any more.
    Released,
}

impl Parts {
    async fn guards(&self, databases: BTreeSet<InstanceId>) {
        let _ = self.inputs.send(Input::Guarded(databases)).await;
    }

    /// Starts one, and talks with it until it ends, or has to.
    async fn accompany(&self, config: &Config, renewed: &mut watch::Receiver<Arc<Config>>) -> Result<End, String> {
        let mut child = self.spawn()?;
        let pid = child.id().ok_or("it ended at once")?;
        let connected = tokio::select! {
            connected = timeout(CONNECT_WITHIN, connect(config, pid)) => connected,
            ended = child.wait() => return Err(format!("it ended at once: {ended:?}")),
        };
        let (mut lines, mut out) = connected.map_err(|_elapsed| "it does not answer".to_owned())??;
        info!(pid, "a guardian is beside the database");
        let mut confirmed = self.board.confirmations();
        let mut is_leaving = self.draining.is_cancelled();
        loop {
            let lease = {
                let confirmed = confirmed.borrow_and_update();
                confirmed.at.map(|at| {
                    let serves = |component: &&ComponentId| {
                        confirmed.roles.get(*component).is_some_and(|regions| regions.contains(&config.observer.region))
                    };
                    let roles = confirmed.roles.keys().filter(serves).cloned().collect();
                    Order::Lease { until: millis(at + self.self_fence_after), roles }
                })
            };
            if let Some(lease) = lease {
                send(&mut out, &lease).await?;
            }
            if is_leaving && confirmed.borrow().guarded.is_empty() {
                send(&mut out, &Order::Leave).await?;
                let _ = timeout(CONNECT_WITHIN, child.wait()).await;
                info!("the guardian has left: the ledger knows that nobody guards");
                return Ok(End::Released);
            }
            tokio::select! {
                _ = confirmed.changed() => {}
                line = lines.next_line() => {
                    let report = parse(line)?;
                    self.tell(&report, is_leaving).await;
                }
                () = self.draining.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    self.guards(BTreeSet::new()).await;
                }
                _ = renewed.changed(), if !is_leaving => {
                    if guarded(&renewed.borrow()).is_empty() {
                        // Still there until the ledger knows; the next guardian would have nothing to guard.
                        is_leaving = true;
                        self.guards(BTreeSet::new()).await;
                    } else {
                        return Ok(End::Renewed);
                    }
                }
            }
        }
    }

    async fn tell(&self, report: &Report, is_leaving: bool) {
        if !is_leaving {
            self.guards(report.armed.clone()).await;
        }
        let names =
            |databases: &BTreeSet<InstanceId>| databases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let trouble: Vec<String> = report.trouble.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        let text = match (report.demoted.is_empty(), trouble.is_empty()) {
            (true, true) => None,
            (true, false) => {
                Some(format!("the guardian could not make a database refuse writes: {}", trouble.join("; ")))
            }
            (false, _) => {
                let mut text = format!(
                    "the guardian has made {} refuse writes, because the role is not confirmed; it takes writes again \
                     once the role is",
                    names(&report.demoted)
                );
                if !trouble.is_empty() {
                    text.push_str(&format!("; {}", trouble.join("; ")));
                }
                Some(text)
            }
        };
        self.handle.warn(ALARM, text).await;
    }

    fn spawn(&self) -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?;
        let mut command = Command::new(program);
        command.arg("guardian");
        for path in &self.paths {
            command.arg("--config").arg(path);
        }
        // A group of its own: what stops the daemon's group must not stop the guardian.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        command.spawn().map_err(|error| format!("it cannot be started: {error}"))
    }
}

type Conversation = (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf);

/// Until the guardian with that process id answers: at first it may be its predecessor that does.
async fn connect(config: &Config, pid: u32) -> Result<Conversation, String> {
    let address = address(config).map_err(|error| format!("its address cannot be: {error}"))?;
    loop {
        if let Ok(stream) = StdStream::connect_addr(&address) {
            stream.set_nonblocking(true).map_err(|error| error.to_string())?;
            let stream = UnixStream::from_std(stream).map_err(|error| error.to_string())?;
            let is_it =
                stream.peer_cred().is_ok_and(|peer| peer.pid().and_then(|id| u32::try_from(id).ok()) == Some(pid));
            if is_it {
                let (lines, out) = stream.into_split();
                return Ok((BufReader::new(lines).lines(), out));
            }
        }
        sleep(CONNECT_AGAIN).await;
    }
}

async fn send(out: &mut OwnedWriteHalf, order: &Order) -> Result<(), String> {
    let mut line = serde_json::to_vec(order).map_err(|error| error.to_string())?;
    line.push(b'\n');
    match timeout(WRITE_WITHIN, out.write_all(&line)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("it is gone: {error}")),
        Err(_elapsed) => Err("it takes no leases".to_owned()),
    }
}

fn parse(line: std::io::Result<Option<String>>) -> Result<Report, String> {
    match line {
        Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| {
            warn!("the guardian said something that is no report: {error}");
            "it says what nobody understands".to_owned()
        }),
        Ok(None) => Err("it ended".to_owned()),
        Err(error) => Err(format!("it cannot be heard: {error}")),
    }
}
