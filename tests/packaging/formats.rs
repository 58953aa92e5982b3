//! The packages themselves: lintian and rpmlint find nothing, and an .apk is what Alpine's apk reads.
//!
//! Invariant: Debian has no apk, so [`apk`] checks all that apk itself checks: the three streams,
//! the signature, the identity in the index, the data's hash, and a checksum in every file's header.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Report, base};
use crate::cluster::run as run_command;

/// The checksum record of a file's PAX header.
const CHECKSUM: &str = "APK-TOOLS.checksum.SHA1=";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let folder = base::target().join("packages");
    report.step("lintian finds nothing", || {
        let found = run_command(Command::new("lintian").args(packages(&folder, "-#_amd64.deb")?));
        quiet("lintian", found.unwrap_or_else(|err| err.to_string()))
    })?;
    report.step("rpmlint finds nothing", || {
        let mut rpmlint = Command::new("rpmlint");
        rpmlint
            .args(["-c", "packaging/build.d/rpmlint.toml"])
            .args(packages(&folder, "-#.x86_64.rpm")?);
        let found = run_command(&mut rpmlint)?;
        ensure!(found.contains(" 0 errors, 0 warnings"), "{found}");
        Ok(())
    })?;
    report.step("every apk is well-formed and signed", || {
        let key = folder.join("k3s.rsa.pub");
        let index = folder.join("repo/apk").join(std::env::consts::ARCH).join("APKINDEX.tar.gz");
        let [signature, listed] = &streams(&fs::read(&index)?)?[..] else {
            bail!("the index has not two streams")
        };
        signed(signature, &listed.packed, &key)?;
        let listed = String::from_utf8(member(&listed.plain, "APKINDEX")?.1)?;
        for path in packages(&folder, "-r#.apk")? {
            apk(&path, &key, &listed).with_context(|| path.clone())?;
        }
        Ok(())
    })
}

/// The packages of the newest revision, which the repositories list.
fn packages(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let [_, revision] = base::REVISIONS;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path().display().to_string();
        if path.ends_with(&ending.replace('#', revision)) {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "no {ending} in {}", folder.display());
    Ok(found)
}

/// Fails with the lines that say something.
fn quiet(name: &str, found: String) -> Result<()> {
    let said: Vec<&str> = found
        .lines()
        .filter(|line| [": E: ", ": W: ", "E: ", "W: "].iter().any(|mark| line.starts_with(mark)))
        .collect();
    ensure!(said.is_empty(), "{name}:\n{}", said.join("\n"));
    Ok(())
}

/// One gzip stream of an apk: as it lies in the file, and unpacked.
struct Stream {
    packed: Vec<u8>,
    plain: Vec<u8>,
}

fn streams(bytes: &[u8]) -> Result<Vec<Stream>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let begun = rest;
        let mut plain = Vec::new();
        flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut plain)?;
        let packed = begun[..begun.len() - rest.len()].to_vec();
        found.push(Stream { packed, plain });
    }
    Ok(found)
}

/// A file of an archive that may lack its end.
fn member(archive: &[u8], name: &str) -> Result<(String, Vec<u8>)> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        if path.starts_with(name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok((path, content));
        }
    }
    bail!("no {name} in the archive")
}

/// The signature in the first stream is that of the second one's bytes, by the key it names.
fn signed(signature: &Stream, over: &[u8], key: &Path) -> Result<()> {
    let (name, content) = member(&signature.plain, ".SIGN.RSA.")?;
    let named = key.file_name().unwrap_or_default().to_string_lossy();
    ensure!(name == format!(".SIGN.RSA.{named}"), "the signature is {name}");
    ensure!(
        signature.plain.len().is_multiple_of(512) && !ends(&signature.plain),
        "the signature ends an archive"
    );
    let file = key.with_extension("signature");
    fs::write(&file, content)?;
    let verified = piped(
        Command::new("openssl")
            .args(["dgst", "-sha1", "-verify"])
            .arg(key)
            .arg("-signature")
            .arg(&file),
        over,
    );
    fs::remove_file(file)?;
    verified.map(drop).context("the signature is wrong")
}

fn ends(archive: &[u8]) -> bool {
    archive.ends_with(&[0; 1024])
}

fn apk(path: &str, key: &Path, index: &str) -> Result<()> {
    let bytes = fs::read(path)?;
    let [signature, control, data] = &streams(&bytes)?[..] else { bail!("not three streams") };
    signed(signature, &control.packed, key)?;
    ensure!(!ends(&control.plain), "the control files end an archive");
    ensure!(ends(&data.plain), "the data does not end the archive");
    let info = String::from_utf8(member(&control.plain, ".PKGINFO")?.1)?;
    let fact = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
        line.with_context(|| format!("no {name} in .PKGINFO"))
    };
    let (name, version) = (fact("pkgname")?, fact("pkgver")?);
    ensure!(path.ends_with(&format!("/{name}-{version}.apk")), "it is {name}-{version}");
    ensure!(fact("arch")? == std::env::consts::ARCH);
    ensure!(fact("datahash")? == digest("-sha256", &data.packed)?, "wrong datahash");
    let mut archive = tar::Archive::new(&data.plain[..]);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        ensure!(!path.starts_with(['/', '.']), "{path} is not below the root");
        let header = entry.header();
        ensure!(header.uid()? == 0 && header.gid()? == 0, "{path} is not root's");
        let extensions = entry.pax_extensions()?;
        let mut records = Vec::new();
        for record in extensions.into_iter().flatten() {
            let record = record?;
            records.push(format!("{}={}", record.key()?, record.value()?));
        }
        let said = records.iter().find_map(|record| record.strip_prefix(CHECKSUM));
        let mut content = Vec::new();
        match entry.link_name()? {
            Some(target) => content.extend(target.display().to_string().into_bytes()),
            None => drop(entry.read_to_end(&mut content)?),
        }
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let found = digest("-sha1", &content)?;
        ensure!(said == Some(found.as_str()), "{path}: its checksum is {found}, not {records:?}");
    }
    // The index knows the package by the hash of its control files.
    let identity = piped(
        Command::new("sh").args(["-c", "openssl dgst -sha1 -binary | base64"]),
        &control.packed,
    )?;
    let entry =
        index.split("\n\n").find(|entry| entry.contains(&format!("P:{name}\nV:{version}\n")));
    let entry = entry.context("the index does not have it")?;
    ensure!(
        entry.contains(&format!("C:Q1{}\n", identity.trim())),
        "the index has another identity"
    );
    ensure!(entry.contains(&format!("S:{}\n", bytes.len())), "the index has another size");
    Ok(())
}

fn digest(kind: &str, bytes: &[u8]) -> Result<String> {
    let text = piped(Command::new("openssl").args(["dgst", kind, "-r"]), bytes)?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// Runs a command with bytes on its standard input; returns what it printed.
fn piped(command: &mut Command, bytes: &[u8]) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
