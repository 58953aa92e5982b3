//! What certificate files say: for people, for renewal, and for checking new authorities.
//!
//! Knows no layout of files. Invariant: reading never changes anything.

use std::path::Path;

use anyhow::{Context, Result, bail};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Leaf, Usage, first_der, names, renew_at};

/// One certificate of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `CN=system:admin,O=system:masters`
    pub subject: String,
    pub common_name: String,
    /// `ServerAuth`, `ClientAuth`, `CertSign`
    pub usages: Vec<&'static str>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// When two thirds of its life are over.
    pub renew_at: i64,
}

/// The certificates of a PEM text, in its order.
pub fn inspect(pem: &str) -> Result<Vec<Certificate>> {
    ders(pem)?.iter().map(|der| describe(&parse(der)?)).collect()
}

/// The certificates of a PEM file, in its order.
pub fn inspect_file(path: &Path) -> Result<Vec<Certificate>> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
    inspect(&pem).with_context(|| format!("reading {shown}"))
}

/// What an existing leaf certificate is for: enough to issue it again.
pub fn leaf_of(pem: &str) -> Result<Leaf> {
    let der = first_der(pem)?;
    let cert = parse(&der)?;
    let (dns, ips) = names(&cert)?;
    let usages = usages(&cert);
    let usage = if usages.contains(&"ServerAuth") { Usage::Server } else { Usage::Client };
    let text = |part: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        part.and_then(|part| part.as_str().ok()).unwrap_or_default().to_owned()
    };
    Ok(Leaf {
        common_name: text(cert.subject().iter_common_name().next()),
        organization: text(cert.subject().iter_organization().next()),
        usage,
        dns,
        ips,
    })
}

/// Whether who trusts the authorities of `old` also trusts leafs that the first certificate of
/// `new` signs, with the rest of `new` shown beside them.
pub fn continues(old: &str, new: &str) -> Result<bool> {
    let (old, new) = (ders(old)?, ders(new)?);
    let old = old.iter().map(|der| parse(der)).collect::<Result<Vec<_>>>()?;
    let new = new.iter().map(|der| parse(der)).collect::<Result<Vec<_>>>()?;
    let Some(first) = new.first() else { bail!("there is no certificate") };
    let mut reached = vec![first];
    let mut at = 0;
    while let Some(cert) = reached.get(at).copied() {
        at += 1;
        let same = |have: &X509Certificate<'_>| {
            have.subject().as_raw() == cert.subject().as_raw()
                && have.public_key().raw == cert.public_key().raw
        };
        let signed_by = |issuer: &X509Certificate<'_>| {
            issuer.subject().as_raw() == cert.issuer().as_raw()
                && cert.verify_signature(Some(issuer.public_key())).is_ok()
        };
        if old.iter().any(|have| same(have) || signed_by(have)) {
            return Ok(true);
        }
        for issuer in new.iter().filter(|issuer| signed_by(issuer)) {
            if !reached.iter().any(|have| std::ptr::eq(*have, issuer)) {
                reached.push(issuer);
            }
        }
    }
    Ok(false)
}

fn ders(pem: &str) -> Result<Vec<Vec<u8>>> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("it is not PEM")?;
    let ders: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| block.contents)
        .collect();
    if ders.is_empty() {
        bail!("it holds no certificate");
    }
    Ok(ders)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    Ok(X509Certificate::from_der(der).context("it is not a certificate")?.1)
}

fn describe(cert: &X509Certificate<'_>) -> Result<Certificate> {
    let part = |name: &str, value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        value.as_str().ok().map(|value| format!("{name}={value}"))
    };
    let subject = cert.subject();
    let names = subject.iter_common_name().filter_map(|value| part("CN", value));
    let groups = subject.iter_organization().filter_map(|value| part("O", value));
    let common = subject.iter_common_name().next().and_then(|value| value.as_str().ok());
    Ok(Certificate {
        subject: names.chain(groups).collect::<Vec<_>>().join(","),
        common_name: common.unwrap_or_default().to_owned(),
        usages: usages(cert),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        renew_at: renew_at(cert),
    })
}

fn usages(cert: &X509Certificate<'_>) -> Vec<&'static str> {
    let mut usages = Vec::new();
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                usages.extend(usage.server_auth.then_some("ServerAuth"));
                usages.extend(usage.client_auth.then_some("ClientAuth"));
            }
            ParsedExtension::KeyUsage(usage) => {
                usages.extend(usage.key_cert_sign().then_some("CertSign"));
            }
            _ => {}
        }
    }
    usages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    const NOW: i64 = 1_800_000_000;

    fn authority(name: &str) -> Authority {
        let dir = std::env::temp_dir().join(format!("k3s-inspect-{}-{name}", std::process::id()));
        let made = Authority::ensure(&dir.join("ca.crt"), &dir.join("ca.key"), name, NOW).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        made
    }

    #[test]
    fn a_leaf_tells_what_it_is_for() {
        let ca = authority("leaf").with_leaf_lifetime(300);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = Leaf::server("web", vec!["web".into()], vec!["10.0.0.1".parse().unwrap()]);
        let pem = ca.issue(&leaf, &key, NOW).unwrap();
        let found = inspect(&pem).unwrap();
        assert_eq!(found.len(), 2, "the leaf, then its authority");
        assert_eq!(found[0].subject, "CN=web");
        assert_eq!(found[0].usages, ["ServerAuth"]);
        assert_eq!((found[0].not_after, found[0].renew_at), (NOW + 300, NOW + 200));
        assert_eq!(found[1].usages, ["CertSign"]);
        let again = leaf_of(&pem).unwrap();
        assert_eq!((again.dns, again.ips, again.usage), (leaf.dns, leaf.ips, Usage::Server));
    }

    #[test]
    fn trust_continues_only_from_a_known_authority() {
        let (old, other) = (authority("old"), authority("other"));
        assert!(continues(old.cert_pem(), old.cert_pem()).unwrap());
        assert!(!continues(old.cert_pem(), other.cert_pem()).unwrap());
        // The other one, also signed by the old one.
        let bundle = format!("{}{}", other.cert_pem(), old.cross_sign(&other, NOW).unwrap());
        assert!(continues(old.cert_pem(), &bundle).unwrap());
    }
}
