//! TLS: the server's certificate, optional client certificates, and who they say the client is.
//!
//! A client certificate is verified once, in the handshake; the identity stays with the
//! connection. Invariant: a changed file on disk is used from the next connection on, a broken one
//! never replaces a good one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use ring::digest;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::UserInfo;

/// How often a new connection looks whether the files have changed.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// The files that make a TLS configuration.
#[derive(Clone, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// CA bundle of users (`--client-ca-file`).
    pub client_ca: Option<PathBuf>,
    /// CA bundle of front proxies (`--requestheader-client-ca-file`).
    pub proxy_ca: Option<PathBuf>,
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// A configuration, and who vouches for whom in it.
struct Current {
    config: Arc<ServerConfig>,
    users: Option<Verifier>,
    proxies: Option<Verifier>,
}

/// Who a client certificate is: a user, a front proxy, or (with one CA for both) either.
#[derive(Debug, Default)]
pub struct Identities {
    pub user: Option<UserInfo>,
    pub proxy: Option<String>,
}

/// The current configuration.
pub struct Tls {
    files: Files,
    current: ArcSwap<Current>,
    looked: Mutex<(Instant, Vec<Option<SystemTime>>)>,
}

impl Tls {
    pub fn load(files: Files) -> anyhow::Result<Self> {
        let current = ArcSwap::from_pointee(build(&files)?);
        let looked = Mutex::new((Instant::now(), times(&files)));
        Ok(Self { files, current, looked })
    }

    /// The configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        if self.changed() {
            match build(&self.files) {
                Ok(current) => {
                    self.current.store(Arc::new(current));
                    info!("Reloaded TLS files");
                }
                Err(err) => {
                    warn!(err = %format_args!("{err:#}"), "Kept the old TLS files, the new are bad");
                }
            }
        }
        self.current.load().config.clone()
    }

    /// Who the client certificate of a connection is; the handshake has verified that the client
    /// has its key and that one of the CAs signed it.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Identities {
        let Some((leaf, intermediates)) = chain.split_first() else { return Identities::default() };
        let current = self.current.load();
        let vouches = |verifier: &Option<Verifier>| {
            verifier.as_ref().is_some_and(|verifier| {
                verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
            })
        };
        let is_user = vouches(&current.users);
        let is_proxy = vouches(&current.proxies);
        let Some(identity) = (is_user || is_proxy).then(|| identity(leaf)).flatten() else {
            return Identities::default();
        };
        let proxy = is_proxy.then(|| identity.name.clone());
        Identities { user: is_user.then_some(identity), proxy }
    }

    fn changed(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.0.elapsed() < LOOK {
            return false;
        }
        let now = times(&self.files);
        let changed = now != looked.1;
        *looked = (Instant::now(), now);
        changed
    }
}

fn times(files: &Files) -> Vec<Option<SystemTime>> {
    let paths =
        [&files.cert, &files.key].into_iter().chain(&files.client_ca).chain(&files.proxy_ca);
    paths.map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

fn build(files: &Files) -> anyhow::Result<Current> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?;
    let one = |path: &Option<PathBuf>| path.iter().map(|path| verifier(&[path])).next().transpose();
    let (users, proxies) = (one(&files.client_ca)?, one(&files.proxy_ca)?);
    let all: Vec<&PathBuf> = files.client_ca.iter().chain(&files.proxy_ca).collect();
    let builder = if all.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(verifier(&all)?)
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|err| anyhow!("read key {}: {err}", files.key.display()))?;
    let mut config = builder
        .with_single_cert(certificates(&files.cert)?, key)
        .with_context(|| format!("use {} with its key", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), users, proxies })
}

/// Trusts the CAs of these files; a client may also have no certificate.
fn verifier(paths: &[&PathBuf]) -> anyhow::Result<Verifier> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for ca in certificates(path)? {
            roots.add(ca).with_context(|| format!("use {} as a CA", path.display()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .context("verify client certificates")
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| anyhow!("read certificates {}: {err}", path.display()))?;
    if all.is_empty() {
        bail!("{} has no certificate", path.display());
    }
    Ok(all)
}

/// Who a verified client certificate is: the common name, with the organisations as groups.
pub fn identity(cert: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject
        .iter_organization()
        .filter_map(|org| org.as_str().ok().map(str::to_owned))
        .collect();
    let print = digest::digest(&digest::SHA256, cert);
    let hex: String = print.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = UserInfo { name, groups, ..UserInfo::default() };
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={hex}")],
    );
    Some(user)
}
