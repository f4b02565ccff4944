//! A TCP proxy between a client and a server, which can lose what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It arrives.
    Whole,
    /// What the client sends arrives, what the server sends is lost.
    NoAnswers,
    /// Nothing arrives, and nobody hears of that.
    Cut,
}

/// Closes with everything that goes through it when dropped.
pub(crate) struct TcpLink {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl TcpLink {
    /// Leads to `target`.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mode = watch::Sender::new(Mode::Whole);
        let bytes = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn({
            let (mode, bytes) = (mode.clone(), bytes.clone());
            async move {
                let mut through = tokio::task::JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    through.spawn(carry(client, target, mode.subscribe(), bytes.clone()));
                }
            }
        });
        Self { address, mode, bytes, task }
    }

    /// Connections that lost something are closed when all is whole again, as a peer would do in the end.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// So many bytes went through, both ways together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, bytes: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asking = pump(from_client, to_server, mode.clone(), &[Mode::Cut], &bytes);
    let answering = pump(from_server, to_client, mode, &[Mode::Cut, Mode::NoAnswers], &bytes);
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    losing: &[Mode],
    bytes: &AtomicU64,
) {
    let mut buffer = vec![0; 1 << 16];
    let mut lost = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            changed = mode.changed() => {
                if changed.is_err() || (lost && *mode.borrow() == Mode::Whole) {
                    return;
                }
                continue;
            }
        };
        if losing.contains(&*mode.borrow()) {
            lost = true;
            if read == 0 {
                return;
            }
            continue;
        }
        if read == 0 || lost || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}
