//! The other side of what is measured, in a process of its own so that its cost is not counted: HTTP services with and
//! without TLS, a store that lists buckets, and an API server of Kubernetes with config maps.
//!
//! A stand-in is enough here: what is measured is our side. It reads and answers real HTTP on real sockets, on every
//! loopback address.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What is remembered between requests.
#[derive(Default)]
struct State {
    connections: AtomicU64,
    requests: AtomicU64,
    failing: Mutex<BTreeSet<String>>,
    objects: Mutex<BTreeMap<String, Value>>,
    versions: AtomicU64,
    log: Mutex<Vec<Value>>,
}

/// Serves until standard input ends; says on standard output where. `folder` holds `leaf.crt` and `leaf.key`.
pub(crate) fn serve(folder: &Path) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let state = Arc::new(State::default());
        let (plain, secure) = (TcpListener::bind("0.0.0.0:0").await?, TcpListener::bind("0.0.0.0:0").await?);
        println!("{}", json!({ "http": plain.local_addr()?.port(), "https": secure.local_addr()?.port() }));
        let tls = acceptor(folder)?;
        tokio::spawn(accept(plain, None, state.clone()));
        tokio::spawn(accept(secure, Some(tls), state));
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
        Ok(ExitCode::SUCCESS)
    })
}

fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(folder.join("leaf.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("leaf.key"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate of the bench")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        state.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(stream, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    // A client that goes away is no concern of a server.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(state: &State, request: Request<Incoming>) -> Answer {
    let arrived = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    state.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/health" {
        return text(StatusCode::OK, "text/plain", "ok");
    }
    if let Some(rest) = path.strip_prefix("/bench/") {
        return control(state, rest);
    }
    if path == "/version" {
        let version = json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2025-04-23T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64"
        });
        return text(StatusCode::OK, "application/json", &version.to_string());
    }
    if path.starts_with("/api") {
        let at = u64::try_from(arrived.as_nanos()).unwrap_or_default();
        locked(&state.log).push(json!({ "at": at, "method": head.method.as_str(), "path": path }));
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        return object(state, &head.method, path, &body);
    }
    bucket(state, path.trim_matches('/'))
}

/// What the bench orders: `fail/BUCKET`, `counters`, `log`.
fn control(state: &State, order: &str) -> Answer {
    match order.split_once('/') {
        Some(("fail", bucket)) => {
            locked(&state.failing).insert(bucket.to_owned());
            text(StatusCode::OK, "text/plain", "")
        }
        _ if order == "log" => {
            text(StatusCode::OK, "application/json", &Value::from(locked(&state.log).clone()).to_string())
        }
        _ => {
            let counters = json!({
                "connections": state.connections.load(Ordering::Relaxed),
                "requests": state.requests.load(Ordering::Relaxed),
            });
            text(StatusCode::OK, "application/json", &counters.to_string())
        }
    }
}

/// `ListObjectsV2`, the only thing that is asked of a bucket.
fn bucket(state: &State, name: &str) -> Answer {
    if locked(&state.failing).contains(name) {
        let error = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>ServiceUnavailable</Code>\
                     <Message>this bucket is out of order</Message></Error>";
        return text(StatusCode::SERVICE_UNAVAILABLE, "application/xml", error);
    }
    let listing = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{name}</Name><Prefix></Prefix>\
         <KeyCount>1</KeyCount><MaxKeys>1</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>a</Key>\
         <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag><Size>1</Size>\
         <StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
    );
    text(StatusCode::OK, "application/xml", &listing)
}

/// An object of Kubernetes: read, created, changed. Its owner is always right.
fn object(state: &State, method: &Method, path: &str, body: &[u8]) -> Answer {
    let mut objects = locked(&state.objects);
    let given: Option<Value> = serde_json::from_slice(body).ok();
    let name = given.as_ref().and_then(|given| given["metadata"]["name"].as_str());
    let key = match (method, name) {
        (&Method::POST, Some(name)) => format!("{path}/{name}"),
        _ => path.to_owned(),
    };
    if let (&Method::POST | &Method::PATCH | &Method::PUT, Some(given)) = (method, given) {
        let version = state.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let object = objects.entry(key.clone()).or_insert_with(|| json!({ "apiVersion": "v1", "kind": "ConfigMap" }));
        merge(object, given);
        object["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    match objects.get(&key) {
        Some(found) => text(StatusCode::OK, "application/json", &found.to_string()),
        None => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                "message": format!("{key} not found"), "code": 404
            });
            text(StatusCode::NOT_FOUND, "application/json", &status.to_string())
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn text(status: StatusCode, kind: &str, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    answer
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The servers as the bench sees them: a child that ends with this value.
pub(crate) struct Servers {
    child: std::process::Child,
    /// Port of plain HTTP.
    pub(crate) http: u16,
    /// Port of HTTP with TLS.
    pub(crate) https: u16,
}

impl Servers {
    /// Starts this program once more, as servers.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        use std::io::BufRead as _;
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(folder)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("cannot start the servers")?;
        let mut line = String::new();
        let output = child.stdout.take().context("the servers have an output")?;
        std::io::BufReader::new(output).read_line(&mut line)?;
        let ports: Value = serde_json::from_str(&line).context("the servers did not start")?;
        let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).context("a port");
        Ok(Self { http: port("http")?, https: port("https")?, child })
    }

    /// Orders something of the servers, see `control`.
    pub(crate) fn tell(&self, order: &str) -> Result<String> {
        crate::daemon::get(SocketAddr::from(([127, 0, 0, 1], self.http)), &format!("/bench/{order}"), None)
    }

    /// Connections and requests so far.
    pub(crate) fn counters(&self) -> Result<(u64, u64)> {
        let counters: Value = serde_json::from_str(&self.tell("counters")?)?;
        Ok((counters["connections"].as_u64().unwrap_or_default(), counters["requests"].as_u64().unwrap_or_default()))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // It ends with its input; that somebody else ended it before is no concern.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
