//! The daemon's HTTP API, from the operator's side.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::args::{DaemonArgs, load};
use super::{Exit, Failure};
use crate::decide::Command;

/// Where the daemon listens unless somebody says otherwise.
const URL: &str = "http://127.0.0.1:8780";

/// Longest answer that is read, in bytes: a status with a thousand instances is far below it.
const ANSWER_MAX: usize = 16 << 20;

/// A daemon that answers questions and takes orders.
pub(super) struct Daemon {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
    timeout: Duration,
}

impl Daemon {
    /// Finds out address and token; does not connect.
    pub(super) fn find(args: &DaemonArgs) -> Result<Self, Failure> {
        let loaded = if args.config.is_empty() { None } else { Some(load(&args.config)?) };
        let listen = loaded.as_ref().map(|loaded| reachable(loaded.config.api.listen));
        let url =
            args.url.clone().or(listen.map(|listen| format!("http://{listen}"))).unwrap_or_else(|| URL.to_owned());
        let configured = loaded.as_ref().and_then(|loaded| loaded.config.api.token.as_ref());
        let token = match (&args.token_file, std::env::var("FAILOVERD_TOKEN"), configured) {
            (Some(file), _, _) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token in {}", file.display()))
                    .map_err(|error| Failure::new(Exit::Permission, error))?;
                Some(SecretString::from(text.trim()))
            }
            (None, Ok(token), _) if !token.is_empty() => Some(SecretString::from(token)),
            // Questions may do without; orders are refused by the daemon with what to do.
            (None, _, Some(source)) => source.read().ok(),
            (None, _, None) => None,
        };
        // No proxy from the environment: the daemon is on this machine or in this network, and a proxy between an
        // operator and a failover is one more thing that can be down.
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(args.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("cannot set up an HTTP client")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, timeout: args.timeout })
    }

    /// Asks for JSON.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.get_within(path, self.timeout).await
    }

    /// Asks for JSON that may take a while: the daemon answers when something has changed.
    pub(super) async fn get_within(&self, path: &str, timeout: Duration) -> Result<Value, Failure> {
        let (status, body) = self.send(Method::GET, path, None, timeout).await.map_err(Lost::failure)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refused(status, &body))
    }

    /// Gives an order; the answer is what is in effect.
    pub(super) async fn order(&self, command: &Command) -> Result<String, Failure> {
        let body = serde_json::to_value(command).context("cannot write the command as JSON")?;
        let (status, body) =
            self.send(Method::POST, "/v1/command", Some(body), self.timeout).await.map_err(|lost| match lost {
                Lost::NotSent(failure) => failure.context("NOT IN EFFECT"),
                // Not even a refusal came back, and the order may have arrived all the same.
                Lost::Unanswered(failure) => failure
                    .context("NOT KNOWN TO BE IN EFFECT")
                    .exits_with(Exit::NotInEffect)
                    .hint("failoverd status shows whether it arrived"),
            })?;
        if status.is_success() {
            return Ok(said(&body).unwrap_or_else(|| "done".to_owned()));
        }
        let refused = self.refused(status, &body);
        // Nobody knows: neither did the daemon.
        if body.get("in_effect") == Some(&Value::Null) {
            return Err(refused.context("NOT KNOWN TO BE IN EFFECT"));
        }
        Err(refused.context("NOT IN EFFECT"))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        timeout: Duration,
    ) -> Result<(StatusCode, Value), Lost> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(timeout);
        request = request.header(reqwest::header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let mut bytes = vec![];
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                let text = format!("the answer of {} is longer than {} MiB", self.url, ANSWER_MAX >> 20);
                return Err(Lost::Unanswered(Failure::because(Exit::Unavailable, text).hint(NOT_A_DAEMON)));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = || Value::String(String::from_utf8_lossy(&bytes).trim().to_owned());
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok((status, body)),
            // A refusal may come from something in between that speaks no JSON.
            Err(_) if !status.is_success() => Ok((status, text())),
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("{}{path} does not answer with JSON", self.url));
                Err(Lost::Unanswered(Failure::new(Exit::Unavailable, error).hint(NOT_A_DAEMON)))
            }
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> Lost {
        let url = self.url.as_str();
        if error.is_builder() {
            let error = anyhow::Error::new(error.without_url()).context(format!("`{url}` is not a URL"));
            let hint = "write it with its scheme and port, such as http://127.0.0.1:8780";
            return Lost::NotSent(Failure::new(Exit::Usage, error).hint(hint));
        }
        let text = if error.is_timeout() {
            format!("the daemon at {url} did not answer within {}", crate::domain::time::human(self.timeout))
        } else {
            format!("cannot reach the daemon at {url}")
        };
        let sent = !error.is_connect();
        let failure = Failure::new(Exit::Unavailable, anyhow::Error::new(error.without_url()).context(text)).hint(
            "is it running (systemctl status failoverd)? Another address: --url, FAILOVERD_URL, or --config with the daemon's file",
        );
        if sent { Lost::Unanswered(failure) } else { Lost::NotSent(failure) }
    }

    fn refused(&self, status: StatusCode, body: &Value) -> Failure {
        let why = said(body).unwrap_or_else(|| format!("the daemon at {} answered {status}", self.url));
        // Said once, in front.
        let why = why.strip_prefix("NOT IN EFFECT: ").unwrap_or(&why);
        match status {
            // It says nothing about itself to strangers.
            StatusCode::UNAUTHORIZED => match self.token {
                Some(_) => Failure::because(Exit::Permission, format!("the daemon at {} refuses the token", self.url))
                    .hint("compare it with what api.token of the daemon's configuration names"),
                None => Failure::because(Exit::Permission, format!("the daemon at {} wants a token", self.url))
                    .hint("set FAILOVERD_TOKEN, or give --token-file, or --config with the daemon's file"),
            },
            StatusCode::FORBIDDEN => with_hint(Failure::because(Exit::Permission, why), body),
            // It was asked for something that there is not.
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
                with_hint(Failure::because(Exit::No, why), body)
            }
            _ => with_hint(Failure::because(Exit::NotInEffect, why), body),
        }
    }
}

/// A request without an answer.
enum Lost {
    /// It certainly did not arrive.
    NotSent(Failure),
    /// It may have arrived.
    Unanswered(Failure),
}

impl Lost {
    fn failure(self) -> Failure {
        match self {
            Self::NotSent(failure) | Self::Unanswered(failure) => failure,
        }
    }
}

const NOT_A_DAEMON: &str = "is something else listening there? The address is api.listen in the daemon's configuration";

/// With what the daemon says to do about it.
fn with_hint(failure: Failure, body: &Value) -> Failure {
    match body.get("hint").and_then(Value::as_str) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The sentence in an answer.
fn said(body: &Value) -> Option<String> {
    let text = match body {
        Value::String(text) => text,
        Value::Object(fields) => {
            ["answer", "error", "why"].iter().find_map(|name| fields.get(*name).and_then(Value::as_str))?
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => return None,
    };
    (!text.is_empty()).then(|| text.to_owned())
}

/// A daemon that listens on every address is reached through loopback.
fn reachable(mut listen: std::net::SocketAddr) -> std::net::SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_address_is_the_one_that_a_daemon_listens_on_by_default() {
        let listen = crate::config::DEFAULTS.lines().find_map(|line| line.strip_prefix("listen = "));
        assert_eq!(listen.map(|address| format!("http://{}", address.trim_matches('"'))).as_deref(), Some(URL));
    }
}
