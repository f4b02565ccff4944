//! One connection to one API server, layer by layer, and a Kubernetes client that speaks over just that.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kube::client::{Body, ConfigExt as _};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::either::Either;
use tower::{Service, ServiceBuilder};

use super::access::{Access, Cluster};
use crate::adapters::Endpoint;
use crate::adapters::connect::{self, Broken};
use crate::adapters::failure::describe;
use crate::domain::Layer;

/// A connection that lasts as long as this value.
pub(super) struct Session {
    pub(super) client: kube::Client,
    /// The server's certificate, in DER.
    pub(super) certificate: Option<Vec<u8>>,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Cluster {
    /// Connects, before `until`.
    pub(super) async fn connect(&self, until: Instant) -> Result<Session, Broken> {
        let access = self.access(until).await.map_err(|why| Broken::Here { why })?;
        let stream = self.tcp(&access, until).await?;
        let (stream, certificate) = match &access.tls {
            Some(tls) => {
                let stream = connect::tls(tls.clone(), &access.server_name, stream, until).await?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate = certificate.map(|certificate| certificate.to_vec());
                (Either::Right(stream), certificate)
            }
            None => (Either::Left(stream), None),
        };
        let (sender, connection) = handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(|error| Broken::There { layer: Layer::Greeting, why: describe(&error) })?;
        // Ends with the connection, and at the latest with the session.
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer is told the same.
            let _ = connection.await;
        })
        .abort_handle();
        let session = |client| Session { client, certificate, driver: driver.clone() };
        client(&access, sender).map(session).map_err(|why| {
            driver.abort();
            Broken::Here { why }
        })
    }

    async fn tcp(&self, access: &Access, until: Instant) -> Result<tokio::net::TcpStream, Broken> {
        let at = Endpoint { host: access.host.clone(), port: access.port };
        connect::tcp(&at, &self.names, until).await
    }
}

/// The Kubernetes client over one connection. No retries, no pool, no redirects.
fn client(access: &Access, sender: SendRequest<Body>) -> Result<kube::Client, String> {
    let config = &access.config;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|error| describe(&error))?)
        .layer(config.extra_headers_layer().map_err(|error| describe(&error))?)
        .map_err(tower::BoxError::from)
        .service(Wire(Arc::new(Mutex::new(sender))));
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// A connection as a service: the target of a request in the form that a server expects, not a proxy. One request
/// at a time.
#[derive(Clone)]
struct Wire(Arc<Mutex<SendRequest<Body>>>);

/// Bytes of one answer; the largest that is asked for, a page of pods, has a few megabytes.
const ANSWER_MAX: usize = 32 * 1024 * 1024;

impl Service<Request<Body>> for Wire {
    type Response = Response<Limited<Incoming>>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(host) = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        let sender = self.0.clone();
        Box::pin(async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            Ok(answer.map(|body| Limited::new(body, ANSWER_MAX)))
        })
    }
}

/// Waits for an answer, before `until`.
pub(super) async fn answered<T>(
    until: Instant,
    layer: Layer,
    waited: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, Broken> {
    timeout_at(until, call).await.map_err(|_| Broken::late(layer, waited))
}

// The compiler needs to know that a session can be held across awaits; a change that breaks this should fail here.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Session>();
    is_send::<Arc<Cluster>>();
};
