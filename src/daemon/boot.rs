//! From files to a recovered controller, or to a refusal that says what to do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::exit::End;
use super::memory;
use crate::adapters::failure::describe;
use crate::adapters::world::{self, Adapters};
use crate::config::{self, Config, policy_hash};
use crate::decide::{Alarm, Controller, Frame, Severity};
use crate::domain::Policy;
use crate::ledger::{EtcdLedger, FileLedger, LedgerError, S3Ledger};
use crate::ports::{Candidacy, Clock, Lease, Ledger};

/// A shared ledger that does not answer by then is followed once it does.
const FIRST_READ: Duration = Duration::from_secs(5);

/// Everything that a daemon starts with.
pub(super) struct Boot {
    pub(super) config: Arc<Config>,
    pub(super) policy: Policy,
    pub(super) adapters: Adapters,
    pub(super) controller: Controller,
    /// None where it is damaged.
    pub(super) ledger: Option<(Arc<dyn Ledger>, Lease)>,
    /// Others may lead; this daemon follows until it is elected.
    pub(super) is_shared: bool,
    pub(super) frames: Vec<Frame>,
    pub(super) alarms: Vec<Alarm>,
    /// The daemon observes and alerts only, for this reason.
    pub(super) halted: Option<String>,
    pub(super) listeners: Listeners,
    /// Who puts up claims, for people.
    pub(super) holder: String,
}

/// Bound before anything starts, so that a second daemon fails early.
pub(super) struct Listeners {
    pub(super) api: TcpListener,
    pub(super) api_address: SocketAddr,
    pub(super) role: Option<TcpListener>,
    pub(super) role_address: Option<SocketAddr>,
}

/// Why the daemon does not start; one line per reason.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) end: End,
    pub(super) lines: Vec<String>,
}

impl Refusal {
    pub(super) fn of(end: End, line: String) -> Self {
        Self { end, lines: vec![line] }
    }
}

pub(super) async fn boot(paths: &[PathBuf], clock: &Arc<dyn Clock>) -> Result<Boot, Refusal> {
    let (config, policy) = read(paths).map_err(|lines| Refusal { end: End::Configuration, lines })?;
    boot_with(config, policy, clock).await
}

/// The same with a configuration that was read before.
pub(super) async fn boot_with(config: Arc<Config>, policy: Policy, clock: &Arc<dyn Clock>) -> Result<Boot, Refusal> {
    if let Some(token) = &config.api.token {
        let token = token.read().map_err(|error| {
            Refusal::of(End::Configuration, format!("api.token cannot be read: {}", describe(&error)))
        })?;
        if token.expose_secret().trim().is_empty() {
            return Err(Refusal::of(
                End::Configuration,
                "api.token is empty; write a long random text there".to_owned(),
            ));
        }
    }
    let adapters =
        world::build(&config, &policy, clock).map_err(|error| Refusal::of(End::Configuration, describe(&error)))?;
    let listeners = listen(&config).await?;
    let hash = policy_hash(&policy);
    let opened = match shared(&config, &policy, clock) {
        Some(ledger) => join(ledger).await?,
        None => open(&config.ledger.path, clock).await?,
    };
    let is_shared = config.ledger.is_shared();
    let Opened { ledger, frames, mut halted, alarms } = opened;
    let recovered = Controller::recover(policy.clone(), hash.clone(), frames.iter().cloned());
    let (mut controller, ledger) = match recovered {
        Ok(controller) => (controller, ledger),
        Err(corrupt) => {
            halted.get_or_insert(format!("{corrupt}; look at it with `failoverd ledger show`"));
            (blank(&policy, &hash)?, None)
        }
    };
    if let Some(memory) = memory::read(&memory::place(&config, &policy.observer)) {
        controller.recall(clock.now(), &memory);
    }
    let holder = policy.observer.to_string();
    Ok(Boot { config, policy, adapters, controller, ledger, is_shared, frames, alarms, halted, listeners, holder })
}

/// The configuration, or its mistakes. Warnings are logged.
pub(super) fn read(paths: &[PathBuf]) -> Result<(Arc<Config>, Policy), Vec<String>> {
    let loaded = config::load(paths, &config::environment())
        .map_err(|errors| errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    Ok((Arc::new(loaded.config), loaded.policy))
}

/// A controller that knows nothing, to observe and alert with.
fn blank(policy: &Policy, hash: &str) -> Result<Controller, Refusal> {
    Controller::recover(policy.clone(), hash.to_owned(), [])
        .map_err(|error| Refusal::of(End::Bug, format!("a controller cannot even begin: {error}")))
}

struct Opened {
    ledger: Option<(Arc<dyn Ledger>, Lease)>,
    frames: Vec<Frame>,
    halted: Option<String>,
    alarms: Vec<Alarm>,
}

/// The ledger that is shared with other daemons, where one is configured.
fn shared(config: &Config, policy: &Policy, clock: &Arc<dyn Clock>) -> Option<Result<Arc<dyn Ledger>, LedgerError>> {
    let (deployment, observer) = (&policy.deployment, policy.observer.clone());
    if let Some(etcd) = &config.ledger.etcd {
        let ledger = EtcdLedger::open(etcd, deployment, observer, clock.clone());
        return Some(ledger.map(|ledger| Arc::new(ledger) as Arc<dyn Ledger>));
    }
    let bucket = config.ledger.s3.as_ref()?;
    let ledger = S3Ledger::open(bucket, deployment, observer, &config.probes.nameservers, clock.clone());
    Some(ledger.map(|ledger| Arc::new(ledger) as Arc<dyn Ledger>))
}

/// Follows until elected. A ledger that does not answer is waited for: observing and alerting need none.
async fn join(ledger: Result<Arc<dyn Ledger>, LedgerError>) -> Result<Opened, Refusal> {
    let ledger = ledger.map_err(|error| Refusal::of(End::Configuration, describe(&error)))?;
    let frames = match tokio::time::timeout(FIRST_READ, ledger.read_from(0)).await {
        Ok(Ok(frames)) => frames,
        Ok(Err(
            error @ (LedgerError::Damaged { .. } | LedgerError::NotALedger { .. } | LedgerError::Broken { .. }),
        )) => {
            return Ok(Opened { ledger: None, frames: vec![], halted: Some(describe(&error)), alarms: vec![] });
        }
        Ok(Err(error)) => {
            warn!("the ledger cannot be read yet: {}", describe(&error));
            vec![]
        }
        Err(_elapsed) => {
            warn!("the ledger does not answer yet");
            vec![]
        }
    };
    let lease = Lease { epoch: 0, until: Duration::ZERO };
    Ok(Opened { ledger: Some((ledger, lease)), frames, halted: None, alarms: vec![] })
}

async fn open(path: &Path, clock: &Arc<dyn Clock>) -> Result<Opened, Refusal> {
    let halted = |why: String| Opened { ledger: None, frames: vec![], halted: Some(why), alarms: vec![] };
    // Blocks, while nothing else runs yet.
    let (ledger, opening) = match FileLedger::open(path, clock.now()) {
        Ok(opened) => opened,
        Err(error @ LedgerError::Locked { .. }) => return Err(Refusal::of(End::Locked, describe(&error))),
        Err(error @ (LedgerError::NoFolder { .. } | LedgerError::Missing { .. } | LedgerError::Io { .. })) => {
            return Err(Refusal::of(End::Ledger, describe(&error)));
        }
        Err(
            error @ (LedgerError::Damaged { .. }
            | LedgerError::NotALedger { .. }
            | LedgerError::Broken { .. }
            | LedgerError::Unavailable { .. }
            | LedgerError::Unfit { .. }),
        ) => {
            return Ok(halted(describe(&error)));
        }
    };
    if opening.created {
        info!(path = %path.display(), "a new ledger was created");
    }
    let mut alarms = Vec::new();
    if let Some(torn) = opening.torn.as_ref().filter(|_| !opening.created) {
        alarms.push(Alarm {
            key: "daemon/torn-ledger".to_owned(),
            severity: Severity::Warning,
            text: format!(
                "a crash had cut the ledger's last line short; it was removed, nothing else is lost ({torn:?})"
            ),
            region: None,
        });
    }
    let frames = match ledger.read_from(0).await {
        Ok(frames) => frames,
        Err(error) => return Ok(halted(describe(&error))),
    };
    match ledger.campaign(clock.now()).await {
        Ok(Candidacy::Leading(lease)) => {
            Ok(Opened { ledger: Some((Arc::new(ledger), lease)), frames, halted: None, alarms })
        }
        Ok(Candidacy::Following { leader, epoch }) => {
            Ok(Opened { frames, alarms, ..halted(format!("{leader} leads in epoch {epoch}")) })
        }
        Err(error) => Ok(Opened { frames, alarms, ..halted(describe(&error)) }),
    }
}

async fn listen(config: &Config) -> Result<Listeners, Refusal> {
    let (api, api_address) = bind("api.listen", config.api.listen).await?;
    let role = match config.api.role_listen {
        Some(address) => Some(bind("api.role_listen", address).await?),
        None => None,
    };
    let (role, role_address) = role.unzip();
    Ok(Listeners { api, api_address, role, role_address })
}

async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Refusal> {
    let refuse = |error: std::io::Error| {
        let hint = if error.kind() == std::io::ErrorKind::AddrInUse {
            "; is another failoverd running?"
        } else if error.kind() == std::io::ErrorKind::PermissionDenied {
            "; ports below 1024 need a privilege, choose a higher one"
        } else {
            ""
        };
        Refusal::of(End::Unavailable, format!("cannot listen on {address} ({key}): {error}{hint}"))
    };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    Ok((listener, address))
}
