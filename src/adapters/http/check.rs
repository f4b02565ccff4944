//! HTTP checks of the end state: the request that a user would send, and what has to come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rustls::ClientConfig;

use super::probe::{Expected, Mismatch};
use super::target::{Patience, Target};
use crate::adapters::failure::describe;
use crate::adapters::names::Names;
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
        let mut request = target.client.request(method.clone(), target.url.clone());
        if let Some(body) = &check.body {
            request = request.body(body.clone());
            if serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok() {
                request = request.header(reqwest::header::CONTENT_TYPE, "application/json");
            }
        }
        let url = &target.url;
        let answer = request
            .send()
            .await
            .map_err(|error| Setback::NotYet(format!("{method} {url}: {}", describe(&error.without_url()))))?;
        let status = answer.status();
        match expected(check).compare(answer, false).await {
            Ok(()) => Ok(format!("{method} {url} answered {}", status.as_u16())),
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
        let trust = self.trust.get(region).unwrap_or(&self.default_trust);
        let patience = Patience { total: self.timeout, keep_connection: false };
        let target = Target::new(&url, check.connect_to.get(region).copied(), trust, &self.names, patience)
            .map_err(Setback::Refused)?;
        Ok((target, method))
    }
}

fn expected(check: &HttpCheck) -> Expected {
    Expected { status: check.status, body_contains: check.body_contains.clone() }
}
