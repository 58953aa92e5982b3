//! `k3s certificate rotate-ca`: puts new authorities in force.
//!
//! Invariant: nothing is written before every new file has been checked; without `--force`, who
//! trusts the old authorities also trusts what the new ones sign, and the other way round.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use daemon::ConfigError;
use pki::Authority;

use super::{authority_files, back_up};
use crate::settings::Paths;

const AUTHORITIES: [&str; 3] = ["server-ca", "client-ca", "request-header-ca"];

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
    if from.join("service.key").exists() {
        problems.push(format!(
            "{}: the key of service account tokens cannot be replaced yet; take it out",
            from.join("service.key").display()
        ));
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems.join("\n")).into());
    }
    if all.is_empty() {
        return Err(ConfigError(format!(
            "--path: {} has none of {}",
            from.display(),
            AUTHORITIES.map(|name| format!("{name}.crt")).join(", ")
        ))
        .into());
    }
    back_up(paths, now)?;
    for New { name, cert, key } in all {
        let (cert_path, key_path) = authority_files(paths, name);
        pki::write_atomic(&key_path, key.as_bytes(), 0o600)?;
        pki::write_atomic(&cert_path, cert.as_bytes(), 0o644)?;
        println!("{name}: in force");
    }
    println!("A server that runs issues new certificates now, another at its next start.");
    if force {
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

/// The certificates of both texts, each once, those of `first` first.
fn union(first: &str, second: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut blocks: Vec<&str> = Vec::new();
    for text in [first, second] {
        for block in text.split_inclusive(END) {
            let Some(start) = block.find("-----BEGIN CERTIFICATE-----") else { continue };
            let block = &block[start..];
            if block.ends_with(END) && !blocks.contains(&block) {
                blocks.push(block);
            }
        }
    }
    blocks.iter().map(|block| format!("{block}\n")).collect()
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
    }
}
