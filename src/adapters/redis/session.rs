//! One connection to one server, bounded from its first packet to its last. It speaks RESP2: every server does.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, RedisConnectionInfo, Value};
use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::errors::Trouble;
use crate::adapters::Endpoint;
use crate::adapters::connect::{self, Broken};
use crate::adapters::names::Names;
use crate::domain::Layer;

/// An open connection whose server has answered a `PING`, or said why it does not.
pub(super) struct Session {
    connection: MultiplexedConnection,
    until: Instant,
    _driver: AbortOnDropHandle<()>,
}

impl Session {
    /// Connects, authenticates where there is a password, and pings; everything that is asked later has to be answered
    /// before `until`, too.
    pub(super) async fn open(
        at: &Endpoint,
        username: Option<&str>,
        password: Option<&SecretString>,
        trust: Option<&Arc<ClientConfig>>,
        names: &Names,
        until: Instant,
    ) -> Result<Self, Trouble> {
        match Self::greet(at, username, password, trust, names, until).await {
            Err(Trouble::Broken(broken @ Broken::There { layer: Layer::Greeting, .. })) if trust.is_none() => {
                Err(last_words(at, names, until).await.unwrap_or(Trouble::Broken(broken)))
            }
            opened => opened,
        }
    }

    async fn greet(
        at: &Endpoint,
        username: Option<&str>,
        password: Option<&SecretString>,
        trust: Option<&Arc<ClientConfig>>,
        names: &Names,
        until: Instant,
    ) -> Result<Self, Trouble> {
        let stream = connect::tcp(at, names, until).await?;
        let mut session = match trust {
            None => Self::over(stream, until).await?,
            Some(trust) => Self::over(connect::tls(Arc::clone(trust), &at.host, stream, until).await?, until).await?,
        };
        if let Some(password) = password {
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = username {
                auth.arg(username);
            }
            auth.arg(password.expose_secret());
            match session.ask_during(&auth, Layer::Greeting).await {
                // It has no password: whether that is a mistake shows elsewhere, and commands work.
                Err(Trouble::Answered { code, message }) if code == "ERR" && message.contains("any password") => {}
                Err(trouble) => return Err(trouble),
                Ok(_) => {}
            }
        }
        session.ask_during(&redis::cmd("PING"), Layer::Greeting).await?;
        Ok(session)
    }

    /// One command, one answer.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Trouble> {
        self.ask_during(command, Layer::Query).await
    }

    /// One command whose answer is text.
    pub(super) async fn text(&mut self, command: &Cmd) -> Result<String, Trouble> {
        let answer = self.ask(command).await?;
        redis::from_redis_value(answer).map_err(|error| Trouble::Garbled(error.to_string()))
    }

    /// Several commands in one round trip; each has its own answer.
    pub(super) async fn texts(&mut self, commands: &Pipeline) -> Result<Vec<Result<String, Trouble>>, Trouble> {
        let began = Instant::now();
        let asked = self.connection.send_packed_commands(commands, 0, commands.len());
        let answers = match timeout_at(self.until, asked).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(Trouble::of(&error, Layer::Query)),
            Err(_) => return Err(Broken::late(Layer::Query, began.elapsed()).into()),
        };
        let text = |answer| {
            if let Value::ServerError(error) = &answer {
                return Err(Trouble::of_answer(error));
            }
            redis::from_redis_value(answer).map_err(|error| Trouble::Garbled(error.to_string()))
        };
        Ok(answers.into_iter().map(text).collect())
    }

    async fn ask_during(&mut self, command: &Cmd, layer: Layer) -> Result<Value, Trouble> {
        let began = Instant::now();
        match timeout_at(self.until, self.connection.send_packed_command(command)).await {
            Ok(Ok(Value::ServerError(error))) => Err(Trouble::of_answer(&error)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Trouble::of(&error, layer)),
            Err(_) => Err(Broken::late(layer, began.elapsed()).into()),
        }
    }

    async fn over<S>(stream: S, until: Instant) -> Result<Self, Trouble>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The library is to send nothing by itself: what is refused, and why, must be seen.
        let silent = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let unbounded = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&silent, stream, unbounded)
            .await
            .map_err(|error| Trouble::of(&error, Layer::Greeting))?;
        Ok(Self { connection, until, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }
}

/// What a server says that hangs up before it is asked anything (too many clients): writing to it breaks the connection
/// before its words are read, so it is listened to on a connection of its own.
async fn last_words(at: &Endpoint, names: &Names, until: Instant) -> Option<Trouble> {
    let stream = connect::tcp(at, names, until).await.ok()?;
    let mut said = String::new();
    timeout_at(until, stream.take(LAST_WORDS_MAX).read_to_string(&mut said)).await.ok()?.ok()?;
    let (code, message) = said.trim_end().strip_prefix('-')?.split_once(' ')?;
    Some(Trouble::Answered { code: code.to_owned(), message: message.to_owned() })
}

/// Longer than any error a server sends by itself.
const LAST_WORDS_MAX: u64 = 512;
