//! What a publisher relies on: the same executable gives the same packages, and signatures that apt
//! and rpm accept, and refuse once something was changed.
//!
//! Invariant: keys, keyrings and apt's state are made here for the test and go with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Report, base};
use crate::cluster::run as run_command;

const KEY: &str = "k3s-test@example.invalid";
/// Which executable is packed makes no difference, but to the time it takes.
const EXECUTABLE: &str = "/bin/true";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let folder = base::target().join("machines/publish");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let published = publish(report, &folder);
    if std::env::var_os("K3S_KEEP").is_none() {
        fs::remove_dir_all(&folder)?;
    }
    published
}

fn publish(report: &mut Report, folder: &Path) -> Result<()> {
    report.step("two builds of one executable are the same, bit by bit", || {
        let builds = ["first", "second"].map(|name| folder.join(name));
        for build in &builds {
            let said = build_packages(build, &[])?;
            for part in ["rpm packages are", "the apt repository is", "the dnf repository is"] {
                ensure!(said.contains(&format!("{part} unsigned")), "it does not say: {said}");
            }
        }
        let [first, second] = builds.map(|build| digests(&build));
        let (first, second) = (first?, second?);
        ensure!(first.len() > 20, "only {} files", first.len());
        let other: Vec<&String> =
            first.keys().filter(|name| first.get(*name) != second.get(*name)).collect();
        ensure!(first.len() == second.len() && other.is_empty(), "these differ: {other:?}");
        Ok(())
    })?;
    let signed = folder.join("signed");
    report.step("packages are signed with the key that is given", || {
        let home = folder.join("gnupg");
        run_command(Command::new("install").args(["-d", "-m", "0700"]).arg(&home))?;
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", &home).args(["--batch", "--quiet", "--passphrase", ""]);
        run_command(gpg.args(["--quick-generate-key", KEY, "rsa3072", "sign", "never"]))?;
        let home = home.display().to_string();
        let said = build_packages(&signed, &[("GNUPGHOME", &home), ("K3S_GPG_KEY", KEY)])?;
        ensure!(!said.contains("unsigned"), "{said}");
        run_command(
            Command::new("gpg").env("GNUPGHOME", &home).arg("--verify").args(
                ["repomd.xml.asc", "repomd.xml"]
                    .map(|name| signed.join("repo/dnf/repodata").join(name)),
            ),
        )
        .map(drop)
    })?;
    report.step("apt takes packages from the signed repository", || {
        let apt = Apt::new(&folder.join("apt"), &signed.join("repo/apt"))?;
        apt.run("apt-get", &["update"])?;
        let policy = apt.run("apt-cache", &["policy", "k3s-server"])?;
        ensure!(policy.contains("Candidate: 1."), "{policy}");
        Ok(())
    })?;
    report.step("apt refuses what was changed or is not signed", || {
        let release = signed.join("repo/apt/dists/stable/InRelease");
        let packages =
            signed.join(format!("repo/apt/dists/stable/main/binary-{}/Packages", architecture()?));
        for (file, reason) in [(&release, "BADSIG"), (&packages, "Hash Sum mismatch")] {
            let original = fs::read_to_string(file)?;
            // The compressed list says the same and would do instead.
            let compressed = file.with_extension("gz");
            let kept = fs::read(&compressed).ok();
            fs::remove_file(&compressed).ok();
            fs::write(file, original.replacen("k3s", "k4s", 1))?;
            let apt = Apt::new(&folder.join("apt-tampered"), &signed.join("repo/apt"))?;
            let refused = apt.refuses()?;
            ensure!(refused.contains(reason), "{}: {refused}", file.display());
            fs::write(file, original)?;
            if let Some(kept) = kept {
                fs::write(compressed, kept)?;
            }
        }
        let unsigned = folder.join("first/repo/apt");
        let keyring = "k3s-archive-keyring.gpg";
        fs::copy(signed.join("repo/apt").join(keyring), unsigned.join(keyring))?;
        let refused = Apt::new(&folder.join("apt-unsigned"), &unsigned)?.refuses()?;
        ensure!(refused.contains("is not signed"), "{refused}");
        Ok(())
    })?;
    report.step("rpm knows the signature, and a changed package by it", || {
        let database = folder.join("rpm");
        fs::create_dir_all(&database)?;
        let rpmkeys = |args: &[&Path]| {
            run_command(Command::new("rpmkeys").arg("--dbpath").arg(&database).args(args))
        };
        rpmkeys(&[Path::new("--import"), &signed.join("repo/dnf/RPM-GPG-KEY-k3s")])?;
        let package = file_named(&signed, "k3s-server-", ".rpm")?;
        let found = rpmkeys(&[Path::new("--checksig"), &package])?;
        ensure!(found.contains("digests signatures OK"), "{found}");
        let mut bytes = fs::read(&package)?;
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        let changed = folder.join("changed.rpm");
        fs::write(&changed, bytes)?;
        ensure!(
            rpmkeys(&[Path::new("--checksig"), &changed]).is_err(),
            "rpm takes a changed package"
        );
        Ok(())
    })
}

/// Runs `packaging/build`; returns what it said.
fn build_packages(folder: &Path, env: &[(&str, &str)]) -> Result<String> {
    let mut build = Command::new("sh");
    build
        .args(["-c", "exec packaging/build 2>&1"])
        .env("K3S_PROFILE", "dev")
        .env("K3S_EXECUTABLE", EXECUTABLE)
        .env("K3S_PACKAGES", folder)
        .env("K3S_APK_KEY", base::target().join("packages/keys/k3s.rsa"))
        .env_remove("K3S_GPG_KEY")
        .envs(env.iter().copied());
    run_command(&mut build)
}

/// The digest of every file by its path.
fn digests(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut find = Command::new("find");
    find.current_dir(folder).args([".", "-type", "f", "-exec", "sha256sum", "{}", "+"]);
    let found = run_command(&mut find)?;
    Ok(found
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
        .collect())
}

fn architecture() -> Result<String> {
    Ok(run_command(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

fn file_named(folder: &Path, begins: &str, ends: &str) -> Result<PathBuf> {
    let found = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(begins) && name.ends_with(ends)
    });
    found.with_context(|| format!("no {begins}*{ends} in {}", folder.display()))
}

/// apt with a state of its own and one repository.
struct Apt(Vec<String>);

impl Apt {
    fn new(state: &Path, repository: &Path) -> Result<Self> {
        if state.exists() {
            fs::remove_dir_all(state)?;
        }
        fs::create_dir_all(state.join("lists/partial"))?;
        let at = repository.display();
        let source =
            format!("deb [signed-by={at}/k3s-archive-keyring.gpg] file:{at} stable main\n");
        fs::write(state.join("sources.list"), source)?;
        let state = state.display();
        let options = [
            format!("Dir::State={state}"),
            format!("Dir::State::Lists={state}/lists"),
            format!("Dir::Cache={state}/cache"),
            format!("Dir::Etc::SourceList={state}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        Ok(Self(options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        run_command(command.env("LC_ALL", "C").args(&self.0).args(args))
    }

    /// Why an update fails.
    fn refuses(&self) -> Result<String> {
        match self.run("apt-get", &["update"]) {
            Ok(said) => anyhow::bail!("apt takes it: {said}"),
            Err(err) => Ok(err.to_string()),
        }
    }
}
