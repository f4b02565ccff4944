//! One HTTP service: does it answer as configured, on a new connection, soon enough?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::tls::TlsInfo;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::certificate;
use super::phase::Waiting;
use super::target::{Patience, Target};
use crate::adapters::connect::one_line;
use crate::adapters::failure::{NetworkFailure, describe, from_chain};
use crate::adapters::names::Names;
use crate::config::schema::{Http, HttpRegion};
use crate::domain::time::human;
use crate::domain::{Evidence, Finding, InstanceId, Layer, Observation};
use crate::ports::Probe;

/// Bodies are read this far; what is expected has to be found within.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// Probes one HTTP service.
#[derive(Debug)]
pub struct HttpProbe {
    instance: InstanceId,
    target: Target,
    expected: Expected,
    latency_max: Option<Duration>,
    certificate_warning: Option<Duration>,
    keep_connection: bool,
    timeout: Duration,
    /// The end of the certificate seen last, so that the same one is not parsed every second.
    seen: Mutex<Option<(Vec<u8>, Timestamp)>>,
}

/// What an answer has to be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) status: u16,
    pub(super) body_contains: Option<String>,
    /// What the JSON of the body holds, by pointers into it; `*` is any value but null.
    pub(super) answer: BTreeMap<String, String>,
}

impl HttpProbe {
    /// For one instance. The trust store behind `trust` is shared by all probes of a region.
    pub fn new(
        instance: InstanceId,
        service: &Http,
        region: &HttpRegion,
        timeout: Duration,
        trust: &ClientConfig,
        names: &Arc<Names>,
    ) -> Result<Self, String> {
        let connect_to: Option<SocketAddr> = region.connect_to;
        let patience = Patience { total: timeout, keep_connection: service.keep_connection };
        Ok(Self {
            instance,
            target: Target::new(&region.url, connect_to, trust, names, patience)?,
            expected: Expected {
                status: service.status,
                body_contains: service.body_contains.clone(),
                answer: BTreeMap::new(),
            },
            latency_max: service.latency_max,
            certificate_warning: service.certificate_warning,
            keep_connection: service.keep_connection,
            timeout,
            seen: Mutex::new(None),
        })
    }

    async fn look(&self, evidence: &mut Evidence) -> Finding {
        self.target.phase.reset(self.target.needs_resolver);
        let mut request = self.target.client.get(self.target.url.clone());
        if !self.keep_connection {
            // Says that there will be no second request, so that the server does not wait for one.
            request = request.header(reqwest::header::CONNECTION, "close");
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return self.no_answer(error),
        };
        if let Some(info) = answer.extensions().get::<TlsInfo>() {
            self.judge_certificate(info, evidence);
        }
        evidence.details.push(format!("status={}", answer.status().as_u16()));
        match self.expected.compare(answer, self.keep_connection).await {
            Ok(()) => Finding::Alive,
            Err(Mismatch::Answer(why)) => Finding::Failing { layer: Layer::Query, why },
            Err(Mismatch::Broken(error)) => {
                let why = if error.is_timeout() {
                    format!("answered, but the body was not complete within {}", human(self.timeout))
                } else {
                    format!("answered, but the body broke off: {}", describe(&error.without_url()))
                };
                Finding::Failing { layer: Layer::Query, why }
            }
        }
    }

    /// A request that failed before there was an answer.
    fn no_answer(&self, error: reqwest::Error) -> Finding {
        let within = human(self.timeout);
        if error.is_timeout() {
            let (layer, what) = match (error.is_connect(), self.target.phase.waiting()) {
                (true, Waiting::Resolver) => {
                    return Finding::Unknown { why: format!("our resolver did not answer within {within}") };
                }
                (true, Waiting::Connection) => (Layer::Tcp, "no connection"),
                (true, Waiting::Session) => (Layer::Tls, "connected, but no TLS session"),
                // A kept connection asks no resolver.
                (false, Waiting::Resolver | Waiting::Connection | Waiting::Session) => {
                    (Layer::Greeting, "connected, but no answer")
                }
            };
            return Finding::Failing { layer, why: format!("{what} within {within}") };
        }
        let is_connect = error.is_connect();
        let error = error.without_url();
        let why = describe(&error);
        match from_chain(&error) {
            // A connection that stood and then broke before the first line of an answer.
            Some(NetworkFailure::Tcp) if !is_connect => Finding::Failing { layer: Layer::Greeting, why },
            Some(NetworkFailure::Tcp) if self.target.phase.waiting() == Waiting::Session => {
                Finding::Failing { layer: Layer::Tls, why }
            }
            Some(failure) => failure.finding(why),
            // The server closed the connection, or spoke something else than HTTP.
            None => Finding::Failing { layer: Layer::Greeting, why },
        }
    }

    fn judge_certificate(&self, info: &TlsInfo, evidence: &mut Evidence) {
        let Some(warning) = self.certificate_warning else { return };
        let Some(der) = info.peer_certificate() else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = match &*seen {
            Some((known, ends)) if known == der => Some(*ends),
            Some(_) | None => certificate::ends(der),
        };
        match ends {
            Some(ends) => {
                *seen = Some((der.to_vec(), ends));
                evidence.warnings.extend(certificate::warning(ends, warning, Timestamp::now()));
            }
            None => evidence.warnings.push("the end of its certificate cannot be read".to_owned()),
        }
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let started = Instant::now();
        let mut evidence = Evidence::default();
        let finding = self.look(&mut evidence).await;
        let took = started.elapsed();
        if finding == Finding::Alive {
            evidence.latency = Some(took);
            if let Some(limit) = self.latency_max.filter(|limit| took > *limit) {
                evidence.degraded = Some(format!("answered after {}, the limit is {}", exact(took), exact(limit)));
            }
        }
        Observation { instance: self.instance.clone(), began, ended: began + took, finding, evidence }
    }
}

/// An answer that is not what was asked for.
pub(super) enum Mismatch {
    Answer(String),
    Broken(reqwest::Error),
}

impl Expected {
    /// Compares status and body. The body is read only where that is needed.
    pub(super) async fn compare(&self, mut answer: reqwest::Response, read_all: bool) -> Result<(), Mismatch> {
        let status = answer.status();
        if status.as_u16() != self.status {
            let mut why = format!("answered {}, expected {}", status.as_u16(), self.status);
            if let Some(to) = answer.headers().get(reqwest::header::LOCATION).and_then(|to| to.to_str().ok()) {
                why += &format!(" (a redirect to {}, which is not followed)", one_line(to, 200));
            }
            return Err(Mismatch::Answer(why));
        }
        if self.body_contains.is_none() && self.answer.is_empty() && !read_all {
            return Ok(());
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(Mismatch::Broken)? {
            body.extend_from_slice(&piece[..piece.len().min(BODY_MAX - body.len())]);
            if body.len() >= BODY_MAX {
                break;
            }
        }
        match &self.body_contains {
            Some(wanted) if !contains(&body, wanted.as_bytes()) => Err(Mismatch::Answer(format!(
                "answered {}, but the body does not contain `{}`; it begins with `{}`",
                status.as_u16(),
                one_line(wanted, 80),
                one_line(&String::from_utf8_lossy(&body[..body.len().min(400)]), 80),
            ))),
            Some(_) | None => self.compare_json(status, &body),
        }
    }

    fn compare_json(&self, status: StatusCode, body: &[u8]) -> Result<(), Mismatch> {
        if self.answer.is_empty() {
            return Ok(());
        }
        let status = status.as_u16();
        let json: serde_json::Value = serde_json::from_slice(body).map_err(|error| {
            let begins = one_line(&String::from_utf8_lossy(&body[..body.len().min(400)]), 80);
            Mismatch::Answer(format!("answered {status}, but no JSON ({error}); it begins with `{begins}`"))
        })?;
        for (pointer, wanted) in &self.answer {
            let found = json.pointer(pointer).filter(|found| !found.is_null());
            let is_right = match found {
                None => false,
                Some(_) if wanted == "*" => true,
                Some(serde_json::Value::String(text)) => text == wanted,
                Some(other) => {
                    let text = other.to_string();
                    text == *wanted
                }
            };
            if !is_right {
                let found =
                    found.map_or("nothing".to_owned(), |found| format!("`{}`", one_line(&found.to_string(), 80)));
                return Err(Mismatch::Answer(format!(
                    "answered {status}, with {found} at {pointer}, expected `{wanted}`"
                )));
            }
        }
        Ok(())
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let status = StatusCode::from_u16(self.status).map_or_else(|_| self.status.to_string(), |s| s.to_string());
        let contains = self.body_contains.iter().map(|text| format!("containing `{}`", one_line(text, 80)));
        let holds = self.answer.iter().map(|(pointer, value)| format!("with `{}` at {pointer}", one_line(value, 80)));
        [status].into_iter().chain(contains).chain(holds).collect::<Vec<_>>().join(", ")
    }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}

/// Latencies are too short for whole seconds.
pub(super) fn exact(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
