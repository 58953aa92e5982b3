//! `k3s certificate rotate-ca`: puts new authorities in force.
//!
//! The key of service account tokens is replaced along with them, as in k3s.
//!
//! Invariant: nothing is written before every new file has been checked; without `--force`, who
//! trusts the old authorities also trusts what the new ones sign, and the other way round.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use daemon::ConfigError;
use pki::Authority;
use pki::jwt::{PublicKey, SigningKey};

use super::{authority_files, back_up};
use crate::settings::Paths;

const AUTHORITIES: [&str; 3] = ["server-ca", "client-ca", "request-header-ca"];

/// The file of the keys of service account tokens: the first signs, all are good for checking.
const TOKEN_KEYS: &str = "service.key";

/// One authority to be put in force.
struct New {
    name: &'static str,
    cert: String,
    key: String,
}

/// Checks the authorities in `from` (laid out as `server`, with its `tls` folder) and installs them.
pub(super) fn rotate(paths: &Paths, from: &Path, force: bool, now: i64) -> Result<()> {
    let tls = from.join("tls");
    let from = if tls.is_dir() { tls } else { from.to_owned() };
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for name in AUTHORITIES {
        match read(paths, &from, name, force) {
            Ok(found) => all.extend(found),
            Err(err) => problems.push(format!("{name}: {err:#}")),
        }
    }
    let token_keys = token_keys(paths, &from, force).unwrap_or_else(|err| {
        problems.push(format!("{TOKEN_KEYS}: {err:#}"));
        None
    });
    if !problems.is_empty() {
        return Err(ConfigError(problems.join("\n")).into());
    }
    if all.is_empty() && token_keys.is_none() {
        return Err(ConfigError(format!(
            "--path: {} has none of {}, {TOKEN_KEYS}",
            from.display(),
            AUTHORITIES.map(|name| format!("{name}.crt")).join(", ")
        ))
        .into());
    }
    back_up(paths, now)?;
    let new_authorities = !all.is_empty();
    for New { name, cert, key } in all {
        let (cert_path, key_path) = authority_files(paths, name);
        pki::write_atomic(&key_path, key.as_bytes(), 0o600)?;
        pki::write_atomic(&cert_path, cert.as_bytes(), 0o644)?;
        println!("{name}: in force");
    }
    if let Some(keys) = token_keys {
        pki::write_atomic(&paths.tls(TOKEN_KEYS), keys.as_bytes(), 0o600)?;
        println!("{TOKEN_KEYS}: in force");
    }
    println!("A server that runs issues new certificates now, another at its next start.");
    if force && new_authorities {
        println!("Other nodes must join again with the token in server/token.");
    }
    Ok(())
}

/// One new authority; `None` when the folder has none of this name, so the present one stays.
fn read(paths: &Paths, from: &Path, name: &'static str, force: bool) -> Result<Option<New>> {
    let file = |ending: &str| from.join(name).with_extension(ending);
    let (cert_path, key_path) = (file("crt"), file("key"));
    if !cert_path.exists() && !key_path.exists() {
        return Ok(None);
    }
    // Proves that the key belongs to the first certificate.
    Authority::open(&cert_path, &key_path)?;
    let (cert, key) = (text(&cert_path)?, text(&key_path)?);
    let is_authority =
        pki::inspect(&cert)?.first().is_some_and(|it| it.usages.contains(&"CertSign"));
    if !is_authority {
        bail!("{} may not sign certificates", cert_path.display());
    }
    let present = text(&authority_files(paths, name).0)?;
    if force {
        return Ok(Some(New { name, cert, key }));
    }
    if !pki::continues(&present, &cert)? {
        bail!(
            "{} does not lead to an authority in force: have it signed by the present one or its \
             root, or give --force and join every node again",
            cert_path.display()
        );
    }
    // Leafs of the old authority stay good until they are renewed.
    let cert = union(&cert, &present);
    Ok(Some(New { name, cert, key }))
}

/// New keys of service account tokens, in front of those in force, whose tokens stay good; with
/// `force` instead of them. `None` when the folder has none, so the present ones stay.
fn token_keys(paths: &Paths, from: &Path, force: bool) -> Result<Option<String>> {
    let path = from.join(TOKEN_KEYS);
    if !path.exists() {
        return Ok(None);
    }
    SigningKey::load(&path)?;
    PublicKey::load_all(&path)?;
    let new = text(&path)?;
    if force {
        return Ok(Some(new));
    }
    Ok(Some(union(&new, &text(&paths.tls(TOKEN_KEYS))?)))
}

/// The PEM sections of both texts, each once, those of `first` first.
fn union(first: &str, second: &str) -> String {
    let mut sections: Vec<&str> = Vec::new();
    for mut text in [first, second] {
        while let Some((section, rest)) = next_section(text) {
            if !sections.contains(&section) {
                sections.push(section);
            }
            text = rest;
        }
    }
    sections.iter().map(|section| format!("{section}\n")).collect()
}

/// The first PEM section of a text, and what follows it.
fn next_section(text: &str) -> Option<(&str, &str)> {
    let begin = text.find("-----BEGIN ")?;
    let text = &text[begin..];
    let end = text.find("-----END ")?;
    let tail = &text[end + "-----END ".len()..];
    let end = text.len() - tail.len() + tail.find("-----")? + "-----".len();
    Some((&text[..end], &text[end..]))
}

fn text(path: &PathBuf) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_joined_without_repetition() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let two = "-----BEGIN CERTIFICATE-----\nBB\n-----END CERTIFICATE-----\n";
        let commented = format!("a comment\n{two}");
        assert_eq!(union(one, two), format!("{one}{two}"));
        assert_eq!(union(&format!("{one}{two}"), two), format!("{one}{two}"));
        assert_eq!(union(&commented, one), format!("{two}{one}"));
        let key = "-----BEGIN EC PRIVATE KEY-----\nCC\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(union(key, one), format!("{key}{one}"));
    }
}
