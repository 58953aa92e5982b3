//! Certificate authorities and the leaf certificates they issue, kept as PEM files.
//!
//! Invariant: an authority is made once and never replaced; a leaf is issued again only when it is
//! missing, no longer fits what it is for, was signed by another authority, or two thirds of its
//! life are over.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use tracing::info;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{Durability, read, write_atomic, write_with};

const DAY_SECS: i64 = 24 * 3600;
/// k3s' lifetimes.
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// Environment variable: k3s' lifetime of leafs, in days.
const LIFETIME_DAYS: &str = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";
/// Environment variable: the same in seconds, so that tests see many lives.
const LIFETIME_SECS: &str = "K3S_CERTIFICATE_LIFETIME_SECONDS";
/// Certificates start a little in the past, for peers whose clock is behind.
pub(crate) const BACKDATE_SECS: i64 = 3600;

/// A certificate authority with its key at hand.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    leaf_secs: i64,
}

/// What a leaf certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// What a leaf certificate says.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub common_name: String,
    /// Kubernetes' group, the subject's O; empty for none.
    pub organization: String,
    pub usage: Usage,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl Leaf {
    /// A client certificate: user and group.
    pub fn client(user: impl Into<String>, group: &str) -> Self {
        Self {
            common_name: user.into(),
            organization: group.to_owned(),
            usage: Usage::Client,
            dns: Vec::new(),
            ips: Vec::new(),
        }
    }

    /// A serving certificate for these names and addresses.
    pub fn server(name: impl Into<String>, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self {
            common_name: name.into(),
            organization: String::new(),
            usage: Usage::Server,
            dns,
            ips,
        }
    }
}

impl Authority {
    /// Loads the authority at these paths, or makes it, named `<prefix>-ca@<now>` as k3s does.
    ///
    /// # Errors
    /// When one of the two files exists without the other or can't be used; both paths and the
    /// remedy are in the message.
    pub fn ensure(cert_path: &Path, key_path: &Path, prefix: &str, now: i64) -> Result<Self> {
        match (read(cert_path)?, read(key_path)?) {
            (Some(cert_pem), Some(key_pem)) => Self::load(cert_pem, &key_pem).with_context(|| {
                format!(
                    "{} or {} is damaged; restore both from a backup",
                    cert_path.display(),
                    key_path.display()
                )
            }),
            (None, None) => Self::create(cert_path, key_path, prefix, now),
            (Some(_), None) => bail!("{} is missing; restore it from a backup", key_path.display()),
            (None, Some(_)) => {
                bail!("{} is missing; restore it from a backup", cert_path.display())
            }
        }
    }

    /// Loads the authority at these paths.
    pub fn open(cert_path: &Path, key_path: &Path) -> Result<Self> {
        let present =
            |path: &Path| read(path)?.with_context(|| format!("{} is missing", path.display()));
        Self::load(present(cert_path)?, &present(key_path)?)
            .with_context(|| format!("using {} and {}", cert_path.display(), key_path.display()))
    }

    /// The same authority, whose leafs live for so long.
    #[cfg(test)]
    pub(crate) fn with_leaf_lifetime(self, secs: i64) -> Self {
        Self { leaf_secs: secs, ..self }
    }

    /// When the authority's own certificate ends, in seconds since 1970.
    pub fn expires(&self) -> Result<i64> {
        let der = first_der(&self.cert_pem)?;
        let (_, cert) = X509Certificate::from_der(&der).context("reading the certificate")?;
        Ok(cert.validity().not_after.timestamp())
    }

    /// Another authority's certificate, signed by this one.
    #[cfg(test)]
    pub(crate) fn cross_sign(&self, other: &Authority, now: i64) -> Result<String> {
        let der = first_der(&other.cert_pem)?;
        let (_, cert) = X509Certificate::from_der(&der)?;
        let common = cert.subject().iter_common_name().next().context("a name")?.as_str()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common, "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        validity(&mut params, now, DAY_SECS)?;
        Ok(params.signed_by(other.issuer.key(), &self.issuer)?.pem())
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    fn load(cert_pem: String, key_pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem).context("reading the key")?;
        let public = key.public_key_raw().to_vec();
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).context("reading the certificate")?;
        let der = first_der(&cert_pem)?;
        let (_, parsed) = X509Certificate::from_der(&der).context("reading the certificate")?;
        if parsed.public_key().subject_public_key.data.as_ref() != public {
            bail!("the key does not belong to the certificate");
        }
        Ok(Self { issuer, cert_pem, leaf_secs: leaf_lifetime() })
    }

    fn create(cert_path: &Path, key_path: &Path, prefix: &str, now: i64) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("{prefix}-ca@{now}"), "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        validity(&mut params, now, CA_DAYS * DAY_SECS)?;
        let cert_pem = params.self_signed(&key)?.pem();
        // The key first: a certificate without its key would block the next start.
        write_atomic(key_path, key.serialize_pem().as_bytes(), 0o600)?;
        write_atomic(cert_path, cert_pem.as_bytes(), 0o644)?;
        info!(path = %cert_path.display(), "Made certificate authority");
        Ok(Self { issuer: Issuer::new(params, key), cert_pem, leaf_secs: leaf_lifetime() })
    }

    /// Makes sure that a fitting leaf lies at these paths; the file holds the leaf, then the CA.
    /// An existing key is kept. Returns whether the certificate was (re)issued.
    pub fn ensure_leaf(
        &self,
        leaf: &Leaf,
        cert_path: &Path,
        key_path: &Path,
        now: i64,
    ) -> Result<bool> {
        let key_pem = read(key_path)?;
        let cert_pem = read(cert_path)?;
        if let (Some(cert_pem), Some(key_pem)) = (&cert_pem, &key_pem)
            && self.fits(leaf, cert_pem, key_pem, now).unwrap_or(false)
        {
            return Ok(false);
        }
        // A leaf's key carries no identity of its own: one that can't be read is made again.
        let key = match key_pem.and_then(|pem| KeyPair::from_pem(&pem).ok()) {
            Some(key) => key,
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write_with(key_path, key.serialize_pem().as_bytes(), 0o600, Durability::Derived)?;
                key
            }
        };
        let cert = self.issue(leaf, &key, now)?;
        write_with(cert_path, cert.as_bytes(), 0o644, Durability::Derived)?;
        info!(path = %cert_path.display(), subject = leaf.common_name, "Issued certificate");
        Ok(true)
    }

    /// Replaces a leaf by one with a new key.
    pub fn replace_leaf(
        &self,
        leaf: &Leaf,
        cert_path: &Path,
        key_path: &Path,
        now: i64,
    ) -> Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = self.issue(leaf, &key, now)?;
        // Between the two writes the pair does not fit; who follows the files keeps the old one.
        write_with(key_path, key.serialize_pem().as_bytes(), 0o600, Durability::Derived)?;
        write_with(cert_path, cert.as_bytes(), 0o644, Durability::Derived)
    }

    /// Issues a certificate for a key; PEM of the leaf, then of the authority.
    pub fn issue(&self, leaf: &Leaf, key: &impl PublicKeyData, now: i64) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&leaf.common_name, &leaf.organization);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match leaf.usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        for dns in &leaf.dns {
            let dns = dns.as_str().try_into().with_context(|| format!("DNS name {dns:?}"))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(leaf.ips.iter().copied().map(SanType::IpAddress));
        params.serial_number = Some(random_serial()?);
        validity(&mut params, now, self.leaf_secs)?;
        Ok(params.signed_by(key, &self.issuer)?.pem() + &self.cert_pem)
    }

    /// Whether an existing certificate still does.
    fn fits(&self, leaf: &Leaf, cert_pem: &str, key_pem: &str, now: i64) -> Result<bool> {
        let der = first_der(cert_pem)?;
        let (_, cert) = X509Certificate::from_der(&der)?;
        let ca_der = first_der(&self.cert_pem)?;
        let (_, ca) = X509Certificate::from_der(&ca_der)?;
        let key = KeyPair::from_pem(key_pem)?;
        let signed =
            cert.issuer().as_raw() == ca.subject().as_raw() && cert_pem.ends_with(&self.cert_pem);
        let lasting = now < renew_at(&cert) && cert.validity().not_before.timestamp() <= now;
        let same_key = cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
        let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            value.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
        };
        let same_name = text(cert.subject().iter_common_name().next()) == leaf.common_name
            && text(cert.subject().iter_organization().next()) == leaf.organization;
        Ok(signed && lasting && same_key && same_name && covers(&cert, leaf)?)
    }
}

/// Makes the key that signs service account tokens (P-256, PKCS#8) unless it is there.
pub fn ensure_signing_key(path: &Path) -> Result<()> {
    if read(path)?.is_none() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write_atomic(path, key.serialize_pem().as_bytes(), 0o600)?;
    }
    Ok(())
}

/// Whether the certificate carries all names and addresses that the leaf asks for.
fn covers(cert: &X509Certificate<'_>, leaf: &Leaf) -> Result<bool> {
    let (dns, ips) = names(cert)?;
    Ok(leaf.dns.iter().all(|name| dns.contains(name)) && leaf.ips.iter().all(|ip| ips.contains(ip)))
}

/// The DNS names and addresses of a certificate.
pub(crate) fn names(cert: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<IpAddr>)> {
    let mut dns = Vec::new();
    let mut ips = Vec::new();
    if let Some(names) = cert.subject_alternative_name()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                        ips.push(IpAddr::from(v4));
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                        ips.push(IpAddr::from(v6));
                    }
                }
                _ => (),
            }
        }
    }
    Ok((dns, ips))
}

pub(crate) fn first_der(pem: &str) -> Result<Vec<u8>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("not PEM")?;
    Ok(block.contents)
}

fn name(common: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common);
    name
}

/// The environment variables that say how long leafs live.
pub const LIFETIME_VARIABLES: [&str; 2] = [LIFETIME_DAYS, LIFETIME_SECS];

/// How long leafs live: a year, unless the environment says otherwise.
fn leaf_lifetime() -> i64 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i64>().ok().filter(|n| *n > 0);
    number(LIFETIME_SECS)
        .or_else(|| Some(number(LIFETIME_DAYS)? * DAY_SECS))
        .unwrap_or(LEAF_DAYS * DAY_SECS)
}

/// A serial number of its own for every certificate: by default it would follow from the key, which
/// a renewal keeps.
pub(crate) fn random_serial() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the kernel's random source failed"))?;
    // A positive number without leading zeros.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// When two thirds of a certificate's life are over.
pub(crate) fn renew_at(cert: &X509Certificate<'_>) -> i64 {
    let issued = cert.validity().not_before.timestamp() + BACKDATE_SECS;
    let end = cert.validity().not_after.timestamp();
    issued + (end - issued) * 2 / 3
}

fn validity(params: &mut CertificateParams, now: i64, secs: i64) -> Result<()> {
    params.not_before = OffsetDateTime::from_unix_timestamp(now - BACKDATE_SECS)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + secs)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("k3s-pki-{}-{name}", std::process::id()));
            Self(path)
        }

        fn ca(&self) -> Result<Authority> {
            Authority::ensure(&self.0.join("ca.crt"), &self.0.join("ca.key"), "k3s-server", NOW)
        }

        fn leaf(&self, leaf: &Leaf, now: i64) -> bool {
            let (cert, key) = (self.0.join("a.crt"), self.0.join("a.key"));
            self.ca().unwrap().ensure_leaf(leaf, &cert, &key, now).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_authority_is_made_once_and_loaded_afterwards() {
        let dir = Dir::new("once");
        let first = dir.ca().unwrap().cert_pem().to_owned();
        assert_eq!(dir.ca().unwrap().cert_pem(), first);
    }

    #[test]
    fn a_leaf_is_reissued_only_when_it_no_longer_fits() {
        let dir = Dir::new("leaf");
        let ip = "10.43.0.1".parse().unwrap();
        let leaf = Leaf::server("kube-apiserver", vec!["localhost".into()], vec![ip]);
        assert!(dir.leaf(&leaf, NOW), "missing");
        assert!(!dir.leaf(&leaf, NOW + DAY_SECS), "fits");
        assert!(!dir.leaf(&leaf, NOW + LEAF_DAYS * DAY_SECS * 2 / 3 - 1), "still fits");
        assert!(dir.leaf(&leaf, NOW + LEAF_DAYS * DAY_SECS * 2 / 3), "two thirds are over");
        let more = Leaf::server("kube-apiserver", vec!["localhost".into(), "k3s".into()], vec![ip]);
        let later = NOW + LEAF_DAYS * DAY_SECS;
        assert!(dir.leaf(&more, later), "another name");
        assert!(!dir.leaf(&leaf, later), "fewer names still fit");
        assert!(dir.leaf(&Leaf::client("system:admin", "system:masters"), later));
    }

    #[test]
    fn damaged_or_missing_halves_are_refused_with_the_remedy() {
        let dir = Dir::new("damaged");
        dir.ca().unwrap();
        std::fs::remove_file(dir.0.join("ca.key")).unwrap();
        let missing = format!("{:#}", dir.ca().err().unwrap());
        assert!(missing.contains("ca.key is missing; restore"), "{missing}");
        std::fs::write(dir.0.join("ca.key"), "garbage").unwrap();
        let damaged = format!("{:#}", dir.ca().err().unwrap());
        assert!(damaged.contains("is damaged; restore"), "{damaged}");
    }
}
