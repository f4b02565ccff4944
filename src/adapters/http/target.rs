//! Where a request goes and what it calls the server: a URL, and perhaps an address to connect to instead.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HOST, HeaderMap, HeaderValue};
use rustls::ClientConfig;
use rustls::client::Resumption;

use super::phase::{NoSessions, Phase, PhasedResolver};
use crate::adapters::names::Names;

/// A client for one target, with the phase of its request.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) client: reqwest::Client,
    pub(super) url: Url,
    pub(super) phase: Arc<Phase>,
    /// The host is a name and nobody said where to connect to.
    pub(super) needs_resolver: bool,
}

/// How patient a target's client is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the whole request.
    pub(super) total: Duration,
    /// Keep the connection for the next request.
    pub(super) keep_connection: bool,
}

impl Target {
    /// Parsed, and with a client of its own. A client costs some 8 KiB; the trust store behind `trust` is shared.
    ///
    /// Redirects are not followed and no proxy is used: what is asked about is this server, not another one.
    pub(super) fn new(
        url: &str,
        connect_to: Option<SocketAddr>,
        trust: &ClientConfig,
        names: &Arc<Names>,
        patience: Patience,
    ) -> Result<Self, String> {
        let (url, host) = address(url, connect_to)?;
        let phase = Arc::new(Phase::default());
        let mut tls = trust.clone();
        tls.resumption = Resumption::store(Arc::new(NoSessions(phase.clone())));
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        let resolver = PhasedResolver { names: names.clone(), connect_to, phase: phase.clone() };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .tls_info(true)
            .dns_resolver(resolver)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("failoverd/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(None)
            // A little shorter than the whole, so that a connection that hangs is told from an answer that does.
            .connect_timeout(patience.total.saturating_sub((patience.total / 10).min(Duration::from_millis(200))))
            .timeout(patience.total)
            .pool_max_idle_per_host(usize::from(patience.keep_connection))
            .build()
            .map_err(|error| crate::adapters::failure::describe(&error))?;
        let needs_resolver = connect_to.is_none() && url.host_str().is_some_and(|host| literal(host).is_none());
        Ok(Self { client, url, phase, needs_resolver })
    }
}

/// The URL to request, and the `Host` header where it is not the URL's own.
///
/// reqwest prefers the URL's port to the one of the address it resolved to, so a port that is given in the URL moves to
/// the `Host` header; and it does not resolve addresses at all, so an address in the URL gives way to `connect_to`.
fn address(text: &str, connect_to: Option<SocketAddr>) -> Result<(Url, Option<HeaderValue>), String> {
    let refuse = |why: &str| format!("`{text}` cannot be requested: {why}");
    let mut url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("write http:// or https://"));
    }
    let host = url.host_str().ok_or_else(|| refuse("it names no host"))?.to_owned();
    let Some(address) = connect_to else { return Ok((url, None)) };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.clone(),
    };
    let header = HeaderValue::from_str(&authority).map_err(|_| refuse("its host is not valid in a header"))?;
    let unchangeable = |()| refuse("its address cannot be replaced");
    if literal(&host).is_some() {
        if url.scheme() == "https" && literal(&host) != Some(address.ip()) {
            return Err(refuse("with connect_to a certificate needs a name; write the name instead of the address"));
        }
        url.set_ip_host(address.ip()).map_err(unchangeable)?;
        url.set_port(Some(address.port())).map_err(unchangeable)?;
    } else {
        url.set_port(None).map_err(unchangeable)?;
    }
    Ok((url, Some(header)))
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str, connect_to: &str) -> String {
        match address(url, connect_to.parse().ok()) {
            Ok((url, host)) => format!("{url} {}", host.as_ref().map_or("-", |host| host.to_str().unwrap())),
            Err(why) => why,
        }
    }

    #[test]
    fn the_name_stays_for_tls_and_host_while_the_connection_goes_elsewhere() {
        let to = "127.0.0.1:9443";
        assert_eq!(shown("https://api.example/health", ""), "https://api.example/health -");
        assert_eq!(shown("https://api.example/health", to), "https://api.example/health api.example");
        assert_eq!(shown("https://api.example:8443/health", to), "https://api.example/health api.example:8443");
        assert_eq!(shown("http://10.0.0.1:80/health", to), "http://127.0.0.1:9443/health 10.0.0.1");
    }

    #[test]
    fn what_cannot_be_requested_says_what_to_write() {
        assert!(shown("ftp://example", "").contains("write http:// or https://"));
        assert!(shown("https://10.0.0.1/", "127.0.0.1:1").contains("write the name"));
    }
}
