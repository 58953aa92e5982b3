//! JSON Web Tokens: signing and checking them, and the keys that do it.
//!
//! Knows nothing of claims. Invariant: the algorithm belongs to the key and never to the token, so
//! a token cannot choose how it is checked.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest token that is looked at.
const TOKEN_MAX: usize = 64 * 1024;

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
    Es384,
}

impl Algorithm {
    /// The name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }
}

/// A key that checks tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    /// The key's name: a hash of its `SubjectPublicKeyInfo`.
    pub id: String,
    /// PKCS#1 for RSA, the uncompressed point for elliptic curves.
    key: Vec<u8>,
}

impl PublicKey {
    /// Every key of a PEM text: public keys, the public halves of private keys, certificates.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|err| anyhow!("read PEM: {err}"))?;
            match kind {
                SectionKind::PublicKey => keys.push(Self::from_spki(&der)?),
                SectionKind::Certificate => {
                    let (_, cert) = X509Certificate::from_der(&der).context("read certificate")?;
                    keys.push(Self::from_spki(cert.public_key().raw)?);
                }
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => {
                    keys.push(SigningKey::from_section(kind, &der)?.public);
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            bail!("no key found");
        }
        Ok(keys)
    }

    /// Every key of a PEM file.
    pub fn load_all(path: &Path) -> Result<Vec<Self>> {
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::all_from_pem(&pem).with_context(|| format!("use {} as keys", path.display()))
    }

    fn new(algorithm: Algorithm, key: Vec<u8>) -> Self {
        let id = BASE64.encode(digest(&SHA256, &spki(algorithm, &key)));
        Self { algorithm, id, key }
    }

    fn from_spki(der: &[u8]) -> Result<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).context("read public key")?;
        let key = info.subject_public_key.data.to_vec();
        let algorithm = match (info.algorithm.algorithm.to_id_string().as_str(), key.len()) {
            ("1.2.840.113549.1.1.1", _) => Algorithm::Rs256,
            ("1.2.840.10045.2.1", 65) => Algorithm::Es256,
            ("1.2.840.10045.2.1", 97) => Algorithm::Es384,
            (other, _) => bail!("unsupported key type {other}: RSA, P-256 or P-384 needed"),
        };
        Ok(Self::new(algorithm, key))
    }

    /// Does the signature belong to the message?
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = |algorithm| UnparsedPublicKey::new(algorithm, &self.key);
        let checked = match self.algorithm {
            Algorithm::Rs256 => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.key)
                .verify(message, signature),
            Algorithm::Es256 => key(&ECDSA_P256_SHA256_FIXED).verify(message, signature),
            Algorithm::Es384 => key(&ECDSA_P384_SHA384_FIXED).verify(message, signature),
        };
        checked.is_ok()
    }

    /// The key as an entry of a JWK set.
    pub fn jwk(&self) -> Value {
        let mut jwk = json!({"use": "sig", "kid": self.id, "alg": self.algorithm.name()});
        let point = |curve: &str, half: usize| {
            let (x, y) =
                self.key.get(1..).unwrap_or_default().split_at_checked(half).unwrap_or_default();
            json!({"kty": "EC", "crv": curve, "x": BASE64.encode(x), "y": BASE64.encode(y)})
        };
        let parts = match self.algorithm {
            Algorithm::Es256 => point("P-256", 32),
            Algorithm::Es384 => point("P-384", 48),
            Algorithm::Rs256 => {
                let (n, e) = rsa_numbers(&self.key).unwrap_or_default();
                json!({"kty": "RSA", "n": BASE64.encode(n), "e": BASE64.encode(e)})
            }
        };
        if let (Value::Object(jwk), Value::Object(parts)) = (&mut jwk, parts) {
            jwk.extend(parts);
        }
        jwk
    }
}

/// A key that makes tokens.
#[derive(Debug)]
pub struct SigningKey {
    pair: Pair,
    random: SystemRandom,
    public: PublicKey,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl SigningKey {
    /// The first private key of a PEM text: PKCS#8, PKCS#1 or SEC1.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|err| anyhow!("read PEM: {err}"))?;
            if matches!(
                kind,
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
            ) {
                return Self::from_section(kind, &der);
            }
        }
        bail!("no private key found")
    }

    /// The private key of a PEM file.
    pub fn load(path: &Path) -> Result<Self> {
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::from_pem(&pem).with_context(|| format!("use {} as a signing key", path.display()))
    }

    fn from_section(kind: SectionKind, der: &[u8]) -> Result<Self> {
        let random = SystemRandom::new();
        let (pair, algorithm) = match kind {
            SectionKind::RsaPrivateKey => {
                (Pair::Rsa(rsa(RsaKeyPair::from_der(der))?), Algorithm::Rs256)
            }
            SectionKind::EcPrivateKey => from_sec1(der, &random)?,
            _ => from_pkcs8(der, &random)?,
        };
        let key = match &pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        };
        Ok(Self { pair, random, public: PublicKey::new(algorithm, key) })
    }

    /// The other half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A signed token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": self.public.algorithm.name(), "kid": self.public.id});
        let mut token = BASE64.encode(header.to_string());
        token.push('.');
        BASE64.encode_string(claims.to_string(), &mut token);
        let failed = |_| anyhow!("sign a token");
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature)
                    .map_err(failed)?;
                signature
            }
            Pair::Ec(pair) => {
                let signature = pair.sign(&self.random, token.as_bytes()).map_err(failed)?;
                signature.as_ref().to_vec()
            }
        };
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }
}

fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<RsaKeyPair> {
    pair.map_err(|err| anyhow!("read RSA key: {err}"))
}

fn from_pkcs8(der: &[u8], random: &SystemRandom) -> Result<(Pair, Algorithm)> {
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, random) {
        return Ok((Pair::Ec(pair), Algorithm::Es256));
    }
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, random) {
        return Ok((Pair::Ec(pair), Algorithm::Es384));
    }
    let pair = RsaKeyPair::from_pkcs8(der)
        .map_err(|err| anyhow!("read key: {err} (RSA, P-256 or P-384 needed)"))?;
    Ok((Pair::Rsa(pair), Algorithm::Rs256))
}

/// SEC1: `SEQUENCE { INTEGER 1, OCTET STRING key, [0] curve, [1] BIT STRING point }`.
fn from_sec1(der: &[u8], random: &SystemRandom) -> Result<(Pair, Algorithm)> {
    let malformed = || anyhow!("read elliptic curve key: malformed");
    let (body, _) = tlv(der, 0x30).ok_or_else(malformed)?;
    let (_, rest) = tlv(body, 0x02).ok_or_else(malformed)?;
    let (private, rest) = tlv(rest, 0x04).ok_or_else(malformed)?;
    let rest = tlv(rest, 0xa0).map_or(rest, |(_, rest)| rest);
    let (public, _) = tlv(rest, 0xa1).ok_or_else(malformed)?;
    let (bits, _) = tlv(public, 0x03).ok_or_else(malformed)?;
    let point = bits.get(1..).ok_or_else(malformed)?;
    let (signing, algorithm) = match private.len() {
        32 => (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::Es256),
        48 => (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::Es384),
        _ => bail!("read elliptic curve key: P-256 or P-384 needed"),
    };
    let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, private, point, random)
        .map_err(|err| anyhow!("read elliptic curve key: {err}"))?;
    Ok((Pair::Ec(pair), algorithm))
}

/// The content of a DER value with this tag, and what follows it.
fn tlv(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    if found != tag {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend(bytes.iter().skip(skip));
    }
    out.extend_from_slice(content);
    out
}

/// The `SubjectPublicKeyInfo` of a key.
fn spki(algorithm: Algorithm, key: &[u8]) -> Vec<u8> {
    const RSA: &[u8] =
        &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    const P256: &[u8] = &[
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    const P384: &[u8] = &[
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
        0x22,
    ];
    let kind = match algorithm {
        Algorithm::Rs256 => RSA,
        Algorithm::Es256 => P256,
        Algorithm::Es384 => P384,
    };
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    der(0x30, &[der(0x30, kind), der(0x03, &bits)].concat())
}

/// Modulus and exponent of a PKCS#1 public key, without leading zeros.
fn rsa_numbers(pkcs1: &[u8]) -> Option<(&[u8], &[u8])> {
    fn trim(number: &[u8]) -> &[u8] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.get(zeros..).unwrap_or_default()
    }
    let (body, _) = tlv(pkcs1, 0x30)?;
    let (n, rest) = tlv(body, 0x02)?;
    let (e, _) = tlv(rest, 0x02)?;
    Some((trim(n), trim(e)))
}

/// A token taken apart, not checked yet.
#[derive(Debug)]
pub struct Token<'a> {
    pub header: Value,
    pub claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes a compact token apart; `None` if it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TOKEN_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| -> Option<Value> {
            serde_json::from_slice(&BASE64.decode(part).ok()?).ok()
        };
        let header = json(header)?;
        let claims = json(claims)?;
        Some(Self { header, claims, signed, signature: BASE64.decode(signature).ok()? })
    }

    /// Whether one of the keys signed it. A key id in the header picks among the keys.
    pub fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        let algorithm = self.header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let id = self.header.get("kid").and_then(Value::as_str).unwrap_or_default();
        keys.iter()
            .filter(|key| key.algorithm.name() == algorithm && (id.is_empty() || key.id == id))
            .any(|key| key.verify(self.signed.as_bytes(), &self.signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ec() -> SigningKey {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        SigningKey::from_pem(key.serialize_pem().as_bytes()).expect("reads")
    }

    #[test]
    fn a_signed_token_is_accepted_and_a_changed_one_is_not() {
        let key = ec();
        let token = key.sign(&json!({"sub": "me"})).expect("signs");
        let keys = [key.public().clone()];
        let parsed = Token::parse(&token).expect("parses");
        assert_eq!(parsed.claims["sub"], "me");
        assert!(parsed.is_signed_by(&keys));
        assert!(!parsed.is_signed_by(&[ec().public().clone()]));
        let forged = BASE64.encode(json!({"sub": "you"}).to_string());
        let parts: Vec<&str> = token.split('.').collect();
        let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
        assert!(!Token::parse(&forged).expect("parses").is_signed_by(&keys));
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let none = format!("{none}.{}.", parts[1]);
        assert!(!Token::parse(&none).expect("parses").is_signed_by(&keys));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in ["", "a", "a.b", "a.b.c", "....", "e30.e30.!"] {
            assert!(Token::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_public_half_is_found_in_every_form() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let private = PublicKey::all_from_pem(pair.serialize_pem().as_bytes()).expect("reads");
        let public = PublicKey::all_from_pem(pair.public_key_pem().as_bytes()).expect("reads");
        assert_eq!(private, public);
        assert_eq!(public[0].jwk()["crv"], "P-256");
        assert!(PublicKey::all_from_pem(b"nothing").is_err());
    }

    #[test]
    fn der_lengths_read_back() {
        for length in [0, 1, 127, 128, 300, 70_000] {
            let bytes = vec![7; length];
            let encoded = der(0x04, &bytes);
            assert_eq!(tlv(&encoded, 0x04), Some((bytes.as_slice(), &[][..])));
        }
    }
}
