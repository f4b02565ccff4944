//! PostgreSQL, self-managed or managed: the probe, and for self-managed databases the fence and the promotion.
//!
//! What the role that failoverd logs in as needs on a self-managed database (PostgreSQL 15 or newer; before that only
//! a superuser may `ALTER SYSTEM`), and no more:
//!
//! * to watch: `pg_monitor`, and `UPDATE` on the heartbeat table where one is configured;
//! * to promote: `EXECUTE` on `pg_promote(boolean, integer)`;
//! * to see that an old primary streams again: `pg_monitor`;
//! * to fence: `pg_signal_backend`, `pg_read_server_files`, `pg_write_server_files`, `EXECUTE` on `pg_read_file(text)`,
//!   `pg_reload_conf()` and `pg_hba_file_rules()`, `SELECT` on the view `pg_hba_file_rules`, and
//!   `ALTER SYSTEM ON PARAMETER default_transaction_read_only`. Whoever may write the server's files can become
//!   superuser with some effort: guard this password like one.
//!
//! While the application holds every connection, failoverd gets none either and cannot fence; on PostgreSQL 16 and
//! newer `reserved_connections` with `pg_use_reserved_connections` keeps one for it.

mod actuator;
mod errors;
mod fence;
mod fence_parts;
mod hba;
mod losses;
mod probe;
mod promote;
mod proof;
mod rejoin;
mod role_fence;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;

pub use probe::PostgresProbe;

use self::errors::Trouble;
use self::session::{Login, Session};
use super::connect::{Broken, TrustError, trust};
use super::names::Names;
use super::{Endpoint, Endpoints, Readiness};
use crate::config::schema::{Config, Database, FenceProof, TlsMode};
use crate::config::{MissingSecret, SecretSource};
use crate::domain::{ComponentId, InstanceId, RegionId};
use crate::ports::{Clock, Permit, Setback};

/// Everything failoverd does with PostgreSQL. Cheap to clone.
///
/// As an [`crate::ports::Actuator`] it answers to `Fenced` and `DatabasePromoted` of self-managed databases; the
/// proofs ([`super::WriteProof`], [`super::CatchUp`]) and the probe serve managed ones as well.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    databases: BTreeMap<ComponentId, Database>,
    trust: BTreeMap<RegionId, Arc<ClientConfig>>,
    endpoints: Arc<dyn Endpoints>,
    names: Arc<Names>,
    clock: Arc<dyn Clock>,
    /// A step's look, attempt or verification is over by then.
    call_timeout: Duration,
}

impl Postgres {
    /// Reads the CA files of the regions; connects to nothing.
    pub fn new(
        config: &Config,
        endpoints: Arc<dyn Endpoints>,
        names: &Arc<Names>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TrustError> {
        let encrypted = config.databases.values().filter(|database| database.tls == TlsMode::VerifyFull);
        let mut trusted = BTreeMap::new();
        for region in encrypted.flat_map(|database| database.regions.keys()) {
            if !trusted.contains_key(region) {
                let ca_file = config.regions.get(region).and_then(|region| region.ca_file.as_deref());
                trusted.insert(region.clone(), Arc::new(trust(ca_file)?));
            }
        }
        Ok(Self(Arc::new(Inner {
            databases: config.databases.clone(),
            trust: trusted,
            endpoints,
            names: Arc::clone(names),
            clock,
            call_timeout: config.ledger.call_timeout,
        })))
    }

    /// The health check of one instance. `readiness` is the cloud's view of a managed database.
    pub fn probe(
        &self,
        instance: InstanceId,
        timeout: Duration,
        readiness: Option<Arc<dyn Readiness>>,
    ) -> PostgresProbe {
        PostgresProbe::new(self.clone(), instance, timeout, readiness)
    }

    fn database(&self, instance: &InstanceId) -> Result<&Database, Setback> {
        self.0
            .databases
            .get(&instance.component)
            .filter(|database| database.regions.contains_key(&instance.region))
            .ok_or_else(|| Setback::Refused(format!("{instance} is not a database of this configuration")))
    }

    /// When a call that starts at once has to be over: after our own limit, or when the permit ends.
    fn until(&self, permit: Option<&Permit>) -> Result<Instant, Setback> {
        let limit = self.0.call_timeout;
        let limit = match permit {
            Some(permit) => limit.min(self.time_left(permit)?),
            None => limit,
        };
        Ok(Instant::now() + limit)
    }

    /// To be asked before every single mutating statement.
    fn time_left(&self, permit: &Permit) -> Result<Duration, Setback> {
        permit.time_left(self.0.clock.now()).map_err(|expired| Setback::Transient(expired.to_string()))
    }

    /// Logs in as failoverd at `at`. The password is read anew each time.
    async fn open_at(&self, instance: &InstanceId, at: &Endpoint, until: Instant) -> Result<Session, Trouble> {
        let Ok(database) = self.database(instance) else {
            return Err(Broken::Here { why: format!("{instance} is not configured") }.into());
        };
        let password = database.password.as_ref().map(SecretSource::read).transpose().map_err(missing)?;
        let login = Login { user: database.user.clone(), password, database: database.name.clone() };
        Session::open(at, &login, self.trust(instance), &self.0.names, until).await
    }

    /// Logs in as one of the application's roles, with its password where `proof` has it.
    async fn open_as(
        &self,
        instance: &InstanceId,
        at: &Endpoint,
        role: &str,
        proof: Option<&FenceProof>,
        until: Instant,
    ) -> Result<Session, Trouble> {
        let Ok(database) = self.database(instance) else {
            return Err(Broken::Here { why: format!("{instance} is not configured") }.into());
        };
        let password =
            proof.filter(|proof| proof.role == role).map(|proof| proof.password.read()).transpose().map_err(missing)?;
        let login = Login { user: role.to_owned(), password, database: database.name.clone() };
        Session::open(at, &login, self.trust(instance), &self.0.names, until).await
    }

    /// Logs in as failoverd where the instance answers now, with a limit on what the server works on.
    async fn open(&self, instance: &InstanceId, until: Instant) -> Result<Session, Setback> {
        let at = self.0.endpoints.current(instance).await?;
        let session = self.open_at(instance, &at, until).await.map_err(|trouble| trouble.setback(instance))?;
        session.rows(&session.statement_timeout()).await.map_err(|trouble| trouble.setback(instance))?;
        Ok(session)
    }

    fn trust(&self, instance: &InstanceId) -> Option<&Arc<ClientConfig>> {
        let encrypted = self.0.databases.get(&instance.component).is_none_or(|db| db.tls == TlsMode::VerifyFull);
        encrypted.then(|| self.0.trust.get(&instance.region)).flatten()
    }
}

/// A secret that is missing is our own trouble: it says nothing about the server.
fn missing(secret: MissingSecret) -> Trouble {
    Broken::Here { why: super::failure::describe(&secret) }.into()
}
