//! `k3s certificate`: shows, renews and replaces the certificates of this node.
//!
//! Invariant: the files are the truth. A role that runs notices what is written here, completes it
//! (kubeconfigs, tokens, leafs of a new authority), and its components follow without a restart.

mod authorities;
mod check;
pub(crate) mod monitor;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use daemon::ConfigError;
use jiff::Timestamp;
use pki::Authority;

use crate::cli::CertificateCommand;
use crate::settings::Paths;

/// Where a leaf lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// `server/tls`
    Server,
    /// `agent`
    Agent,
}

/// One leaf: its place, its file without the ending, and the authority that signs it.
struct LeafFile(Place, &'static str, &'static str);

/// k3s' names of services, and the leafs of each.
const SERVICES: &[(&str, &[LeafFile])] = {
    use Place::{Agent, Server};
    &[
        ("admin", &[LeafFile(Server, "client-admin", "client-ca")]),
        (
            "api-server",
            &[
                LeafFile(Server, "client-kube-apiserver", "client-ca"),
                LeafFile(Server, "serving-kube-apiserver", "server-ca"),
            ],
        ),
        ("auth-proxy", &[LeafFile(Server, "client-auth-proxy", "request-header-ca")]),
        ("cloud-controller", &[]),
        ("controller-manager", &[LeafFile(Server, "client-controller", "client-ca")]),
        ("dns", &[LeafFile(Agent, "client-k3s-dns", "client-ca")]),
        ("etcd", &[]),
        ("k3s-controller", &[LeafFile(Agent, "client-k3s-controller", "client-ca")]),
        ("k3s-server", &[]),
        ("kube-proxy", &[LeafFile(Agent, "client-kube-proxy", "client-ca")]),
        (
            "kubelet",
            &[
                LeafFile(Agent, "client-kubelet", "client-ca"),
                LeafFile(Agent, "serving-kubelet", "server-ca"),
            ],
        ),
        ("scheduler", &[LeafFile(Server, "client-scheduler", "client-ca")]),
        ("supervisor", &[LeafFile(Server, "client-supervisor", "client-ca")]),
    ]
};

impl Place {
    fn of(self, paths: &Paths, stem: &str) -> PathBuf {
        match self {
            Place::Server => paths.tls(stem),
            Place::Agent => paths.agent(stem),
        }
    }
}

impl LeafFile {
    fn stem(&self, paths: &Paths) -> PathBuf {
        self.0.of(paths, self.1)
    }

    fn cert(&self, paths: &Paths) -> PathBuf {
        self.stem(paths).with_extension("crt")
    }

    fn key(&self, paths: &Paths) -> PathBuf {
        self.stem(paths).with_extension("key")
    }
}

/// Runs one of the subcommands.
pub(crate) fn run(command: CertificateCommand) -> Result<()> {
    let now = Timestamp::now();
    match command {
        CertificateCommand::Check { tool, service, output } => {
            check::run(&paths(&tool.data_dir()?)?, &chosen(&service)?, &output, now)
        }
        CertificateCommand::Rotate { tool, service } => {
            rotate(&paths(&tool.data_dir()?)?, &chosen(&service)?, now.as_second())
        }
        CertificateCommand::RotateCa { tool, path, force } => {
            authorities::rotate(&paths(&tool.data_dir()?)?, &path, force, now.as_second())
        }
    }
}

fn paths(data: &Path) -> Result<Paths> {
    let paths = Paths { data: data.to_owned() };
    if !paths.tls("").is_dir() && !paths.agent("").is_dir() {
        return Err(ConfigError(format!(
            "{}: no k3s has run on this folder; give its --data-dir",
            data.display()
        ))
        .into());
    }
    Ok(paths)
}

type Service = (&'static str, &'static [LeafFile]);

/// The services named, or all.
fn chosen(names: &[String]) -> Result<Vec<Service>> {
    if names.is_empty() {
        return Ok(SERVICES.to_vec());
    }
    let find = |name: &String| SERVICES.iter().find(|(have, _)| have == name).copied();
    let one = |name| {
        find(name).ok_or_else(|| {
            let known: Vec<_> = SERVICES.iter().map(|(name, _)| *name).collect();
            ConfigError(format!("--service: {name:?} is not known; there are {}", known.join(", ")))
        })
    };
    Ok(names.iter().map(one).collect::<Result<_, _>>()?)
}

/// Gives the leafs of these services new keys and certificates.
fn rotate(paths: &Paths, services: &[Service], now: i64) -> Result<()> {
    let leafs: Vec<(&str, &LeafFile)> = services
        .iter()
        .flat_map(|(name, leafs)| leafs.iter().map(move |leaf| (*name, leaf)))
        .filter(|(_, leaf)| leaf.cert(paths).exists())
        .collect();
    if leafs.is_empty() {
        bail!("none of these services has a certificate on this node");
    }
    back_up(paths, now)?;
    for (service, leaf) in leafs {
        let (cert, key) = (leaf.cert(paths), leaf.key(paths));
        let (ca_cert, ca_key) = authority_files(paths, leaf.2);
        if !ca_key.exists() {
            // An agent: what is missing is fetched from the server, now or at the next start.
            for path in [&cert, &key] {
                fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
            }
            println!("{service}: removed {}; the agent fetches a new one", cert.display());
            continue;
        }
        let pem =
            fs::read_to_string(&cert).with_context(|| format!("reading {}", cert.display()))?;
        let what = pki::leaf_of(&pem).with_context(|| format!("reading {}", cert.display()))?;
        Authority::open(&ca_cert, &ca_key)?.replace_leaf(&what, &cert, &key, now)?;
        println!("{service}: renewed {}", cert.display());
    }
    Ok(())
}

fn authority_files(paths: &Paths, stem: &str) -> (PathBuf, PathBuf) {
    let stem = paths.tls(stem);
    (stem.with_extension("crt"), stem.with_extension("key"))
}

/// Keeps a copy of every certificate and key beside the folder, named after the time.
fn back_up(paths: &Paths, now: i64) -> Result<()> {
    for folder in [paths.tls(""), paths.agent("")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let copy = paths.server(&format!("{name}-{now}"));
        for entry in entries {
            let path = entry.context("listing certificates")?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let mode = match ending {
                Some("crt") => 0o644,
                Some("key") => 0o600,
                _ => continue,
            };
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let name = path.file_name().unwrap_or_default();
            pki::write_atomic(&copy.join(name), &bytes, mode)?;
        }
        if copy.is_dir() {
            println!("Kept the present certificates in {}", copy.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_chosen_by_k3s_names() {
        let all = chosen(&[]).unwrap();
        assert_eq!(all.len(), SERVICES.len());
        let some = chosen(&["kubelet".into(), "admin".into()]).unwrap();
        assert_eq!(some.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["kubelet", "admin"]);
        let err = chosen(&["kubelett".into()]).err().unwrap().to_string();
        assert!(err.contains("kubelett") && err.contains("scheduler"), "{err}");
    }
}
