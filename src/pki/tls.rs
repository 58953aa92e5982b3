//! Certificates on disk as rustls takes them, for servers and for clients.
//!
//! Invariant: what is handed to rustls follows the files ([`Live`]): connections go on with what
//! they began with, and the next handshake uses what the files hold then.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::live::Live;

/// A certificate file and its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| anyhow!("read certificates {}: {err}", path.display()))?;
    if all.is_empty() {
        bail!("{} has no certificate", path.display());
    }
    Ok(all)
}

fn roots<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for ca in certificates(path)? {
            roots.add(ca).with_context(|| format!("use {} as a CA", path.display()))?;
        }
    }
    Ok(Arc::new(roots))
}

fn certified(pair: &Pair) -> Result<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_file(&pair.key)
        .map_err(|err| anyhow!("read key {}: {err}", pair.key.display()))?;
    CertifiedKey::from_der(certificates(&pair.cert)?, key, &provider())
        .with_context(|| format!("use {} with its key", pair.cert.display()))
}

/// Trusts clients of these CAs; a client may also have no certificate.
pub fn client_verifier<'a>(
    cas: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    WebPkiClientVerifier::builder_with_provider(roots(cas)?, provider())
        .allow_unauthenticated()
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .context("verify client certificates")
}

/// A server's configuration as the files are now, for HTTP/2 and HTTP/1.1.
pub fn server_config(
    pair: &Pair,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let certified = Arc::new(certified(pair)?);
    let mut config =
        builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server's configuration that follows its files, when both are given.
pub fn given(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Arc<ServerConfig>>> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let identity = Identity::new(&Pair { cert: cert.to_owned(), key: key.to_owned() })?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity));
    Ok(Some(Arc::new(config)))
}

/// A client's configuration that follows its files: the CA bundle it trusts, and who it is.
pub fn client_config(ca: &Path, identity: Option<&Pair>) -> Result<ClientConfig> {
    client_config_with(Arc::new(Trust::new(ca)?), identity)
}

pub(crate) fn client_config_with(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Pair>,
) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(Identity::new(pair)?)),
        None => builder.with_no_client_auth(),
    };
    // A resumed session would carry the certificate it began with.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Who a client or a server is, by the files.
struct Identity(Live<CertifiedKey>);

impl Identity {
    fn new(pair: &Pair) -> Result<Self> {
        let files = vec![pair.cert.clone(), pair.key.clone()];
        let pair = pair.clone();
        Ok(Self(Live::new(files, move || certified(&pair))?))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

/// Which servers a client trusts, by the file.
struct Trust(Live<Arc<WebPkiServerVerifier>>);

impl Trust {
    fn new(ca: &Path) -> Result<Self> {
        let path = ca.to_owned();
        let read = move || {
            WebPkiServerVerifier::builder_with_provider(roots([&path])?, provider())
                .build()
                .with_context(|| format!("use {} as a CA", path.display()))
        };
        Ok(Self(Live::new(vec![ca.to_owned()], read)?))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.get().verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.get().supported_verify_schemes()
    }
}
