//! How a cluster is reached, and with which credential: kept current without ever being asked for by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::client::ConfigExt as _;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::plugin::{self, Credential};
use crate::adapters::failure::describe;
use crate::adapters::names::Names;
use crate::config::Config;
use crate::config::schema::ClusterRegion;
use crate::domain::InstanceId;

/// All configured clusters.
#[derive(Debug, Clone)]
pub struct Clusters(BTreeMap<InstanceId, Arc<Cluster>>);

impl Clusters {
    /// Nothing is read or contacted before the first use, so that a broken file of a lost region stops nobody.
    pub fn new(config: &Config, names: &Arc<Names>) -> Self {
        let clusters = config.clusters.iter().flat_map(|(component, cluster)| {
            cluster.regions.iter().map(|(region, settings)| {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let region_ca = config.regions.get(region).and_then(|region| region.ca_file.clone());
                let cluster = Cluster {
                    instance: instance.clone(),
                    settings: settings.clone(),
                    region_ca,
                    names: names.clone(),
                    known: Mutex::new(None),
                };
                (instance, Arc::new(cluster))
            })
        });
        Self(clusters.collect())
    }

    /// The cluster, if it is configured.
    pub fn get(&self, instance: &InstanceId) -> Option<&Arc<Cluster>> {
        self.0.get(instance)
    }
}

/// One cluster of the configuration.
#[derive(Debug)]
pub struct Cluster {
    pub(super) instance: InstanceId,
    settings: ClusterRegion,
    region_ca: Option<std::path::PathBuf>,
    pub(super) names: Arc<Names>,
    known: Mutex<Option<Known>>,
}

/// Where and how to connect.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) config: kube::Config,
    /// None for plain HTTP, which is for tests and for `kubectl proxy`.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) host: String,
    pub(super) port: u16,
    /// The name in the certificate.
    pub(super) server_name: String,
}

#[derive(Debug, Clone)]
struct Known {
    access: Arc<Access>,
    read: Instant,
    credential: Option<Credential>,
}

/// Files and variables are read anew after this, so that rotated tokens and certificates need no restart.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// A credential that ends within this time is replaced.
const ENDS_SOON: SignedDuration = SignedDuration::from_secs(60);

impl Cluster {
    /// How to connect as of now. The error is our own trouble, never the cluster's.
    ///
    /// What was known before goes on being used when it cannot be read again, until its credential ends: an incident
    /// is the wrong time for a token helper to be indispensable.
    pub(super) async fn access(&self, until: Instant) -> Result<Arc<Access>, String> {
        let late = || "reading the cluster's credentials took too long".to_owned();
        let mut known = timeout_at(until, self.known.lock()).await.map_err(|_| late())?;
        if let Some(known) = &*known
            && known.read.elapsed() < READ_AGAIN
            && known.credential.as_ref().is_none_or(|credential| !credential.ends_within(ENDS_SOON, Timestamp::now()))
        {
            return Ok(known.access.clone());
        }
        let former = known.as_ref().and_then(|known| known.credential.clone());
        match timeout_at(until, self.read(former)).await.unwrap_or_else(|_| Err(late())) {
            Ok(fresh) => {
                let access = fresh.access.clone();
                *known = Some(fresh);
                Ok(access)
            }
            Err(why) => match &*known {
                Some(known)
                    if !known
                        .credential
                        .as_ref()
                        .is_some_and(|credential| credential.ends_within(SignedDuration::ZERO, Timestamp::now())) =>
                {
                    Ok(known.access.clone())
                }
                Some(_) | None => Err(why),
            },
        }
    }

    /// The credential was refused: read everything anew at the next use.
    pub(super) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    async fn read(&self, former: Option<Credential>) -> Result<Known, String> {
        let (mut config, credential) = match (&self.settings.kubeconfig, &self.settings.server) {
            (Some(path), _) => self.read_kubeconfig(path, former).await?,
            (None, Some(server)) => (self.use_server(server)?, None),
            (None, None) => {
                let config = kube::Config::incluster().map_err(|error| {
                    format!("no kubeconfig and no server is configured, and this is not a pod: {}", describe(&error))
                })?;
                (config, None)
            }
        };
        // API servers are reached directly; a proxy in between would be what is probed.
        config.proxy_url = None;
        config.default_retry = false;
        // The file is read again together with everything else.
        config.root_cert_file = None;
        if config.root_cert.is_none() {
            config.root_cert = Some(system_roots(self.region_ca.as_deref())?);
        }
        Ok(Known { access: Arc::new(access(config)?), read: Instant::now(), credential })
    }

    async fn read_kubeconfig(
        &self,
        path: &Path,
        former: Option<Credential>,
    ) -> Result<(kube::Config, Option<Credential>), String> {
        let shown = path.display();
        let problem = |error: &(dyn std::error::Error + 'static)| format!("kubeconfig {shown}: {}", describe(error));
        let mut file = Kubeconfig::read_from(path).map_err(|error| problem(&error))?;
        let context = self.settings.context.clone().or_else(|| file.current_context.clone());
        let context = context.ok_or_else(|| format!("kubeconfig {shown} names no current context; write context"))?;
        let chosen = file.contexts.iter().find(|known| known.name == context).and_then(|known| known.context.clone());
        let chosen = chosen.ok_or_else(|| format!("kubeconfig {shown} has no context `{context}`"))?;
        let cluster = file.clusters.iter().find(|known| known.name == chosen.cluster);
        if cluster.and_then(|known| known.cluster.as_ref()).is_some_and(|cluster| cluster.proxy_url.is_some()) {
            return Err(format!("kubeconfig {shown} asks for a proxy-url, which failoverd does not use; remove it"));
        }
        let cluster = cluster.and_then(|known| known.cluster.clone());
        let user = file.auth_infos.iter_mut().find(|known| Some(&known.name) == chosen.user.as_ref());
        let mut credential = None;
        if let Some(user) = user.and_then(|known| known.auth_info.as_mut())
            && let Some(exec) = user.exec.take()
        {
            // The library would run the helper on the thread that all probes share, without a limit.
            let current = match former {
                Some(former) if !former.ends_within(ENDS_SOON, Timestamp::now()) => former,
                Some(_) | None => plugin::run(&exec, cluster.as_ref()).await?,
            };
            current.put_into(user);
            credential = Some(current);
        }
        let options = KubeConfigOptions { context: Some(context), cluster: None, user: None };
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| problem(&error))?;
        Ok((config, credential))
    }

    fn use_server(&self, server: &str) -> Result<kube::Config, String> {
        let url = server.parse().map_err(|error| format!("`{server}` is not a URL: {error}"))?;
        let mut config = kube::Config::new(url);
        if let Some(path) = &self.settings.ca_file {
            config.root_cert = Some(certificates(path)?);
        }
        if let Some(token) = &self.settings.token {
            let token = token.read().map_err(|error| describe(&error))?;
            config.auth_info = AuthInfo { token: Some(trimmed(&token)), ..AuthInfo::default() };
        }
        Ok(config)
    }
}

fn access(config: kube::Config) -> Result<Access, String> {
    let url = &config.cluster_url;
    let host = url.host().ok_or_else(|| format!("`{url}` names no host"))?.to_owned();
    let tls = match url.scheme_str() {
        Some("https") => {
            let mut tls = config.rustls_client_config().map_err(|error| describe(&error))?;
            // A resumed session would not show the certificate, and an expired one would go unseen.
            tls.resumption = Resumption::disabled();
            Some(Arc::new(tls))
        }
        Some("http") => None,
        Some(_) | None => return Err(format!("`{url}` is not an https URL")),
    };
    let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let server_name = config.tls_server_name.clone().unwrap_or_else(|| host.clone());
    let server_name = server_name.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Access { tls, host, port, server_name, config })
}

/// The system's certificates and those of the region, without those that the TLS library cannot use.
fn system_roots(region_ca: Option<&Path>) -> Result<Vec<Vec<u8>>, String> {
    let mut found = rustls_native_certs::load_native_certs().certs;
    found.retain(|certificate| rustls::RootCertStore::empty().add(certificate.clone()).is_ok());
    let mut roots: Vec<Vec<u8>> = found.into_iter().map(|certificate| certificate.to_vec()).collect();
    if let Some(path) = region_ca {
        roots.extend(certificates(path)?);
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let problem = |why: String| format!("ca_file {}: {why}", path.display());
    let found: Vec<Vec<u8>> = CertificateDer::pem_file_iter(path)
        .map_err(|error| problem(describe(&error)))?
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| problem(describe(&error)))?;
    if found.is_empty() { Err(problem("it holds no certificate".to_owned())) } else { Ok(found) }
}

/// A header cannot hold a line break, and files often end with one.
fn trimmed(secret: &SecretString) -> SecretString {
    use secrecy::ExposeSecret as _;
    SecretString::from(secret.expose_secret().trim())
}
