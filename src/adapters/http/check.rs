//! HTTP checks of the end state: the request that a user would send, and what has to come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use rustls::ClientConfig;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::probe::{Expected, Mismatch, exact};
use super::target::{Patience, Target};
use crate::adapters::failure::describe;
use crate::adapters::names::Names;
use crate::config::SecretSource;
use crate::config::schema::HttpCheck;
use crate::domain::RegionId;
use crate::ports::Setback;

/// Runs HTTP checks, each on a new connection.
#[derive(Debug)]
pub struct HttpChecks {
    names: Arc<Names>,
    trust: BTreeMap<RegionId, Arc<ClientConfig>>,
    default_trust: Arc<ClientConfig>,
    timeout: Duration,
}

impl HttpChecks {
    /// `timeout` bounds one request.
    pub fn new(
        names: Arc<Names>,
        trust: BTreeMap<RegionId, Arc<ClientConfig>>,
        default_trust: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Self {
        Self { names, trust, default_trust, timeout }
    }

    /// Whether the URL can be requested at all; for a look.
    pub fn prepare(&self, check: &HttpCheck, region: &RegionId) -> Result<String, Setback> {
        let (target, method) = self.target(check, region)?;
        Ok(format!("{method} {} is expected to answer {}", target.url, expected(check).describe()))
    }

    /// One request. An answer that is not the expected one may become it while pods start: `NotYet`.
    pub async fn run(&self, check: &HttpCheck, region: &RegionId) -> Result<String, Setback> {
        let (target, method) = self.target(check, region)?;
        target.phase.reset(target.needs_resolver);
        let mut request = target
            .client
            .request(method.clone(), target.url.clone())
            .headers(headers(&check.headers, &check.secret_headers)?);
        if let Some(body) = &check.body {
            request = request.body(body.clone());
            let is_said = check.headers.keys().any(|name| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()));
            if !is_said && serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok() {
                request = request.header(CONTENT_TYPE, "application/json");
            }
        }
        let url = &target.url;
        let began = Instant::now();
        let answer = request
            .send()
            .await
            .map_err(|error| Setback::NotYet(format!("{method} {url}: {}", describe(&error.without_url()))))?;
        let status = answer.status();
        match expected(check).compare(answer, false).await {
            Ok(()) => match (began.elapsed(), check.latency_max) {
                (took, Some(limit)) if took > limit => {
                    let (took, limit) = (exact(took), exact(limit));
                    Err(Setback::NotYet(format!("{method} {url} answered after {took}, the limit is {limit}")))
                }
                (_, _) => Ok(format!("{method} {url} answered {}", status.as_u16())),
            },
            Err(Mismatch::Answer(why)) => Err(Setback::NotYet(format!("{method} {url} {why}"))),
            Err(Mismatch::Broken(error)) => {
                let why = describe(&error.without_url());
                Err(Setback::NotYet(format!("{method} {url} answered, but the body broke off: {why}")))
            }
        }
    }

    fn target(&self, check: &HttpCheck, region: &RegionId) -> Result<(Target, Method), Setback> {
        let url = check.url.replace("{region}", region.as_str());
        let name = check.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method = Method::from_bytes(name.as_bytes())
            .map_err(|_| Setback::Refused(format!("`{name}` is not an HTTP method; write GET or POST")))?;
        if !check.repeatable && !method.is_safe() {
            return Err(Setback::Refused(format!(
                "the check sends {method} and is not declared repeatable; write repeatable = true if that does no harm"
            )));
        }
        Ok((self.target_of(&url, check.connect_to.get(region).copied(), region)?, method))
    }

    /// Where to ask, by what is trusted in the region.
    pub(super) fn target_of(
        &self,
        url: &str,
        connect_to: Option<SocketAddr>,
        region: &RegionId,
    ) -> Result<Target, Setback> {
        let trust = self.trust.get(region).unwrap_or(&self.default_trust);
        let patience = Patience { total: self.timeout, keep_connection: false };
        Target::new(url, connect_to, trust, &self.names, patience).map_err(Setback::Refused)
    }
}

fn expected(check: &HttpCheck) -> Expected {
    let (body_contains, answer) = (check.body_contains.clone(), check.answer.clone());
    Expected { status: check.status, body_contains, answer }
}

/// With the secrets as they are now: a rotated one needs no restart.
pub(super) fn headers(
    plain: &BTreeMap<String, String>,
    secret: &BTreeMap<String, SecretSource>,
) -> Result<HeaderMap, Setback> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str, is_sensitive: bool| {
        let known = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        let Some((known, mut value)) = known else {
            return Err(Setback::Refused(format!("the header {name} cannot be sent: no name or no value of a header")));
        };
        value.set_sensitive(is_sensitive);
        headers.insert(known, value);
        Ok(())
    };
    for (name, value) in plain {
        add(name, value, false)?;
    }
    for (name, source) in secret {
        let secret = source.read().map_err(|missing| Setback::Transient(format!("the header {name}: {missing}")))?;
        add(name, secret.expose_secret(), true)?;
    }
    Ok(headers)
}
