//! One set of SDK clients per region, built when first used and kept: its endpoints, its credentials, its trust.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use aws_smithy_types::retry::RetryConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::classify::Trouble;
use super::credentials::{Held, Keyring};
use crate::adapters::Endpoint;
use crate::adapters::resolver::Resolver;
use crate::config::Config;
use crate::config::schema::{Region as RegionConfig, S3Ledger};
use crate::domain::{InstanceId, RegionId};

/// Everything that talks to AWS shares one of these.
///
/// Cheap to make: nothing is read or contacted before the first call. Retries inside the SDK are off for every call,
/// because the executor retries and counts; every call has a limit of its own.
pub struct Aws {
    pub(super) config: Arc<Config>,
    /// Endpoints learned from Describe calls, so that a control plane that is down does not hide a healthy instance.
    pub(super) learned: Mutex<BTreeMap<InstanceId, Endpoint>>,
    built: Mutex<BTreeMap<RegionId, Arc<Clients>>>,
    chain: Mutex<Option<Arc<Keyring>>>,
    connect_timeout: Duration,
}

/// An idle connection is kept this long; load balancers close theirs after twenty seconds and more.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// The clients of one region.
pub(super) struct Clients {
    pub(super) rds: aws_sdk_rds::Client,
    pub(super) elasticache: aws_sdk_elasticache::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) route53: aws_sdk_route53::Client,
    /// For the one EC2 call, which is signed by hand.
    pub(super) connector: SharedHttpConnector,
    pub(super) keyring: Arc<Keyring>,
    /// Base URL of EC2.
    pub(super) ec2: String,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aws")
    }
}

impl Aws {
    /// For every region of `config`.
    pub fn new(config: Arc<Config>) -> Self {
        let connect_timeout = shortest_limit(&config) / 2;
        Self {
            config,
            learned: Mutex::new(BTreeMap::new()),
            built: Mutex::new(BTreeMap::new()),
            chain: Mutex::new(None),
            connect_timeout,
        }
    }

    /// Longest time that one call of a step may take.
    pub(super) fn call_limit(&self) -> Duration {
        self.config.ledger.call_timeout
    }

    /// The clients of `region` with credentials at hand, and what is left of `limit` for the call itself. Waits at most
    /// half of it for credentials, and says so when there are none: that is our own trouble and no finding about the
    /// region.
    pub(super) async fn clients(
        &self,
        region: &RegionId,
        limit: Duration,
    ) -> Result<(Arc<Clients>, Duration), Trouble> {
        let asked = tokio::time::Instant::now();
        let clients = self.build(region).map_err(|why| Trouble::own(format!("aws {region}"), why))?;
        clients.keyring.ready(limit / 2).await.map_err(|why| Trouble::own(format!("aws {region}"), why))?;
        Ok((clients, limit.saturating_sub(asked.elapsed())))
    }

    fn build(&self, region: &RegionId) -> Result<Arc<Clients>, String> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = built.get(region) {
            return Ok(Arc::clone(clients));
        }
        let settings = self
            .config
            .regions
            .get(region)
            .ok_or_else(|| format!("the configuration has no region {region}; add [regions.{region}]"))?;
        let connector = self.connector(settings.ca_file.as_deref())?;
        let keyring = match &settings.credentials {
            Some(credentials) => Arc::new(Keyring::explicit(credentials)),
            None => self.default_chain()?,
        };
        let clients = Arc::new(Clients::new(region, settings, connector, keyring));
        built.insert(region.clone(), Arc::clone(&clients));
        Ok(clients)
    }

    /// One lookup serves all regions. The STS of the region that this daemon stands in is asked, not the one of a
    /// region that may be lost.
    fn default_chain(&self) -> Result<Arc<Keyring>, String> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keyring) = &*chain {
            return Ok(Arc::clone(keyring));
        }
        let connector = self.connector(None)?;
        let http = http_client_fn(move |_, _| connector.clone());
        let keyring = Arc::new(Keyring::chain(self.config.observer.region.as_str(), http));
        *chain = Some(Arc::clone(&keyring));
        Ok(keyring)
    }

    fn connector(&self, ca_file: Option<&Path>) -> Result<SharedHttpConnector, String> {
        connector(&self.config.probes.nameservers, self.connect_timeout, ca_file)
    }
}

fn connector(
    nameservers: &[SocketAddr],
    connect_timeout: Duration,
    ca_file: Option<&Path>,
) -> Result<SharedHttpConnector, String> {
    // Half the time to connect: a resolver that hangs must be seen as that, not as a connection that hangs.
    let resolver = Dns(Resolver::new(nameservers, connect_timeout / 2));
    let settings = HttpConnectorSettings::builder().connect_timeout(connect_timeout).build();
    let connector = Connector::builder()
        .connector_settings(settings)
        // Connections that the server is about to close for idleness fail calls for no reason.
        .pool_idle_timeout(IDLE_MAX)
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .tls_context(trust(ca_file)?)
        .build_with_resolver(resolver);
    Ok(SharedHttpConnector::new(connector))
}

/// A client for a bucket that belongs to no region of the deployment, and the credentials that it needs before a call.
pub(crate) fn bucket_client(
    settings: &S3Ledger,
    nameservers: &[SocketAddr],
    connect_timeout: Duration,
) -> Result<(aws_sdk_s3::Client, Arc<Keyring>), String> {
    let connector = connector(nameservers, connect_timeout, settings.ca_file.as_deref())?;
    let keyring = Arc::new(match &settings.credentials {
        Some(credentials) => Keyring::explicit(credentials),
        None => {
            let connector = connector.clone();
            Keyring::chain(&settings.region, http_client_fn(move |_, _| connector.clone()))
        }
    });
    let common = sdk_config(&settings.region, &settings.endpoint, &keyring, &connector);
    Ok((s3_client(&common, settings.endpoint.is_some()), keyring))
}

fn sdk_config(
    region: &str,
    endpoint: &Option<String>,
    keyring: &Arc<Keyring>,
    connector: &SharedHttpConnector,
) -> SdkConfig {
    let connector = connector.clone();
    let mut builder = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(Held(Arc::clone(keyring))))
        .identity_cache(aws_config::identity::IdentityCache::no_cache())
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .retry_config(RetryConfig::disabled())
        // The limits are set around each call, because a probe's and a step's differ.
        .timeout_config(TimeoutConfig::disabled());
    builder.set_endpoint_url(endpoint.clone());
    builder.build()
}

/// Stores that speak S3 but are not AWS know neither virtual-hosted buckets nor checksum trailers.
fn s3_client(common: &SdkConfig, is_elsewhere: bool) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(common)
        .force_path_style(is_elsewhere)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

impl Clients {
    fn new(region: &RegionId, settings: &RegionConfig, connector: SharedHttpConnector, keyring: Arc<Keyring>) -> Self {
        let endpoints = &settings.endpoints;
        let common = |endpoint: &Option<String>| sdk_config(region.as_str(), endpoint, &keyring, &connector);
        let ec2 = endpoints.ec2.clone().unwrap_or_else(|| {
            let china = if region.as_str().starts_with("cn-") { ".cn" } else { "" };
            format!("https://ec2.{region}.amazonaws.com{china}")
        });
        Self {
            rds: aws_sdk_rds::Client::new(&common(&endpoints.rds)),
            elasticache: aws_sdk_elasticache::Client::new(&common(&endpoints.elasticache)),
            s3: s3_client(&common(&endpoints.s3), endpoints.s3.is_some()),
            route53: aws_sdk_route53::Client::new(&common(&endpoints.route53)),
            connector,
            keyring,
            ec2,
        }
    }
}

/// The system's roots, and those of the file. Checked here because the HTTP client panics on a bad one.
fn trust(ca_file: Option<&Path>) -> Result<TlsContext, String> {
    let mut store = TrustStore::empty();
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read ca_file {}: {error}", path.display()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("ca_file {} is not PEM: {error}", path.display()))?;
            roots.add(certificate).map_err(|error| format!("ca_file {}: {error}", path.display()))?;
        }
        if roots.is_empty() {
            return Err(format!("ca_file {} holds no certificate", path.display()));
        }
        store.add_pem_certificate(pem);
    }
    // A machine without any root can still talk to endpoints over plain HTTP or with a CA file of their own.
    static NATIVE: OnceLock<bool> = OnceLock::new();
    let native = *NATIVE.get_or_init(|| !rustls_native_certs::load_native_certs().certs.is_empty());
    let store = store.with_native_roots(native);
    TlsContext::builder().with_trust_store(store).build().map_err(|error| error.to_string())
}

/// The shortest time that any probe or call through these clients has: connecting takes at most half of it, so that
/// a connection that hangs is told from an answer that does.
fn shortest_limit(config: &Config) -> Duration {
    let overrides = config
        .buckets
        .values()
        .map(|bucket| bucket.probe)
        .chain(config.clouds.values().map(|cloud| cloud.probe))
        .chain(config.traffic.values().map(|traffic| traffic.probe))
        .chain(config.databases.values().map(|database| database.probe))
        .chain(config.caches.values().map(|cache| cache.probe))
        .filter_map(|probe| probe.timeout);
    overrides.fold(config.probes.timeout.min(config.ledger.call_timeout), Duration::min)
}

/// Our resolver, as the SDK wants it.
#[derive(Debug, Clone)]
struct Dns(Resolver);

impl ResolveDns for Dns {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move { self.0.resolve(name).await.map_err(ResolveDnsError::new) })
    }
}
