//! Connections: how many, how long, how much.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// What one listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time; more wait in the kernel.
    pub connections: usize,
    /// A client that has not sent its headers by then is cut off; also the longest pause between two requests.
    pub header_within: Duration,
}

/// Longest request head, in bytes: method, path and headers together.
const HEAD_MAX: usize = 16 << 10;
/// Most headers.
const HEADERS_MAX: usize = 64;
/// A connection ends after this, whatever happens on it. Clients connect again.
const CONNECTION_MAX: Duration = Duration::from_secs(600);
/// How long open requests may go on when the daemon ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Where accepting fails (too many files), it is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `stop`.
pub async fn serve(listener: Arc<TcpListener>, router: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = async {
                let place = places.clone().acquire_owned().await.ok()?;
                Some((place, listener.accept().await))
            } => accepted,
        };
        let (place, stream) = match accepted {
            Some((place, Ok((stream, _peer)))) => (place, stream),
            Some((_place, Err(error))) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
            // A semaphore that nobody closes.
            None => break,
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            converse(stream, router, limits, &stop).await;
            drop(place);
        });
    }
    connections.close();
    // What is still open then is cut off with the runtime.
    let _ = tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await;
}

async fn converse(stream: tokio::net::TcpStream, router: Router, limits: Limits, stop: &CancellationToken) {
    // Answers are small and somebody waits for them.
    let _ = stream.set_nodelay(true);
    let service = router.map_request(|request: hyper::Request<Incoming>| request.map(Body::new));
    let service = TowerToHyperService::new(service);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_within)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .keep_alive(true);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(CONNECTION_MAX) => return,
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
