//! Which servers a client believes, where that is said in an object and not in a file: a bundle in
//! memory, what the system trusts, or anybody.
//!
//! Invariant: a leaf that is in the bundle itself is believed under its own names, as Go does, also
//! when it is marked as an authority.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore};
use rustls::{OtherError, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::anyone::anyone;
use crate::tls::{self, Pair, provider};

/// Where distributions keep what they trust, as Go looks for it.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom a client believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The authorities of the system.
    System,
    /// These authorities, in PEM.
    Bundle(Vec<u8>),
    /// Whoever answers.
    Anyone,
}

/// A client's configuration; who the client is follows its files.
pub fn client_config(trust: &Trust, identity: Option<&Pair>) -> Result<ClientConfig> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => anyone(),
        Trust::System => {
            let found = SYSTEM.iter().map(Path::new).find(|path| path.exists());
            let all = found.map(tls::certificates).transpose()?;
            Arc::new(Bundle::new(all.unwrap_or_default())?)
        }
        Trust::Bundle(pem) => {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let all = all.ok().filter(|all| !all.is_empty());
            let Some(all) = all else {
                bail!("unable to load root certificates: unable to parse bytes as PEM block");
            };
            Arc::new(Bundle::new(all)?)
        }
    };
    tls::client_config_with(verifier, identity)
}

/// Believes what these certificates vouch for.
#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    /// None without any authority.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Bundle {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let verifier = match roots.is_empty() {
            true => None,
            false => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
                Some(builder.build().context("use the bundle")?)
            }
        };
        Ok(Self { certificates, verifier, provider: provider() })
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let verifier = self.verifier.as_ref().ok_or_else(unknown)?;
        let verified = verifier.verify_server_cert(leaf, intermediates, name, ocsp, now);
        let Err(err) = verified else { return verified };
        if !self.certificates.iter().any(|own| own == leaf) || !is_about_use(&err) {
            return Err(err);
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = x509_parser::parse_x509_certificate(leaf).is_ok_and(|(_, cert)| {
            let validity = cert.validity();
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&seconds)
        });
        if !valid {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Is the only fault that an authority's certificate is used as a server's?
fn is_about_use(err: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(why))) = err else {
        return false;
    };
    why.to_string().contains("CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ca: rcgen::IsCa, asked: &str) -> Result<(), String> {
        let mut params = rcgen::CertificateParams::new(vec!["hook.ns.svc".to_owned()]).unwrap();
        params.is_ca = ca;
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let bundle = Bundle::new(vec![cert.der().clone()]).unwrap();
        let name = ServerName::try_from(asked.to_owned()).unwrap();
        let verified = bundle.verify_server_cert(cert.der(), &[], &name, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|err| err.to_string())
    }

    #[test]
    fn a_certificate_that_signed_itself_is_believed_under_its_name_alone() {
        let authority = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        assert_eq!(verdict(rcgen::IsCa::ExplicitNoCa, "hook.ns.svc"), Ok(()));
        assert_eq!(verdict(authority(), "hook.ns.svc"), Ok(()));
        assert!(verdict(authority(), "other.ns.svc").is_err());
    }

    #[test]
    fn a_bundle_of_nothing_is_refused() {
        let refused = client_config(&Trust::Bundle(b"garbage".to_vec()), None).unwrap_err();
        assert!(refused.to_string().contains("PEM"));
        assert!(client_config(&Trust::Anyone, None).is_ok());
    }
}
