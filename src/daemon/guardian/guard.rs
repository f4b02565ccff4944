//! The guardian's own process.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::super::boot::read;
use super::super::clock::SystemClock;
use super::super::exit::End;
use super::reins::Reins;
use super::ward::{self, Standing};
use super::{Order, Report, address, guarded};
use crate::config::Config;
use crate::domain::InstanceId;
use crate::ports::Clock;
use crate::telemetry::{self, LogFormat};

/// The former guardian leaves its address within this.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);
/// And is looked for again after this.
const AGAIN: Duration = Duration::from_millis(20);
/// A daemon that does not read for so long is left.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// What `failoverd guardian` was told.
#[derive(Debug, Clone, Default)]
pub struct GuardArgs {
    /// The configuration's files, each on top of the ones before: those of the daemon.
    pub config: Vec<PathBuf>,
}

/// Runs until it is not needed any more.
pub fn run(args: &GuardArgs) -> ExitCode {
    let _flush = telemetry::init_logs(LogFormat::Auto, None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let end = match runtime {
        Ok(runtime) => {
            let end = runtime.block_on(stand_guard(args));
            runtime.shutdown_timeout(Duration::from_secs(1));
            end
        }
        Err(error) => {
            error!("cannot start threads: {error}");
            End::System
        }
    };
    end.into()
}

/// Everything that the conversations share.
struct Post {
    leases: BTreeMap<InstanceId, watch::Sender<ward::Lease>>,
    report: watch::Sender<Report>,
    over: Notify,
}

async fn stand_guard(args: &GuardArgs) -> End {
    let (config, policy) = match read(&args.config) {
        Ok(read) => read,
        Err(lines) => {
            for line in lines {
                error!("{line}");
            }
            return End::Configuration;
        }
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let reins = match Reins::new(&config, &policy, &clock) {
        Ok(reins) => Arc::new(reins),
        Err(why) => {
            error!("{why}");
            return End::Configuration;
        }
    };
    let (listener, inherited) = match take_over(&config).await {
        Ok(taken) => taken,
        Err(why) => {
            error!("the guardian cannot listen: {why}");
            return End::Unavailable;
        }
    };
    let (standings_in, mut standings) = mpsc::channel::<(InstanceId, Standing)>(16);
    let mut leases = BTreeMap::new();
    for database in guarded(&config) {
        let until = inherited.get(&database).map(|until| Duration::from_millis(*until));
        let (lease_in, lease) = watch::channel(ward::Lease { until, said: None });
        leases.insert(database.clone(), lease_in);
        let (reins, clock, out) = (reins.clone(), clock.clone(), standings_in.clone());
        tokio::spawn(ward::keep(database, lease, reins, clock, out));
    }
    let post = Arc::new(Post {
        leases,
        report: watch::Sender::new(Report { pid: std::process::id(), leases: inherited, ..Report::default() }),
        over: Notify::new(),
    });
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("cannot listen for signals");
        return End::System;
    };
    let mut is_asked_to_end = false;
    loop {
        // Whoever still relies on it has to be able to: it ends when nothing could be written any more.
        if is_asked_to_end && post.is_idle() {
            info!("nothing is left to guard");
            return End::Asked;
        }
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                tokio::spawn(converse(stream, post.clone()));
            }
            Some((database, standing)) = standings.recv() => post.note(database, standing),
            () = post.over.notified() => return End::Asked,
            _ = terminate.recv() => is_asked_to_end = true,
            _ = interrupt.recv() => is_asked_to_end = true,
        }
    }
}

/// The address of this daemon's guardian, and what its former holder guarded.
async fn take_over(config: &Config) -> Result<(UnixListener, BTreeMap<InstanceId, u64>), String> {
    let address = address(config).map_err(|error| error.to_string())?;
    let mut inherited = BTreeMap::new();
    let take = async {
        loop {
            match StdListener::bind_addr(&address) {
                Ok(listener) => {
                    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
                    return UnixListener::from_std(listener).map_err(|error| error.to_string());
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    if let Ok(stream) = StdStream::connect_addr(&address)
                        && let Some(report) = ask_to_leave(stream).await
                    {
                        info!(pid = report.pid, "takes over from another guardian");
                        inherited.extend(report.leases);
                    }
                    sleep(AGAIN).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    match timeout(HAND_OVER_WITHIN, take).await {
        Ok(listener) => Ok((listener?, inherited)),
        Err(_elapsed) => Err("another guardian does not leave".to_owned()),
    }
}

async fn ask_to_leave(stream: StdStream) -> Option<Report> {
    stream.set_nonblocking(true).ok()?;
    let (lines, mut out) = UnixStream::from_std(stream).ok()?.into_split();
    let mut line = serde_json::to_vec(&Order::HandOver).ok()?;
    line.push(b'\n');
    out.write_all(&line).await.ok()?;
    let mut lines = BufReader::new(lines).lines();
    // The last one is what it left with.
    let mut last = None;
    while let Ok(Ok(Some(line))) = timeout(WRITE_WITHIN, lines.next_line()).await {
        last = serde_json::from_str(&line).ok().or(last);
    }
    last
}

impl Post {
    fn is_idle(&self) -> bool {
        let report = self.report.borrow();
        self.leases.iter().all(|(database, lease)| lease.borrow().until.is_none() || report.demoted.contains(database))
    }

    fn note(&self, database: InstanceId, standing: Standing) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            report.armed.remove(&database);
            report.demoted.remove(&database);
            report.trouble.remove(&database);
            match standing {
                Standing::Idle => {}
                Standing::Armed => {
                    report.armed.insert(database);
                }
                Standing::Demoted => {
                    report.demoted.insert(database);
                }
                Standing::Troubled { why, is_demoted } => {
                    if is_demoted {
                        report.demoted.insert(database.clone());
                    }
                    report.trouble.insert(database, why);
                }
            }
            *report != before
        });
    }

    fn lease(&self, until: u64, has_role: impl Fn(&InstanceId) -> bool) {
        let until = Duration::from_millis(until);
        let said = Some(SystemClock.now());
        for (database, lease) in &self.leases {
            let has_role = has_role(database);
            lease.send_if_modified(|lease| {
                let renewed = match (has_role, lease.until) {
                    (true, former) => former.max(Some(until)),
                    // It was ours, and is not any more: no need to wait.
                    (false, Some(_)) => Some(Duration::ZERO),
                    (false, None) => None,
                };
                // A late line of a daemon that was replaced brings nothing back that was taken away since.
                let renewed = ward::Lease { until: renewed, said };
                std::mem::replace(lease, renewed) != renewed
            });
        }
        // Not worth a line of its own: a successor asks for it.
        self.report.send_if_modified(|report| {
            report.leases = self
                .leases
                .iter()
                .filter_map(|(database, lease)| Some((database.clone(), super::millis(lease.borrow().until?))))
                .collect();
            false
        });
    }
}

async fn converse(stream: UnixStream, post: Arc<Post>) {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
        Ok(peer) => return warn!(uid = peer.uid(), "somebody else asked the guardian, and was not answered"),
        Err(error) => return warn!("it is not known who asked the guardian: {error}"),
    }
    let (lines, mut out) = stream.into_split();
    let mut lines = BufReader::new(lines).lines();
    let mut report = post.report.subscribe();
    report.mark_changed();
    loop {
        let order = tokio::select! {
            changed = report.changed() => {
                let current = report.borrow_and_update().clone();
                if changed.is_err() || !say(&mut out, &current).await {
                    return;
                }
                continue;
            }
            line = lines.next_line() => match line {
                Ok(Some(line)) => serde_json::from_str::<Order>(&line).ok(),
                Ok(None) | Err(_) => return,
            },
        };
        match order {
            Some(Order::Lease { until, roles }) => post.lease(until, |database| roles.contains(&database.component)),
            Some(Order::HandOver) => {
                let last = post.report.borrow().clone();
                say(&mut out, &last).await;
                let _ = out.shutdown().await;
                return post.over.notify_one();
            }
            Some(Order::Leave) => {
                info!("nobody relies on this guardian any more");
                return post.over.notify_one();
            }
            None => {}
        }
    }
}

async fn say(out: &mut OwnedWriteHalf, report: &Report) -> bool {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    matches!(timeout(WRITE_WITHIN, out.write_all(&line)).await, Ok(Ok(())))
}
