//! The members of the etcd cluster: which one is asked, for how long, and what its errors mean.
//!
//! One member is asked at a time and kept while it answers. A client that spreads its requests over all members would
//! lose every third one while a member accepts connections and does not answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, GetResponse, Identity, TlsOptions, Txn, TxnResponse,
};
use secrecy::ExposeSecret as _;

use crate::adapters::failure::describe;
use crate::config::schema::EtcdLedger;
use crate::domain::Now;
use crate::ports::Unusable;

/// etcd drops clients that ping more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
/// A connection that does not answer a ping for so long is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct Members {
    settings: EtcdLedger,
    /// Longest time for one request to one member.
    pub(super) limit: Duration,
    asked: Mutex<Asked>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Asked {
    at: usize,
    client: Option<Client>,
}

#[derive(Default)]
struct Health {
    confirmed: Option<Duration>,
    trouble: Option<Unusable>,
    /// What each member said last that did not do what it was asked, by its place among the endpoints.
    silent: BTreeMap<usize, String>,
}

/// A request that did not give what was asked for. What it should have done may be done all the same.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) why: String,
}

/// What a failed request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer, no quorum, something passing.
    Unavailable,
    /// A person has to mend it.
    Refused,
    /// The lease that was named is gone.
    NoLease,
    /// The revision that was asked for is compacted.
    Compacted,
}

impl Failure {
    pub(super) fn unusable(self) -> Unusable {
        match self.kind {
            FailureKind::Unavailable | FailureKind::NoLease | FailureKind::Compacted => Unusable::Unavailable(self.why),
            FailureKind::Refused => Unusable::Refused(self.why),
        }
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Unavailable, why: why.into() }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Refused, why: why.into() }
    }
}

impl Members {
    pub(super) fn new(settings: EtcdLedger) -> Self {
        let limit = limit(&settings);
        Self { settings, limit, asked: Mutex::default(), health: Mutex::default() }
    }

    /// For people: the first member stands for all.
    pub(super) fn place(&self) -> String {
        format!("in etcd ({})", self.settings.endpoints.join(", "))
    }

    /// A transaction, sent once: what became of it is for the caller to find out.
    pub(super) async fn transact_once(&self, transaction: Txn) -> Result<TxnResponse, Failure> {
        self.once(|client| {
            let transaction = transaction.clone();
            async move { client.kv_client().txn(transaction).await }
        })
        .await
    }

    /// A transaction that does no harm when it arrives twice.
    pub(super) async fn transact(&self, transaction: Txn) -> Result<TxnResponse, Failure> {
        self.ask(|client| {
            let transaction = transaction.clone();
            async move { client.kv_client().txn(transaction).await }
        })
        .await
    }

    /// What is there; answers of up to `bytes`.
    pub(super) async fn get(&self, key: &str, options: GetOptions, bytes: usize) -> Result<GetResponse, Failure> {
        self.ask(|client| {
            let options = options.clone();
            async move { client.kv_client().max_decoding_message_size(bytes).get(key, Some(options)).await }
        })
        .await
    }

    /// A new lease, which ends after `life` in whole seconds unless it is prolonged.
    pub(super) async fn grant(&self, life: Duration) -> Result<i64, Failure> {
        let seconds = i64::try_from(life.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = self.ask(|client| async move { client.lease_client().grant(seconds, None).await }).await?;
        Ok(granted.id())
    }

    /// The lease lasts for its whole life again.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<(), Failure> {
        self.ask(|client| async move { client.lease_client().keep_alive(id).await.map(drop) }).await
    }

    /// The lease ends, and what is under it goes.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        self.ask(|client| async move { client.lease_client().revoke(id).await.map(drop) }).await
    }

    /// What was before `revision` is forgotten.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), Failure> {
        self.once(|client| async move { client.kv_client().compact(revision, None).await.map(drop) }).await
    }

    /// One request to one member. To be used for what must not be sent twice.
    async fn once<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let at = self.asked.lock().unwrap_or_else(PoisonError::into_inner).at;
        let answer = tokio::time::timeout(self.limit, async {
            let client = self.client(at).await?;
            request(client).await.map_err(|error| failure(&error))
        })
        .await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::unavailable(format!("no answer within {:?}", self.limit))));
        match answer {
            Ok(answer) => Ok(answer),
            Err(mut failure) => {
                failure.why = format!("etcd at {}: {}", self.settings.endpoints[at], failure.why);
                if failure.kind == FailureKind::Unavailable || failure.kind == FailureKind::Refused {
                    self.leave(at);
                    let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                    health.silent.insert(at, failure.why.clone());
                    // Who mends it has to know of every member, and not only of the one that was asked last.
                    let told: Vec<&str> = health.silent.values().map(String::as_str).collect();
                    let all = Failure { kind: failure.kind, why: told.join("; ") };
                    health.trouble = Some(all.unusable());
                }
                Err(failure)
            }
        }
    }

    /// One request, which does no harm when it arrives twice, to one member after the other until one answers.
    async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut answer = self.once(&request).await;
        for _ in 1..self.settings.endpoints.len() {
            match &answer {
                Err(Failure { kind: FailureKind::Unavailable | FailureKind::Refused, .. }) => {
                    answer = self.once(&request).await;
                }
                Ok(_) | Err(Failure { kind: FailureKind::NoLease | FailureKind::Compacted, .. }) => break,
            }
        }
        answer
    }

    /// A linearizable answer came to a request that was sent after `sent`.
    pub(super) fn confirm(&self, sent: Now) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.confirmed = health.confirmed.max(Some(sent.monotonic));
        health.trouble = None;
        health.silent.clear();
    }

    pub(super) fn health(&self) -> (Option<Duration>, Option<Unusable>) {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health.confirmed, health.trouble.clone())
    }

    /// A connection of its own, for a watch: it stays with one member for long.
    pub(super) async fn connect(&self, at: usize) -> Result<Client, Failure> {
        let endpoint = &self.settings.endpoints[at % self.settings.endpoints.len()];
        // A member without a leader says so instead of keeping a watch that never hears anything.
        let options = options(&self.settings)?.with_require_leader(true);
        let connecting = Client::connect([endpoint], Some(options));
        match tokio::time::timeout(self.limit, connecting).await {
            Ok(connected) => connected.map_err(|error| failure(&error)),
            Err(_) => Err(Failure::unavailable(format!("no connection to {endpoint} within {:?}", self.limit))),
        }
    }

    async fn client(&self, at: usize) -> Result<Client, Failure> {
        if let Some(client) = &self.asked.lock().unwrap_or_else(PoisonError::into_inner).client {
            return Ok(client.clone());
        }
        let client = self.connect(at).await?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.at == at {
            asked.client = Some(client.clone());
        }
        Ok(client)
    }

    /// The next member is asked from now on.
    fn leave(&self, at: usize) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.at == at {
            *asked = Asked { at: (at + 1) % self.settings.endpoints.len(), client: None };
        }
    }
}

/// Asks every member whether it is there, with or without a quorum, and whatever it thinks of our credential: where it
/// answers, what it said; else what was seen instead.
pub async fn answers(settings: &EtcdLedger) -> Vec<(String, Result<String, String>)> {
    // A member without a quorum knows no users.
    let stranger = EtcdLedger { user: None, password: None, ..settings.clone() };
    let asked = settings.endpoints.iter().map(|endpoint| {
        let stranger = &stranger;
        async move { (endpoint.clone(), answer(stranger, endpoint).await) }
    });
    futures::future::join_all(asked).await
}

async fn answer(stranger: &EtcdLedger, endpoint: &str) -> Result<String, String> {
    let limit = limit(stranger);
    let asked = async {
        let mut client =
            Client::connect([endpoint], Some(options(stranger)?)).await.map_err(|error| failure(&error))?;
        client.status().await.map_err(|error| failure(&error))
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(status)) if status.leader() == 0 => Ok("it answers, without a quorum".to_owned()),
        Ok(Ok(_)) => Ok("it answers, and has a leader".to_owned()),
        // What etcd itself says of its state is an answer, whichever number it gives it.
        Ok(Err(Failure { kind: FailureKind::Unavailable, why })) if !why.starts_with("etcdserver:") => Err(why),
        Ok(Err(Failure { why, .. })) => Ok(format!("it answers: {why}")),
        Err(_elapsed) => Err(format!("no answer within {limit:?}")),
    }
}

/// A quarter of the lease: a renewal that one member does not answer has time for another one.
fn limit(settings: &EtcdLedger) -> Duration {
    (settings.lease / 4).clamp(Duration::from_millis(500), Duration::from_secs(3))
}

/// Read anew for every connection, so that rotated secrets and certificates need no restart.
fn options(settings: &EtcdLedger) -> Result<ConnectOptions, Failure> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(limit(settings))
        .with_keep_alive(PING_EVERY, PING_TIMEOUT)
        .with_keep_alive_while_idle(true)
        // The request that is sent again then was refused for its token, so it did nothing.
        .with_auto_token_refresh(true);
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        let password = password.read().map_err(|error| Failure::refused(describe(&error)))?;
        options = options.with_user(user, password.expose_secret());
    }
    if settings.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        let mut tls = TlsOptions::new().with_enabled_roots();
        if let Some(path) = &settings.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(pem(path)?));
        }
        if let (Some(certificate), Some(key)) = (&settings.cert_file, &settings.key_file) {
            tls = tls.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn pem(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::refused(format!("cannot read {}: {error}", path.display())))
}

/// gRPC's numbers for what we tell apart.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

fn failure(error: &Error) -> Failure {
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum: what is not known may pass
    match error {
        Error::GRpcStatus(status) => {
            let why = match std::error::Error::source(status) {
                Some(cause) => format!("{}: {}", status.message(), describe(cause)),
                None => status.message().to_owned(),
            };
            let kind = match i32::from(status.code()) {
                code::NOT_FOUND if why.contains("lease") => FailureKind::NoLease,
                code::OUT_OF_RANGE if why.contains("compacted") => FailureKind::Compacted,
                code::INVALID_ARGUMENT
                | code::PERMISSION_DENIED
                | code::FAILED_PRECONDITION
                | code::UNAUTHENTICATED => FailureKind::Refused,
                code::RESOURCE_EXHAUSTED if why.contains("space exceeded") => {
                    let hint =
                        "compact and defragment it, then disarm the alarm: etcdctl compaction, defrag, alarm disarm";
                    return Failure::refused(format!("{why}; {hint}"));
                }
                _ => FailureKind::Unavailable,
            };
            Failure { kind, why }
        }
        Error::LeaseKeepAliveError(why) if why.contains("not found") => {
            Failure { kind: FailureKind::NoLease, why: why.clone() }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => Failure::refused(describe(error)),
        Error::TransportError(cause) => Failure::unavailable(describe(cause)),
        _ => Failure::unavailable(describe(error)),
    }
}
