//! TLS with optional client certificates; certificate files are read again when they change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Config;

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

type Stamp = Vec<Option<SystemTime>>;

/// Accepts TLS connections with what the files hold at that time.
pub(crate) struct Acceptor {
    files: Files,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Acceptor {
    /// `None` when no certificate is configured.
    pub(crate) fn load(config: &Config) -> anyhow::Result<Option<Acceptor>> {
        let (Some(certificate), Some(key)) = (&config.tls_cert_file, &config.tls_private_key_file)
        else {
            return Ok(None);
        };
        let files = Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: config.client_ca_file.clone(),
        };
        let current = Mutex::new((files.stamp(), files.read()?));
        Ok(Some(Acceptor { files, current }))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    fn config(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamp {
            match self.files.read() {
                Ok(config) => {
                    tracing::info!("Serving certificate was read again");
                    *current = (stamp, config);
                }
                Err(err) => {
                    let err = format!("{err:#}");
                    tracing::warn!(%err, "New serving certificate was not usable, keeping the old");
                    current.0 = stamp;
                }
            }
        }
        Arc::clone(&current.1)
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .map(|path| std::fs::metadata(path?).and_then(|meta| meta.modified()).ok())
            .collect()
    }

    fn read(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("reading key {}", self.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).with_context(|| format!("in {}", path.display()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .with_context(|| format!("using {}", self.certificate.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &PathBuf) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("reading certificates {}", path.display()))
}
