//! k3s' metric of how long the certificates in some folders still last.
//!
//! Invariant: read anew for each scrape, so that it never tells of a certificate that was replaced.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::inspect::inspect_file;

const NAME: &str = "k3s_certificate_expiration_seconds";

/// The metric in Prometheus' text format, one line for each subject and use: that of the certificate
/// which ends first. Empty when there is no certificate.
pub fn expiration_metric<'a>(folders: impl IntoIterator<Item = &'a Path>, now: i64) -> String {
    let mut ends = BTreeMap::<(String, String), i64>::new();
    let files = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter());
    for entry in files.flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "crt") {
            continue;
        }
        // What is no certificate has no end.
        for found in inspect_file(&path).unwrap_or_default() {
            let end = ends.entry((found.subject, found.usages.join(","))).or_insert(i64::MAX);
            *end = found.not_after.min(*end);
        }
    }
    if ends.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "# HELP {NAME} Remaining lifetime in seconds of the certificate, labeled by certificate subject and usages.\n\
         # TYPE {NAME} gauge\n"
    );
    for ((subject, usages), end) in ends {
        let subject = subject.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{NAME}{{subject=\"{subject}\",usages=\"{usages}\"}} {}", end - now);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Leaf};

    #[test]
    fn every_subject_has_the_seconds_of_its_first_end() {
        let folder = std::env::temp_dir().join(format!("k3s-expiration-{}", std::process::id()));
        assert_eq!(expiration_metric([folder.as_path()], 0), "");
        let now = 1_800_000_000;
        let at = |name: &str| folder.join(name);
        let ca = Authority::ensure(&at("ca.crt"), &at("ca.key"), "ca", now).unwrap();
        let leaf = Leaf::client("system:admin", "system:masters");
        for (name, life) in [("a", 300), ("b", 200)] {
            let ca =
                Authority::open(&at("ca.crt"), &at("ca.key")).unwrap().with_leaf_lifetime(life);
            let (cert, key) = (at(&format!("{name}.crt")), at(&format!("{name}.key")));
            ca.ensure_leaf(&leaf, &cert, &key, now).unwrap();
        }
        std::fs::write(at("rubbish.crt"), "rubbish").unwrap();
        let text = expiration_metric([folder.as_path()], now + 50);
        let line = format!(
            "{NAME}{{subject=\"CN=system:admin,O=system:masters\",usages=\"ClientAuth\"}} 150\n"
        );
        assert!(text.contains(&line), "{text}");
        assert_eq!(text.lines().count(), 4, "two comments, the authority, the leaf: {text}");
        drop(ca);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
