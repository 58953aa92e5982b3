//! The manifests that come with k3s, written into `<data>/server/manifests` at every start; the
//! controller manager applies that folder.
//!
//! Invariant: a file beside which there is `<file>.skip` is never written, and only our own files are
//! ever removed.

use std::fs;

use anyhow::{Context, Result};
use pki::{Durability, write_with};

use crate::images::PAUSE_IMAGE;
use crate::settings::Server;

/// Name, as `--disable` takes it, and content.
const PACKAGED: &[(&str, &str)] =
    &[("local-storage", include_str!("manifests/local-storage.yaml"))];

/// Writes what is enabled and removes what is not.
pub(crate) fn stage(server: &Server) -> Result<()> {
    let folder = server.node.paths.server("manifests");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for (name, content) in PACKAGED {
        let path = folder.join(format!("{name}.yaml"));
        if server.args.disables(name) {
            match fs::remove_file(&path) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    return Err(err).with_context(|| format!("removing {}", path.display()));
                }
                _ => continue,
            }
        }
        if folder.join(format!("{name}.yaml.skip")).exists() {
            continue;
        }
        let content = filled(server, content);
        if fs::read_to_string(&path).ok().as_deref() != Some(&content) {
            write_with(&path, content.as_bytes(), 0o600, Durability::Derived)?;
        }
    }
    Ok(())
}

/// The content with k3s' variables replaced.
fn filled(server: &Server, content: &str) -> String {
    let storage = server.args.default_local_storage_path.clone();
    let storage = storage.unwrap_or_else(|| server.node.paths.data.join("storage"));
    let pause = server.node.args.pause_image.as_deref().unwrap_or(PAUSE_IMAGE);
    let variables = [
        ("DEFAULT_LOCAL_STORAGE_PATH", storage.display().to_string()),
        ("PAUSE_IMAGE", pause.to_owned()),
        ("CLUSTER_DNS", server.node.cluster_dns.to_string()),
        ("CLUSTER_DOMAIN", server.node.cluster_domain.clone()),
    ];
    variables.into_iter().fold(content.to_owned(), |text, (name, value)| {
        text.replace(&format!("%{{{name}}}%"), &value)
    })
}
