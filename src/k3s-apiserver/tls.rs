//! TLS: the server's certificate, optional client certificates, and who they say the client is.
//!
//! A client certificate is verified once, in the handshake; the identity stays with the
//! connection. Invariant: a changed file on disk is used from the next connection on, a broken one
//! never replaces a good one.

use std::path::PathBuf;
use std::sync::Arc;

use pki::Live;
use pki::tls::{Pair, client_verifier, server_config};
use ring::digest;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::UserInfo;

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
    current: Live<Current>,
}

impl Tls {
    pub fn load(files: Files) -> anyhow::Result<Self> {
        let paths =
            [&files.cert, &files.key].into_iter().chain(&files.client_ca).chain(&files.proxy_ca);
        let current = Live::new(paths.cloned().collect(), move || build(&files))?;
        Ok(Self { current })
    }

    /// The configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.get().config.clone()
    }

    /// Who the client certificate of a connection is; the handshake has verified that the client
    /// has its key and that one of the CAs signed it.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Identities {
        let Some((leaf, intermediates)) = chain.split_first() else { return Identities::default() };
        let current = self.current.get();
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
}

fn build(files: &Files) -> anyhow::Result<Current> {
    let one =
        |path: &Option<PathBuf>| path.as_ref().map(|path| client_verifier([path])).transpose();
    let (users, proxies) = (one(&files.client_ca)?, one(&files.proxy_ca)?);
    let all: Vec<&PathBuf> = files.client_ca.iter().chain(&files.proxy_ca).collect();
    let any = if all.is_empty() { None } else { Some(client_verifier(all)?) };
    let pair = Pair { cert: files.cert.clone(), key: files.key.clone() };
    let config = Arc::new(server_config(&pair, any)?);
    Ok(Current { config, users, proxies })
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
