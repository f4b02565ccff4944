//! Credentials, fetched before a call rather than inside it, so that a slow lookup is never mistaken for a slow service.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use secrecy::ExposeSecret;

use crate::adapters::failure::describe;
use crate::config::{SecretSource, schema};

/// Where the credentials of a region come from, and the ones held now.
///
/// Guarantees: one lookup at a time, never inside an SDK call; waiting for it is bounded by the caller, and the lookup
/// goes on without the caller. Credentials that are still valid are used while they are renewed.
pub(crate) struct Keyring {
    source: Source,
    held: Mutex<Option<Credentials>>,
    lookup: Mutex<Option<Lookup>>,
}

type Lookup = Shared<BoxFuture<'static, Result<(), String>>>;

enum Source {
    /// As configured; read anew for every call, so that rotation needs no restart.
    Explicit { access_key: SecretSource, secret_key: SecretSource },
    /// The SDK's default chain: environment, profile, web identity, ECS, IMDS.
    Chain { chain: tokio::sync::OnceCell<DefaultCredentialsChain>, region: String, http: SharedHttpClient },
}

/// Longest lookup; IMDS answers within milliseconds, STS within a second or two.
const LOOKUP_MAX: Duration = Duration::from_secs(20);
/// Credentials are renewed this long before they expire.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    /// The configured pair.
    pub(crate) fn explicit(credentials: &schema::Credentials) -> Self {
        Self::from(Source::Explicit {
            access_key: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
        })
    }

    /// The default chain; `region` is whose STS is asked.
    pub(crate) fn chain(region: &str, http: SharedHttpClient) -> Self {
        Self::from(Source::Chain { chain: tokio::sync::OnceCell::new(), region: region.to_owned(), http })
    }

    fn from(source: Source) -> Self {
        Self { source, held: Mutex::new(None), lookup: Mutex::new(None) }
    }

    /// Makes sure that there are credentials, waiting at most `limit`. The error is for people.
    pub(crate) async fn ready(self: &Arc<Self>, limit: Duration) -> Result<(), String> {
        match self.held_for() {
            // Good for longer than the lead time, or for ever (explicit ones are read anew below).
            Some(None) if matches!(self.source, Source::Chain { .. }) => return Ok(()),
            Some(Some(left)) if left > RENEW_BEFORE => return Ok(()),
            Some(Some(left)) if left > Duration::ZERO => {
                // Renewed on the side; nobody waits.
                drop(self.start_lookup());
                return Ok(());
            }
            Some(_) | None => {}
        }
        let lookup = self.start_lookup();
        match tokio::time::timeout(limit, lookup).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no AWS credentials within {limit:?}")),
        }
    }

    /// What is held now, for signing by hand.
    pub(crate) fn held(&self) -> Option<Credentials> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// None: nothing held. Some(None): no end. Some(left): until it expires.
    fn held_for(&self) -> Option<Option<Duration>> {
        let held = self.held()?;
        Some(held.expiry().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default()))
    }

    fn start_lookup(self: &Arc<Self>) -> Lookup {
        let mut slot = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*slot
            && running.peek().is_none()
        {
            return running.clone();
        }
        let keyring = Arc::clone(self);
        let task = tokio::spawn(async move {
            match tokio::time::timeout(LOOKUP_MAX, keyring.fetch()).await {
                Ok(Ok(credentials)) => {
                    *keyring.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials);
                    Ok(())
                }
                Ok(Err(why)) => Err(why),
                Err(_) => Err(format!("no AWS credentials within {LOOKUP_MAX:?}")),
            }
        });
        let lookup = async move { task.await.unwrap_or_else(|_| Err("the credential lookup was stopped".to_owned())) }
            .boxed()
            .shared();
        *slot = Some(lookup.clone());
        lookup
    }

    async fn fetch(&self) -> Result<Credentials, String> {
        match &self.source {
            Source::Explicit { access_key, secret_key } => {
                let (access_key, secret_key) = (access_key.clone(), secret_key.clone());
                // A secret may be a file on a disk that hangs.
                tokio::task::spawn_blocking(move || {
                    let access = access_key.read().map_err(|error| describe(&error))?;
                    let secret = secret_key.read().map_err(|error| describe(&error))?;
                    Ok(Credentials::new(access.expose_secret(), secret.expose_secret(), None, None, "failoverd"))
                })
                .await
                .unwrap_or_else(|_| Err("reading the AWS credentials was stopped".to_owned()))
            }
            Source::Chain { chain, region, http } => {
                let chain = chain
                    .get_or_init(|| async {
                        let region = Region::new(region.clone());
                        let provider =
                            ProviderConfig::empty().with_http_client(http.clone()).with_region(Some(region.clone()));
                        DefaultCredentialsChain::builder().region(region).configure(provider).build().await
                    })
                    .await;
                chain.provide_credentials().await.map_err(|error| format!("no AWS credentials: {}", describe(&error)))
            }
        }
    }
}

/// What the SDK clients see: what is held, at once.
#[derive(Debug, Clone)]
pub(crate) struct Held(pub(crate) Arc<Keyring>);

impl ProvideCredentials for Held {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(
            self.0.held().ok_or_else(|| CredentialsError::not_loaded("no AWS credentials were found yet")),
        )
    }
}
