//! Reference points: anything outside that answers while our own network works.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::target::{Patience, Target};
use crate::adapters::failure::{NetworkFailure, describe, from_chain};
use crate::adapters::names::Names;
use crate::domain::time::human;
use crate::ports::ReferenceProbe;

/// Asks one reference point.
#[derive(Debug)]
pub struct HttpReference {
    way: Way,
    timeout: Duration,
}

#[derive(Debug)]
enum Way {
    /// A connection that is accepted is an answer.
    Tcp { host: String, port: u16, names: Arc<Names> },
    /// Any status is an answer.
    Url(Box<Target>),
}

impl HttpReference {
    /// `address` is `host:port`, `http://…` or `https://…`; the error says what to write.
    pub fn new(address: &str, limit: Duration, trust: &ClientConfig, names: &Arc<Names>) -> Result<Self, String> {
        let way = if address.contains("://") {
            let patience = Patience { total: limit, keep_connection: false };
            Way::Url(Box::new(Target::new(address, None, trust, names, patience)?))
        } else {
            let (host, port) = address
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host, port.parse().ok()?)))
                .filter(|(host, _)| !host.is_empty())
                .ok_or_else(|| format!("`{address}` is not host:port, http://… or https://…"))?;
            Way::Tcp { host: host.to_owned(), port, names: names.clone() }
        };
        Ok(Self { way, timeout: limit })
    }
}

#[async_trait]
impl ReferenceProbe for HttpReference {
    async fn ask(&self) -> Result<(), String> {
        match &self.way {
            Way::Tcp { host, port, names } => {
                let connect = connect(host, *port, names, Instant::now() + self.timeout);
                match timeout(self.timeout, connect).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => Err(format!("no connection within {}", human(self.timeout))),
                }
            }
            Way::Url(target) => {
                target.phase.reset(target.needs_resolver);
                match target.client.get(target.url.clone()).send().await {
                    Ok(_any) => Ok(()),
                    Err(error) => {
                        let error = error.without_url();
                        match from_chain(&error) {
                            // Whatever is wrong with its certificate: it showed one, so it is there.
                            Some(NetworkFailure::UntrustedByUs | NetworkFailure::Expired | NetworkFailure::Tls) => {
                                Ok(())
                            }
                            Some(NetworkFailure::Dns | NetworkFailure::Tcp | NetworkFailure::Own(_)) | None => {
                                Err(describe(&error))
                            }
                        }
                    }
                }
            }
        }
    }
}

async fn connect(host: &str, port: u16, names: &Names, until: Instant) -> Result<(), String> {
    let addresses = names.resolve(host).await.map_err(|failure| failure.to_string())?;
    let mut last = String::new();
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match timeout(share, TcpStream::connect((*address, port))).await {
            Ok(Ok(_connection)) => return Ok(()),
            Ok(Err(error)) => last = describe(&error),
            Err(_elapsed) => last = format!("no connection to {address}"),
        }
    }
    Err(last)
}
