//! Join tokens in k3s' forms: `K10<hash of the CA>::<user>:<password>` and, for bootstrap tokens,
//! `K10<hash of the CA>::<id>.<secret>`; the short forms leave the hash out.
//!
//! Invariant: a token that says which CA it is for is never used with another one.

use std::fmt::Write;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

const PREFIX: &str = "K10";
/// Lengths of the parts of a bootstrap token.
const ID: usize = 6;
const SECRET: usize = 16;

/// What an agent shows to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Basic authentication; the user is empty when the token does not name one.
    Password { user: String, password: String },
    /// A bootstrap token, `<id>.<secret>`.
    Bootstrap(String),
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What [`ca_hash`] gives for the cluster's CA; `None` in the short form.
    pub ca_hash: Option<String>,
    pub credentials: Credentials,
}

impl Token {
    /// Reads a token of any form.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it is a secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let (ca_hash, rest) = match text.strip_prefix(PREFIX) {
            Some(secure) => match secure.split_once("::") {
                Some((hash, rest)) if hash.len() == 64 => (Some(hash.to_ascii_lowercase()), rest),
                Some(_) => return Err("the hash of the CA after K10 must have 64 digits"),
                None => return Err("a token that starts with K10 must have :: in it"),
            },
            None => (None, text),
        };
        if is_bootstrap(rest) {
            return Ok(Self { ca_hash, credentials: Credentials::Bootstrap(rest.to_owned()) });
        }
        let (user, password) = match (rest.split_once(':'), &ca_hash) {
            (Some((user, password)), _) => (user, password),
            (None, None) => ("", rest),
            (None, Some(_)) => return Err("after :: there must be user:password or id.secret"),
        };
        if password.is_empty() {
            return Err("the password is empty");
        }
        let (user, password) = (user.to_owned(), password.to_owned());
        Ok(Self { ca_hash, credentials: Credentials::Password { user, password } })
    }
}

/// The secure form of a token with a user and a password, for this CA bundle (PEM as on disk).
pub fn secure(ca_pem: &str, user: &str, password: &str) -> String {
    secure_form(ca_pem, &format!("{user}:{password}"))
}

/// The secure form for any credentials.
pub fn secure_form(ca_pem: &str, credentials: &str) -> String {
    format!("{PREFIX}{}::{credentials}", ca_hash(ca_pem))
}

/// What the secure form says of a CA bundle: the hash of the file for a single certificate, the
/// hash of the root for a chain, so that intermediates may change.
pub fn ca_hash(ca_pem: &str) -> String {
    let blocks: Vec<_> =
        x509_parser::pem::Pem::iter_from_buffer(ca_pem.as_bytes()).filter_map(Result::ok).collect();
    let root = blocks.iter().rfind(|block| {
        block.parse_x509().is_ok_and(|cert| cert.issuer().as_raw() == cert.subject().as_raw())
    });
    let hashed = match root {
        Some(root) if blocks.len() > 1 => &root.contents,
        _ => ca_pem.as_bytes(),
    };
    hex(digest::digest(&digest::SHA256, hashed).as_ref())
}

/// The password inside a token of any form: `K10…::user:password`, `user:password` or a bare one.
pub fn password(token: &str) -> &str {
    let credentials = match token.strip_prefix(PREFIX) {
        Some(rest) => rest.split_once("::").map_or(rest, |(_, credentials)| credentials),
        None => token,
    };
    credentials.split_once(':').map_or(credentials, |(_, password)| password)
}

/// Whether this is `<id>.<secret>` of a bootstrap token.
pub fn is_bootstrap(text: &str) -> bool {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split_once('.').is_some_and(|(id, secret)| {
        id.len() == ID && secret.len() == SECRET && plain(id) && plain(secret)
    })
}

/// A new bootstrap token, `<id>.<secret>`.
///
/// # Errors
/// When the kernel's random source fails.
pub fn random_bootstrap() -> anyhow::Result<String> {
    // 32 letters and digits: five bits of every random byte choose one, all equally likely.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut buffer = [0; ID + SECRET];
    fill(&mut buffer)?;
    let text: String =
        buffer.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect();
    let (id, secret) = text.split_at(ID);
    Ok(format!("{id}.{secret}"))
}

/// `bytes` random bytes in hex.
///
/// # Errors
/// When the kernel's random source fails.
pub fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut buffer = vec![0; bytes];
    fill(&mut buffer)?;
    Ok(hex(&buffer))
}

fn fill(buffer: &mut [u8]) -> anyhow::Result<()> {
    SystemRandom::new()
        .fill(buffer)
        .map_err(|_| anyhow::anyhow!("the kernel's random source failed"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn check(text: &str, expected: Result<(Option<&str>, &str), &str>) {
        let got = Token::parse(text).map(|token| {
            let credentials = match token.credentials {
                Credentials::Password { user, password } => format!("{user}:{password}"),
                Credentials::Bootstrap(token) => token,
            };
            (token.ca_hash, credentials)
        });
        let expected =
            expected.map(|(hash, credentials)| (hash.map(str::to_owned), credentials.to_owned()));
        match (got, expected) {
            (Err(got), Err(expected)) => assert!(got.contains(expected), "{text}: {got}"),
            (got, expected) => assert_eq!(got, expected, "{text}"),
        }
    }

    #[test]
    fn tokens_are_read_in_every_form() {
        check("secret\n", Ok((None, ":secret")));
        check("server:se:cret", Ok((None, "server:se:cret")));
        check("abcdef.0123456789abcdef", Ok((None, "abcdef.0123456789abcdef")));
        check(&format!("K10{HASH}::server:pw"), Ok((Some(HASH), "server:pw")));
        check(
            &format!("K10{HASH}::abcdef.0123456789abcdef"),
            Ok((Some(HASH), "abcdef.0123456789abcdef")),
        );
        check("K10abc::server:pw", Err("64 digits"));
        check("K10secret", Err("::"));
        check(&format!("K10{HASH}::secret"), Err("user:password"));
        check("", Err("empty"));
        check("server:", Err("empty"));
    }

    #[test]
    fn the_password_is_found_in_every_form() {
        for (token, expected) in [
            ("secret", "secret"),
            ("server:secret", "secret"),
            ("K10abcdef::server:secret", "secret"),
            ("K10abcdef::node:se:cret", "se:cret"),
        ] {
            assert_eq!(password(token), expected, "{token}");
        }
    }

    #[test]
    fn a_secure_token_carries_the_hash_of_the_ca() {
        assert_eq!(secure("abc", "server", "pw"), format!("K10{HASH}::server:pw"));
    }

    #[test]
    fn new_bootstrap_tokens_are_bootstrap_tokens() {
        let one = random_bootstrap().unwrap();
        assert!(is_bootstrap(&one), "{one}");
        assert_ne!(one, random_bootstrap().unwrap());
        for bad in ["abcdef", "abcdef.short", "ABCDEF.0123456789abcdef", "abcdef-0123456789abcdef"]
        {
            assert!(!is_bootstrap(bad), "{bad}");
        }
    }
}
