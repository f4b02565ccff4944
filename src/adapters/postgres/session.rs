//! One connection to one server, bounded from its first packet to its last.
//!
//! No connection is kept: connecting is what a probe looks at, and a step must see the configuration that is in force.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect, TlsStream};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::errors::Trouble;
use crate::adapters::Endpoint;
use crate::adapters::connect::{self, Broken};
use crate::adapters::names::Names;
use crate::domain::Layer;

/// Who connects, and to which database.
pub(super) struct Login {
    pub(super) user: String,
    /// None asks the server how far one gets without: a role that `pg_hba.conf` rejects is rejected before that.
    pub(super) password: Option<SecretString>,
    pub(super) database: String,
}

/// An open connection.
pub(super) struct Session {
    client: Client,
    until: Instant,
    /// Dropped with the session; the task that drives the connection then gets a moment to say goodbye.
    _open: oneshot::Sender<()>,
}

/// A parameter of a query with its type, so that no statement has to be prepared first.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    /// Connects and logs in before `until`; everything that is asked later has to be answered by then, too.
    pub(super) async fn open(
        at: &Endpoint,
        login: &Login,
        trust: Option<&Arc<ClientConfig>>,
        names: &Names,
        until: Instant,
    ) -> Result<Self, Trouble> {
        let began = Instant::now();
        let mut config = Config::new();
        config.user(&login.user).dbname(&login.database).application_name(APPLICATION_NAME);
        if let Some(password) = &login.password {
            config.password(password.expose_secret());
        }
        let stream = connect::tcp(at, names, until).await?;
        let (in_tls, has_tls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let greeting = async {
            match trust {
                None => {
                    config.ssl_mode(SslMode::Disable);
                    let (client, connection) = config.connect_raw(stream, NoTls).await?;
                    Ok(Self::drive(client, connection, until))
                }
                Some(trust) => {
                    config.ssl_mode(SslMode::Require);
                    let mut maker = MakeRustlsConnect::new(ClientConfig::clone(trust));
                    let Ok(inner) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, &at.host);
                    let watched = Watched { inner, entered: Arc::clone(&in_tls), left: Arc::clone(&has_tls) };
                    let (client, connection) = config.connect_raw(stream, watched).await?;
                    Ok(Self::drive(client, connection, until))
                }
            }
        };
        let answer = timeout_at(until, greeting).await;
        let reached = match in_tls.load(Ordering::Relaxed) && !has_tls.load(Ordering::Relaxed) {
            true => Layer::Tls,
            false => Layer::Greeting,
        };
        match answer {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(Trouble::of(&error, reached)),
            Err(_) => Err(Broken::late(reached, began.elapsed()).into()),
        }
    }

    /// Runs statements in one round trip; the rows of all of them, as text.
    pub(super) async fn rows(&self, statements: &str) -> Result<Vec<SimpleQueryRow>, Trouble> {
        self.rows_during(statements, Layer::Query).await
    }

    /// The same, for a probe that wants another layer blamed.
    pub(super) async fn rows_during(&self, statements: &str, layer: Layer) -> Result<Vec<SimpleQueryRow>, Trouble> {
        let messages = self.bounded(self.client.simple_query(statements), layer).await?;
        // Not our enum: command tags and row descriptions are of no interest.
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs one statement with parameters.
    pub(super) async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Trouble> {
        self.bounded(self.client.query_typed(statement, parameters), Layer::Query).await
    }

    /// How long the server may work on one statement, for the beginning of a batch: what is left of our patience.
    /// Without it a statement that we no longer wait for could still take effect much later.
    pub(super) fn statement_timeout(&self) -> String {
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        format!("SET statement_timeout = {}", left.as_millis().min(u128::from(u32::MAX / 2)))
    }

    async fn bounded<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
        layer: Layer,
    ) -> Result<T, Trouble> {
        let began = Instant::now();
        match timeout_at(self.until, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Trouble::of(&error, layer)),
            Err(_) => Err(Broken::late(layer, began.elapsed()).into()),
        }
    }

    fn drive<S, T>(client: Client, connection: tokio_postgres::Connection<S, T>, until: Instant) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: TlsStream + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (open, mut closed) = oneshot::channel();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                _ = &mut closed => {
                    // Whatever comes of it: nobody waits for this connection any more.
                    let _ = timeout(GOODBYE, connection).await;
                }
            }
        });
        Self { client, until, _open: open }
    }
}

/// What `pg_stat_activity` shows.
pub(super) const APPLICATION_NAME: &str = "failoverd";
/// Time to say goodbye to a server that may not listen any more.
const GOODBYE: Duration = Duration::from_secs(1);

/// Text as an SQL literal, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A TLS connector that says when it was entered and left: a server that never answers the request for TLS is silent,
/// one that stops in the middle of the handshake has broken TLS.
struct Watched<T> {
    inner: T,
    entered: Arc<AtomicBool>,
    left: Arc<AtomicBool>,
}

impl<T> TlsConnect<TcpStream> for Watched<T>
where
    T: TlsConnect<TcpStream>,
    T::Future: Send + 'static,
    T::Stream: 'static,
    T::Error: 'static,
{
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<T::Stream, T::Error>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        self.entered.store(true, Ordering::Relaxed);
        let handshake = self.inner.connect(stream);
        Box::pin(async move {
            let done = handshake.await;
            if done.is_ok() {
                self.left.store(true, Ordering::Relaxed);
            }
            done
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cannot_be_left() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\' OR 1=1"), " E'a\\\\'' OR 1=1'");
    }
}
