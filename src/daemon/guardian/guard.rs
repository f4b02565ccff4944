//! The guardian's own process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::super::boot::read;
use super::super::clock::SystemClock;
use super::super::exit::End;
use super::marker::{self, Marker};
use super::reins::Reins;
use super::ward::{self, Lease, Means, Standing, Word};
use super::{Order, Report, address, guarded, millis};
use crate::config::Config;
use crate::domain::{ComponentId, InstanceId};
use crate::ports::Clock;
use crate::telemetry::{self, LogFormat};

/// The former guardian leaves its address within this.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);
/// And is looked for again after this.
const AGAIN: Duration = Duration::from_millis(20);
/// A daemon that does not read for so long is left. A former guardian that says nothing for so long guards nothing.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// The daemon writes what it knows before it starts a guardian; nobody else writes anything there.
const FIRST_LEASE_WITHIN: Duration = Duration::from_secs(1);

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
    leases: BTreeMap<InstanceId, watch::Sender<Lease>>,
    report: watch::Sender<Report>,
    means: Arc<Means>,
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
        Ok(reins) => reins,
        Err(why) => {
            error!("{why}");
            return End::Configuration;
        }
    };
    let first = first_lease().await;
    let (listener, inherited) = match take_over(&config).await {
        Ok(taken) => taken,
        Err(why) => {
            error!("the guardian cannot listen: {why}");
            return End::Unavailable;
        }
    };
    let guarded = guarded(&config);
    // Once the former guardian has left, nobody else writes it.
    let (marker, marked) = Marker::open(marker::place(&config), &guarded);
    let until = until_when(&guarded, &inherited, &marked);
    let post = Arc::new(Post::new(until, Means { reins, marker, clock }));
    if let Some(Order::Lease { number, until, roles }) = first {
        post.lease(number, until, &roles);
    }
    let (words_in, mut words) = mpsc::channel::<(InstanceId, Word)>(16);
    let mut wards = JoinSet::new();
    for (database, lease) in &post.leases {
        wards.spawn(ward::keep(database.clone(), lease.subscribe(), post.means.clone(), words_in.clone()));
    }
    let mut heard = BTreeMap::new();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("cannot listen for signals");
        return End::System;
    };
    let mut is_asked_to_end = false;
    loop {
        // Whoever still relies on it has to be able to: it ends when nothing could be written any more.
        if is_asked_to_end && post.is_idle() {
            if post.is_unused() {
                let _ = timeout(WRITE_WITHIN, post.means.marker.remove()).await;
            }
            info!("nothing is left to guard");
            return End::Asked;
        }
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                tokio::spawn(converse(stream, post.clone()));
            }
            Some((database, word)) = words.recv() => match word {
                Word::Stands(standing) => post.note(database, standing),
                Word::Heard(number) => {
                    heard.insert(database, number);
                    post.heard(&heard);
                }
            },
            // A guardian that looks alive and guards nothing is worse than none: the daemon starts another one.
            Some(ended) = wards.join_next() => {
                error!("a database is not kept any more, which is a bug: {ended:?}");
                return End::Bug;
            }
            () = post.over.notified() => return End::Asked,
            _ = terminate.recv() => is_asked_to_end = true,
            _ = interrupt.recv() => is_asked_to_end = true,
        }
    }
}

/// What the daemon knew when it started this guardian, in the one line that it left on the standard input.
async fn first_lease() -> Option<Order> {
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).ok().map(|_| line)
    });
    let line = timeout(FIRST_LEASE_WITHIN, line).await.ok()?.ok()??;
    serde_json::from_str(&line).ok()
}

/// Until when each role is confirmed, as far as a guardian knows when it starts. Who was guarded and has left no lease may
/// have lost its role since.
fn until_when(
    guarded: &BTreeSet<InstanceId>,
    inherited: &BTreeMap<InstanceId, u64>,
    marked: &BTreeSet<InstanceId>,
) -> BTreeMap<InstanceId, Option<Duration>> {
    let until = |database: &InstanceId| {
        let lease = inherited.get(database).map(|until| Duration::from_millis(*until));
        lease.or_else(|| marked.contains(database).then_some(Duration::ZERO))
    };
    guarded.iter().map(|database| (database.clone(), until(database))).collect()
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
                    if let Ok(stream) = StdStream::connect_addr(&address) {
                        let (pid, report) = ask_to_leave(stream).await;
                        match (report, pid) {
                            (Some(report), _) => {
                                info!(pid = report.pid, "takes over from another guardian");
                                inherited.extend(report.leases);
                            }
                            (None, Some(pid)) => end_it(pid),
                            (None, None) => {}
                        }
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

/// Who listens there, where it is one of ours, and what it left with.
async fn ask_to_leave(stream: StdStream) -> (Option<Pid>, Option<Report>) {
    let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    let Ok(stream) = stream else { return (None, None) };
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred().ok().filter(|peer| peer.uid() == own);
    let pid = peer.and_then(|peer| Pid::from_raw(peer.pid()?));
    let (lines, mut out) = stream.into_split();
    let mut line = serde_json::to_vec(&Order::HandOver).unwrap_or_default();
    line.push(b'\n');
    if !matches!(timeout(WRITE_WITHIN, out.write_all(&line)).await, Ok(Ok(()))) {
        return (pid, None);
    }
    let mut lines = BufReader::new(lines).lines();
    // The last one is what it left with.
    let mut last = None;
    loop {
        match timeout(WRITE_WITHIN, lines.next_line()).await {
            Ok(Ok(Some(line))) => last = serde_json::from_str(&line).ok().or(last),
            // It has left, whether or not it said something.
            Ok(Ok(None) | Err(_)) => return (None, last),
            Err(_elapsed) => return (pid, last),
        }
    }
}

/// What says nothing (stopped, hung) does not fence either, and would keep its successor from doing so.
fn end_it(pid: Pid) {
    warn!(pid = pid.as_raw_nonzero(), "another guardian does not answer, and is ended");
    if let Err(error) = rustix::process::kill_process(pid, Signal::KILL) {
        error!("it cannot be ended: {error}");
    }
}

impl Post {
    fn new(until: BTreeMap<InstanceId, Option<Duration>>, means: Means) -> Self {
        let lease = |until| watch::Sender::new(Lease { until, ..Lease::default() });
        let leases = until.into_iter().map(|(database, until)| (database, lease(until))).collect();
        let post = Self { leases, report: watch::Sender::default(), means: Arc::new(means), over: Notify::new() };
        post.report.send_modify(|report| (report.pid, report.leases) = (std::process::id(), post.inheritance()));
        post
    }

    /// Nothing was ever confirmed here, so that nobody can rely on it.
    fn is_unused(&self) -> bool {
        self.leases.values().all(|lease| lease.borrow().until.is_none())
    }

    /// What a successor inherits.
    fn inheritance(&self) -> BTreeMap<InstanceId, u64> {
        let until = |lease: &watch::Sender<Lease>| Some(millis(lease.borrow().until?));
        self.leases.iter().filter_map(|(database, lease)| Some((database.clone(), until(lease)?))).collect()
    }

    /// What every ward knows, the daemon is told.
    fn heard(&self, heard: &BTreeMap<InstanceId, u64>) {
        let oldest = self.leases.keys().map(|database| heard.get(database).copied().unwrap_or_default()).min();
        self.report.send_if_modified(|report| std::mem::replace(&mut report.heard, oldest) != oldest);
    }

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

    fn lease(&self, number: u64, until: u64, roles: &BTreeSet<ComponentId>) {
        let until = Duration::from_millis(until);
        let said = Some(SystemClock.now());
        for (database, lease) in &self.leases {
            let has_role = roles.contains(&database.component);
            lease.send_modify(|lease| {
                let until = match (has_role, lease.until) {
                    // A late line of a daemon that was replaced brings nothing back that was taken away since.
                    (true, former) => former.max(Some(until)),
                    // It was ours, and is not any more: no need to wait.
                    (false, Some(_)) => Some(Duration::ZERO),
                    (false, None) => None,
                };
                *lease = Lease { until, said, number };
            });
        }
        // Not worth a line of its own: a successor asks for it.
        self.report.send_if_modified(|report| {
            report.leases = self.inheritance();
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
            Some(Order::Lease { number, until, roles }) => post.lease(number, until, &roles),
            Some(Order::HandOver) => {
                let last = post.report.borrow().clone();
                say(&mut out, &last).await;
                let _ = out.shutdown().await;
                return post.over.notify_one();
            }
            Some(Order::Leave) => {
                info!("nobody relies on this guardian any more");
                // A disk that hangs must not keep it from leaving.
                let _ = timeout(WRITE_WITHIN, post.means.marker.remove()).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_guarded_and_left_no_lease_is_fenced_until_its_role_is_confirmed() {
        let [inherited, marked, new] = ["inherited", "marked", "new"].map(|name| InstanceId::new(name, "east"));
        let guarded = BTreeSet::from([inherited.clone(), marked.clone(), new.clone()]);
        let leases = BTreeMap::from([(inherited.clone(), 5000)]);
        let until = until_when(&guarded, &leases, &BTreeSet::from([inherited.clone(), marked.clone()]));
        let expected = [(inherited, Some(Duration::from_secs(5))), (marked, Some(Duration::ZERO)), (new, None)];
        assert_eq!(until, BTreeMap::from(expected));
    }

    #[test]
    fn a_guardian_of_another_version_leaves_its_leases_too() {
        let said = r#"{"pid":7,"armed":[],"demoted":[],"trouble":{},"leases":{"database@east":5000}}"#;
        let report: Report = serde_json::from_str(said).unwrap();
        assert_eq!((report.pid, report.heard, report.leases.len()), (7, None, 1));
    }
}
