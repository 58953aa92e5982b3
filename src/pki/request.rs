//! Certificate requests (PKCS #10): read, checked against their own signature, and signed.
//!
//! Invariant: what is signed says about its subject exactly what the request said; a request that
//! can't be carried over whole is refused.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::authority::{Authority, Leaf, random_serial};
use crate::files::{Durability, read, write_with};

/// Certificates start a little in the past, for peers whose clock is behind (upstream's allowance).
const BACKDATE_SECS: i64 = 300;

/// A request whose signature holds.
pub struct Request {
    inner: CertificateSigningRequestParams,
    organizations: Vec<String>,
}

impl Request {
    /// Reads a request from PEM.
    ///
    /// # Errors
    /// When it is none, when its signature is wrong, or when it asks for more than can be signed.
    pub fn parse(pem: &str) -> Result<Self> {
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("PEM was not found")?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)
            .context("reading the certificate request")?;
        let subject = &parsed.certification_request_info.subject;
        let organizations: Vec<String> = subject
            .iter_organization()
            .map(|it| it.as_str().map(str::to_owned).context("reading the subject"))
            .collect::<Result<_>>()?;
        let mut kinds: Vec<String> =
            subject.iter_attributes().map(|it| it.attr_type().to_id_string()).collect();
        let count = kinds.len();
        kinds.sort();
        kinds.dedup();
        if kinds.len() != count {
            bail!("a subject that has one attribute several times is not supported");
        }
        let inner = CertificateSigningRequestParams::from_pem(pem)
            .context("checking the certificate request")?;
        Ok(Self { inner, organizations })
    }

    /// The subject's CN, empty for none.
    pub fn common_name(&self) -> String {
        match self.inner.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(text)) => text.clone(),
            Some(DnValue::PrintableString(text)) => text.to_string(),
            Some(DnValue::Ia5String(text)) => text.to_string(),
            _ => String::new(),
        }
    }

    /// The subject's O.
    pub fn organizations(&self) -> &[String] {
        &self.organizations
    }

    /// How many DNS names it asks for.
    pub fn dns_names(&self) -> usize {
        self.count(|it| matches!(it, SanType::DnsName(_)))
    }

    /// The addresses that it asks for.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let names = self.inner.params.subject_alt_names.iter();
        names
            .filter_map(|it| match it {
                SanType::IpAddress(ip) => Some(*ip),
                _ => None,
            })
            .collect()
    }

    /// How many names it asks for that are neither DNS names nor addresses.
    pub fn other_names(&self) -> usize {
        self.count(|it| !matches!(it, SanType::DnsName(_) | SanType::IpAddress(_)))
    }

    fn count(&self, test: impl Fn(&SanType) -> bool) -> usize {
        self.inner.params.subject_alt_names.iter().filter(|it| test(it)).count()
    }
}

/// A request (DER) that asks for nothing but a certificate for its key, as agents send it: what the
/// certificate says is the server's decision. The key lies at this path, or is made.
pub fn key_request(key_path: &Path) -> Result<Vec<u8>> {
    let key = match read(key_path)?.and_then(|pem| KeyPair::from_pem(&pem).ok()) {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            write_with(key_path, key.serialize_pem().as_bytes(), 0o600, Durability::Derived)?;
            key
        }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).context("making a certificate request")?;
    Ok(request.der().to_vec())
}

impl Authority {
    /// Issues a certificate for the key of a request (DER), whatever else the request says.
    /// Returns PEM: the leaf, then the authority.
    pub fn issue_for(&self, leaf: &Leaf, request: &[u8], now: i64) -> Result<String> {
        let request = CertificateSigningRequestParams::from_der(&request.into())
            .context("reading the certificate request")?;
        self.issue(leaf, &request.public_key, now)
    }

    /// Signs a request for these usages, in Kubernetes' words, valid from `now` for so long and
    /// never longer than the authority itself. Returns the leaf alone, PEM.
    pub fn sign(
        &self,
        request: Request,
        usages: &[String],
        now: i64,
        lifetime_secs: i64,
    ) -> Result<String> {
        let mut request = request.inner;
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in usages {
            match (key_usage(usage), extended_usage(usage)) {
                (Some(usage), _) if params.key_usages.contains(&usage) => {}
                (Some(usage), _) => params.key_usages.push(usage),
                (_, Some(usage)) => params.extended_key_usages.push(usage),
                _ => bail!("unrecognized key usage {usage:?}"),
            }
        }
        params.serial_number = Some(random_serial()?);
        params.not_before = OffsetDateTime::from_unix_timestamp(now - BACKDATE_SECS)?;
        let end = self.expires()?.min(now.saturating_add(lifetime_secs));
        params.not_after = OffsetDateTime::from_unix_timestamp(end)?;
        Ok(request.signed_by(self.issuer())?.pem())
    }
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use x509_parser::prelude::X509Certificate;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn request(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_becomes_a_leaf_with_its_subject() {
        let folder = std::env::temp_dir().join(format!("k3s-pki-{}-sign", std::process::id()));
        let (cert, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        let ca = Authority::ensure(&cert, &key, "k3s-client", NOW).unwrap();
        let parsed = Request::parse(&request(&["a", "192.0.2.1"])).unwrap();
        assert_eq!(parsed.common_name(), "system:node:a");
        assert_eq!(parsed.organizations(), ["system:nodes"]);
        assert_eq!((parsed.dns_names(), parsed.addresses().len(), parsed.other_names()), (1, 1, 0));
        let usages = ["digital signature".to_owned(), "server auth".to_owned()];
        let pem = ca.sign(parsed, &usages, NOW, i64::MAX).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&block.contents).unwrap();
        assert_eq!(leaf.subject().to_string(), "CN=system:node:a, O=system:nodes");
        assert_eq!(leaf.validity().not_after.timestamp(), ca.expires().unwrap());
        assert!(!leaf.is_ca());
        let opened = Authority::open(&cert, &key).unwrap();
        let odd = opened.sign(Request::parse(&request(&[])).unwrap(), &["tea".into()], NOW, 600);
        assert!(odd.is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_key_request_becomes_the_leaf_that_the_server_decides() {
        let folder = std::env::temp_dir().join(format!("k3s-pki-{}-key", std::process::id()));
        let (cert, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        let ca = Authority::ensure(&cert, &key, "k3s-client", NOW).unwrap();
        let der = key_request(&folder.join("kubelet.key")).unwrap();
        let leaf = Leaf::client("system:node:a", "system:nodes");
        let pem = ca.issue_for(&leaf, &der, NOW).unwrap();
        assert!(pem.ends_with(ca.cert_pem()));
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, issued) = X509Certificate::from_der(&block.contents).unwrap();
        assert_eq!(issued.subject().to_string(), "O=system:nodes, CN=system:node:a");
        let key_pem = std::fs::read_to_string(folder.join("kubelet.key")).unwrap();
        let key = KeyPair::from_pem(&key_pem).unwrap();
        assert_eq!(issued.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        assert!(ca.issue_for(&leaf, b"garbage", NOW).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Request::parse("garbage").is_err());
        let damaged = request(&[]).replacen("MI", "MJ", 1);
        assert!(Request::parse(&damaged).is_err());
    }
}
