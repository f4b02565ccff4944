//! Who may ask, and who may order.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use super::problem;
use crate::config::SecretSource;
use crate::telemetry;

/// The rules of one listener.
#[derive(Debug, Clone)]
pub struct Access {
    token: Option<SecretSource>,
    is_loopback: bool,
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// See something.
    Read,
    /// Change something.
    Order,
}

impl Access {
    /// Rules for a listener at `listen`. A token from a file is read anew for every request, so that it can be
    /// rotated without a restart.
    pub fn new(token: Option<SecretSource>, listen: SocketAddr) -> Self {
        Self { token, is_loopback: listen.ip().is_loopback() }
    }

    /// Whether this request may go on; otherwise the answer to it.
    pub(super) fn check(&self, headers: &HeaderMap, wish: Wish) -> Result<(), Box<Response>> {
        match &self.token {
            Some(source) => {
                let Ok(token) = source.read() else {
                    tracing::warn!("the API token cannot be read; requests are refused");
                    let error = "the daemon cannot read its own token; its log says more";
                    return Err(Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, error, None)));
                };
                let token = token.expose_secret().trim();
                if !token.is_empty() && bearer(headers).is_some_and(|shown| is_equal(shown, token)) {
                    Ok(())
                } else {
                    Err(Box::new(unauthorized()))
                }
            }
            None if wish == Wish::Order => Err(Box::new(problem(
                StatusCode::FORBIDDEN,
                "NOT IN EFFECT: commands are switched off, because no token is configured",
                Some("set api.token (an environment variable or a file) and reload; then send it as a bearer token"),
            ))),
            None if self.is_loopback && is_local(headers) => Ok(()),
            None => {
                telemetry::unauthorized();
                Err(Box::new(problem(
                    StatusCode::FORBIDDEN,
                    "without a configured token only local clients are answered",
                    Some("set api.token, or ask through 127.0.0.1 on the machine itself"),
                )))
            }
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Hashed first, so that neither content nor length shows in the time it takes.
fn is_equal(shown: &str, token: &str) -> bool {
    let (shown, token) = (blake3::hash(shown.as_bytes()), blake3::hash(token.as_bytes()));
    shown.as_bytes().ct_eq(token.as_bytes()).into()
}

/// A web page in a browser on this machine can reach loopback under a name of its own (DNS rebinding); an operator
/// uses an address or `localhost`.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let is_address = host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    is_address || name.eq_ignore_ascii_case("localhost")
}

/// Says nothing about what exists.
fn unauthorized() -> Response {
    telemetry::unauthorized();
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (challenge, problem(StatusCode::UNAUTHORIZED, "unauthorized", None)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::HOST, axum::http::HeaderValue::from_static(host))])
    }

    #[test]
    fn a_web_page_under_a_name_of_its_own_is_not_a_local_client() {
        for local in ["127.0.0.1:9470", "127.0.0.1", "localhost:9470", "localhost", "[::1]:9470", "[::1]"] {
            assert!(is_local(&host(local)), "{local}");
        }
        for foreign in ["evil.example:9470", "localhost.evil.example", "127.0.0.1.evil.example:80"] {
            assert!(!is_local(&host(foreign)), "{foreign}");
        }
    }

    #[test]
    fn only_the_very_token_is_equal() {
        assert!(is_equal("secret", "secret"));
        for wrong in ["", "secre", "secret ", "Secret", "secretsecret"] {
            assert!(!is_equal(wrong, "secret"), "{wrong}");
        }
    }
}
