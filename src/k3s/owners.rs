//! Which files belong to a component's own user, where systemd runs it as one.
//!
//! Invariant: root may read and write all of it, so `k3s server` without systemd needs none of
//! this; it is made so at every start of the role, whoever wrote the files last.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use anyhow::{Context, Result};

/// Below the data folder: what, and whose. A folder is meant with all that is in it.
const OWNED: &[(&str, &str)] = &[
    ("server/db", "k3s-store"),
    ("server/cred/scheduler.kubeconfig", "k3s-scheduler"),
    ("server/tls/client-scheduler.crt", "k3s-scheduler"),
    ("server/tls/client-scheduler.key", "k3s-scheduler"),
    ("agent/dns.kubeconfig", "k3s-dns"),
    ("agent/client-k3s-dns.crt", "k3s-dns"),
    ("agent/client-k3s-dns.key", "k3s-dns"),
    ("agent/kubeproxy.kubeconfig", "k3s-proxy"),
    ("agent/client-kube-proxy.crt", "k3s-proxy"),
    ("agent/client-kube-proxy.key", "k3s-proxy"),
];
/// Folders on the way there: to pass through, not to list.
const PASSED: &[&str] = &["", "server", "server/tls", "server/cred", "agent"];

/// Hands the files below `data` to their users; those of users that do not exist stay root's.
pub(crate) fn hand_over(data: &Path) -> Result<()> {
    let users = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    for folder in PASSED.iter().map(|folder| data.join(folder)).filter(|path| path.is_dir()) {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("opening {} for passage", folder.display()))?;
    }
    // The store may not make its folder itself: the one above is root's.
    let server = data.join("server");
    if server.is_dir() {
        fs::create_dir_all(server.join("db")).context("creating server/db")?;
    }
    for (path, user) in OWNED {
        let path = data.join(path);
        if let Some((uid, gid)) = ids(&users, user) {
            own(&path, uid, gid).with_context(|| format!("giving {} to {user}", path.display()))?;
        }
    }
    Ok(())
}

fn own(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    lchown(path, Some(uid), Some(gid))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

/// A user's ids, from the text of passwd(5).
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nk3s-store:x:998:997::/:/sbin/nologin\n";
        assert_eq!(ids(users, "k3s-store"), Some((998, 997)));
        assert_eq!(ids(users, "k3s"), None);
    }
}
