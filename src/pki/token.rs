//! Join tokens in k3s' form: `K10<sha256 of the CA file>::<user>:<password>`.

use std::fmt::Write;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

/// The secure form of a token for this CA bundle (PEM as on disk).
pub fn secure(ca_pem: &str, user: &str, password: &str) -> String {
    format!(
        "K10{}::{user}:{password}",
        hex(digest::digest(&digest::SHA256, ca_pem.as_bytes()).as_ref())
    )
}

/// The password inside a token of any form: `K10…::user:password`, `user:password` or a bare one.
pub fn password(token: &str) -> &str {
    let credentials = match token.strip_prefix("K10") {
        Some(rest) => rest.split_once("::").map_or(rest, |(_, credentials)| credentials),
        None => token,
    };
    credentials.split_once(':').map_or(credentials, |(_, password)| password)
}

/// `bytes` random bytes in hex.
///
/// # Errors
/// When the kernel's random source fails.
pub fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut buffer = vec![0; bytes];
    SystemRandom::new()
        .fill(&mut buffer)
        .map_err(|_| anyhow::anyhow!("the kernel's random source failed"))?;
    Ok(hex(&buffer))
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
        let token = secure("abc", "server", "pw");
        assert_eq!(
            token,
            "K10ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad::server:pw"
        );
    }
}
