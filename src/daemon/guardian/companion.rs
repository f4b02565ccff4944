//! One guardian as its daemon sees it: started, fed with leases, listened to, and ended where it hangs.
//!
//! A task of its own feeds it, whatever else the daemon waits for: a guardian that is about to be replaced is fed until its
//! successor has taken its leases over.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::handle::Board;
use super::{Order, Report, address, millis};
use crate::config::Config;
use crate::decide::Confirmed;
use crate::domain::{ComponentId, RegionId};

/// A guardian that has just been started is asked for again after this.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// And it has to be there within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A local socket takes a line at once; a guardian that takes none is replaced.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// A guardian that is asked to leave has left by then.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// Whether leases are acknowledged is looked at after this.
const TICK: Duration = Duration::from_millis(250);
/// A guardian that acknowledges nothing for so many of them guards nothing: three seconds, where an answer takes
/// milliseconds. Ticks are counted and not time: a daemon that was stopped itself finds the answers when it goes on.
const TICKS_MAX: u32 = 12;
/// This very program, even where its file was replaced or removed since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A guardian that was started here.
pub(super) struct Companion {
    /// What it said last.
    pub(super) reports: watch::Receiver<Report>,
    /// Ends with it, and says why.
    pub(super) ended: JoinHandle<String>,
    leave: CancellationToken,
}

/// What a companion has from its daemon.
#[derive(Clone)]
pub(super) struct Feed {
    pub(super) board: Arc<Board>,
    pub(super) region: RegionId,
    pub(super) self_fence_after: Duration,
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

impl Companion {
    /// Starts one, which takes over from whoever is there already.
    pub(super) async fn start(paths: &[PathBuf], config: &Config, feed: Feed) -> Result<Self, String> {
        let confirmed = feed.board.confirmations();
        let first = feed.lease(&confirmed.borrow(), 0);
        let mut child = spawn(paths, first.as_ref()).await?;
        let pid = child.id().ok_or("it ended at once")?;
        let connected = tokio::select! {
            connected = timeout(CONNECT_WITHIN, connect(config, pid)) => connected,
            ended = child.wait() => return Err(format!("it ended at once: {ended:?}")),
        };
        let (lines, out) = match connected {
            Ok(connected) => connected?,
            Err(_elapsed) => {
                // Whoever comes next would find it in its place.
                let _ = child.start_kill();
                return Err("it does not answer".to_owned());
            }
        };
        info!(pid, "a guardian is beside the database");
        let leave = CancellationToken::new();
        let (told, reports) = watch::channel(Report::default());
        let conversation =
            Conversation { child, lines, out, feed, confirmed, told, leave: leave.clone(), number: 0, silent: None };
        Ok(Self { reports, ended: tokio::spawn(conversation.hold()), leave })
    }

    /// Nobody relies on it any more. Returns once it has left.
    pub(super) async fn leave(&mut self) {
        self.leave.cancel();
        let _ = timeout(LEAVE_WITHIN, &mut self.ended).await;
    }
}

impl Feed {
    fn lease(&self, confirmed: &Confirmed, number: u64) -> Option<Order> {
        let serves = |component: &&ComponentId| {
            confirmed.roles.get(*component).is_some_and(|regions| regions.contains(&self.region))
        };
        let roles: BTreeSet<ComponentId> = confirmed.roles.keys().filter(serves).cloned().collect();
        Some(Order::Lease { number, until: millis(confirmed.at? + self.self_fence_after), roles })
    }
}

struct Conversation {
    child: Child,
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
    feed: Feed,
    confirmed: watch::Receiver<Confirmed>,
    told: watch::Sender<Report>,
    leave: CancellationToken,
    /// Of the lease that was sent last.
    number: u64,
    /// A lease that is not acknowledged yet, and for how many ticks.
    silent: Option<(u64, u32)>,
}

impl Conversation {
    /// Until one of the two ends it.
    async fn hold(mut self) -> String {
        match self.go_on().await {
            Ok(()) => {
                let _ = self.child.wait().await;
                "it has left".to_owned()
            }
            Err(Broken::Gone(why)) => why,
            Err(Broken::Hangs(why)) => {
                // It would not fence, and it would not leave its place to another one.
                let _ = self.child.kill().await;
                why
            }
        }
    }

    async fn go_on(&mut self) -> Result<(), Broken> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.pass_on().await?;
        let leave = self.leave.clone();
        loop {
            tokio::select! {
                biased;
                line = self.lines.next_line() => {
                    let report = parse(line)?;
                    self.acknowledged(report.heard);
                    // An acknowledgement is no news: the loop that hears news confirms the roles anew, which is a lease.
                    let news = Report { heard: None, leases: BTreeMap::new(), ..report };
                    self.told.send_if_modified(|told| std::mem::replace(told, news.clone()) != news);
                }
                _ = ticks.tick() => self.count()?,
                () = leave.cancelled() => return self.send(&Order::Leave).await,
                _ = self.confirmed.changed() => self.pass_on().await?,
            }
        }
    }

    async fn pass_on(&mut self) -> Result<(), Broken> {
        let lease = self.feed.lease(&self.confirmed.borrow_and_update(), self.number + 1);
        let Some(lease) = lease else { return Ok(()) };
        self.number += 1;
        self.silent.get_or_insert((self.number, 0));
        self.send(&lease).await
    }

    async fn send(&mut self, order: &Order) -> Result<(), Broken> {
        let line = line(order);
        match timeout(WRITE_WITHIN, self.out.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Broken::Gone(format!("it is gone: {error}"))),
            Err(_elapsed) => Err(Broken::Hangs("it took no leases, and was ended".to_owned())),
        }
    }

    fn acknowledged(&mut self, heard: Option<u64>) {
        let Some((number, _)) = self.silent.filter(|(number, _)| heard >= Some(*number)) else { return };
        let is_behind = heard.unwrap_or(number) < self.number;
        self.silent = is_behind.then_some((self.number, 0));
    }

    fn count(&mut self) -> Result<(), Broken> {
        let Some((_, ticks)) = &mut self.silent else { return Ok(()) };
        *ticks += 1;
        if *ticks > TICKS_MAX {
            return Err(Broken::Hangs("it acknowledged no leases, and was ended".to_owned()));
        }
        Ok(())
    }
}

/// Why a conversation ends that nobody wanted to end.
enum Broken {
    /// There is nobody any more, or somebody else.
    Gone(String),
    /// It is there, and does nothing.
    Hangs(String),
}

async fn spawn(paths: &[PathBuf], first: Option<&Order>) -> Result<Child, String> {
    let program = if Path::new(OWN_PROGRAM).exists() {
        PathBuf::from(OWN_PROGRAM)
    } else {
        std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?
    };
    let mut command = Command::new(program);
    command.arg0("failoverd").arg("guardian");
    for path in paths {
        command.arg("--config").arg(path);
    }
    let stdin = if first.is_some() { Stdio::piped() } else { Stdio::null() };
    // A group of its own: what stops the daemon's group must not stop the guardian.
    command.stdin(stdin).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    if let (Some(mut stdin), Some(first)) = (child.stdin.take(), first) {
        // Without it, it waits for its first lease; and where it has ended, that shows soon.
        let _ = timeout(WRITE_WITHIN, stdin.write_all(&line(first))).await;
    }
    Ok(child)
}

/// Until the guardian with that process id answers: at first it may be its predecessor that does.
async fn connect(config: &Config, pid: u32) -> Result<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf), String> {
    let address = address(config).map_err(|error| format!("its address cannot be: {error}"))?;
    loop {
        if let Ok(stream) = StdStream::connect_addr(&address) {
            stream.set_nonblocking(true).map_err(|error| error.to_string())?;
            let stream = UnixStream::from_std(stream).map_err(|error| error.to_string())?;
            if listener_of(&stream) == Some(pid) {
                let (lines, out) = stream.into_split();
                return Ok((BufReader::new(lines).lines(), out));
            }
        }
        sleep(CONNECT_AGAIN).await;
    }
}

/// A guardian that listens where a daemon with this configuration would have its own.
pub(super) struct Stranger {
    pub(super) pid: u32,
    stream: UnixStream,
}

impl Stranger {
    /// Whoever is there.
    pub(super) fn find(config: &Config) -> Option<Self> {
        let stream = StdStream::connect_addr(&address(config).ok()?).ok()?;
        stream.set_nonblocking(true).ok()?;
        let stream = UnixStream::from_std(stream).ok()?;
        Some(Self { pid: listener_of(&stream)?, stream })
    }

    /// Ends when it does. It is listened to and told nothing: asked again and again, one that hangs would let the asker
    /// hang, too.
    pub(super) async fn ends(&mut self) {
        let mut ignored = [0; 1024];
        while matches!(self.stream.read(&mut ignored).await, Ok(read) if read > 0) {}
    }
}

fn listener_of(stream: &UnixStream) -> Option<u32> {
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok()
}

fn line(order: &Order) -> Vec<u8> {
    // Numbers and names can always be written.
    let mut line = serde_json::to_vec(order).unwrap_or_default();
    line.push(b'\n');
    line
}

fn parse(line: std::io::Result<Option<String>>) -> Result<Report, Broken> {
    match line {
        Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| {
            warn!("the guardian said something that is no report: {error}");
            Broken::Gone("it says what nobody understands".to_owned())
        }),
        Ok(None) => Err(Broken::Gone("it ended".to_owned())),
        Err(error) => Err(Broken::Gone(format!("it cannot be heard: {error}"))),
    }
}
