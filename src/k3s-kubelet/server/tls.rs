//! TLS with optional client certificates, by what the certificate files hold at the time.

use std::path::PathBuf;

use pki::Live;
use pki::tls::{Pair, client_verifier, server_config};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Config;

/// Accepts TLS connections with what the files hold at that time.
pub(crate) struct Acceptor(Live<ServerConfig>);

impl Acceptor {
    /// `None` when no certificate is configured.
    pub(crate) fn load(config: &Config) -> anyhow::Result<Option<Acceptor>> {
        let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_private_key_file) else {
            return Ok(None);
        };
        let pair = Pair { cert: cert.clone(), key: key.clone() };
        let clients: Option<PathBuf> = config.client_ca_file.clone();
        let files = [cert, key].into_iter().chain(&clients).cloned().collect();
        let read = move || {
            let verifier = clients.as_ref().map(|ca| client_verifier([ca])).transpose()?;
            server_config(&pair, verifier)
        };
        Ok(Some(Acceptor(Live::new(files, read)?)))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.get()).accept(stream).await
    }
}
