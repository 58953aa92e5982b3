//! Says on the Node, in k3s' events, when certificates need somebody: leafs whose renewal is overdue,
//! authorities that end within a year.
//!
//! Invariant: it only looks. A certificate that renews itself in time is never spoken of.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use client::{EventType, ObjectReference};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::check::{Line, Verdict, lines, verdict};
use super::{Place, SERVICES};
use crate::settings::Node;

/// As often as k3s, so that the event is there as long as its reason.
const LOOK_SECS: i64 = 1800;
/// An authority is replaced by people, who need time.
const AUTHORITY_SECS: i64 = 365 * 24 * 3600;
const AUTHORITIES: &[&str] = &["server-ca", "client-ca", "request-header-ca"];

/// What there is to say.
#[derive(Debug, PartialEq)]
struct Finding {
    kind: EventType,
    reason: &'static str,
    message: String,
}

/// Looks at this node's certificates again and again, until stopped. To be started when the API
/// answers, or the first event may be lost.
pub(crate) async fn watch(stop: CancellationToken, node: Node) -> Result<()> {
    let client = client::connect(&node.paths.agent("kubelet.kubeconfig")).await?;
    let (recorder, sink) = client::recorder(client, "k3s-cert-monitor", &node.name);
    let mut tasks = JoinSet::new();
    tasks.spawn(sink.run(stop.clone()));
    // The kubelet's way to speak of its Node: its name for its uid.
    let about = ObjectReference {
        kind: "Node".to_owned(),
        name: node.name.clone(),
        uid: node.name.clone(),
        ..ObjectReference::default()
    };
    let mut first = true;
    loop {
        let (leafs, authorities) = look(&node)?;
        let now = Timestamp::now().as_second();
        let mut found = findings(&leafs, &authorities, now);
        if std::mem::take(&mut first) && found.is_empty() {
            found.push(Finding {
                kind: EventType::Normal,
                reason: "CertificateExpirationOK",
                message: "Node and Certificate Authority certificates managed by k3s are OK".into(),
            });
        }
        for Finding { kind, reason, message } in found {
            if kind == EventType::Warning {
                warn!(node = node.name, reason, message, "Certificates need attention");
            }
            recorder.event(&about, kind, reason, message);
        }
        let wait = wait_secs(&leafs, now);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
        }
    }
    tasks.shutdown().await;
    Ok(())
}

/// The leafs of this node, and the authorities if they are kept here.
fn look(node: &Node) -> Result<(Vec<Line>, Vec<Line>)> {
    let mut leafs = lines(&node.paths, SERVICES)?;
    // Behind a leaf comes the authority that signed it.
    leafs.dedup_by(|next, line| next.path == line.path);
    let mut authorities = Vec::new();
    for stem in AUTHORITIES {
        let path = Place::Server.of(&node.paths, stem).with_extension("crt");
        authorities.extend(Line::all("certificate-authority", &path)?);
    }
    Ok((leafs, authorities))
}

fn findings(leafs: &[Line], authorities: &[Line], now: i64) -> Vec<Finding> {
    let due = |line: &&Line| verdict(&line.certificate, now) != Verdict::Ok;
    let ending = |line: &&Line| line.certificate.not_after - now < AUTHORITY_SECS;
    let warning = |reason, what: &str, lines: Vec<&Line>| {
        let lines: Vec<String> = lines.iter().map(|line| sentence(line, now)).collect();
        (!lines.is_empty()).then(|| Finding {
            kind: EventType::Warning,
            reason,
            message: format!("{what}: {}", lines.join("\n")),
        })
    };
    let leafs = warning(
        "CertificateExpirationWarning",
        "Node certificates require attention - run k3s certificate rotate on this node",
        leafs.iter().filter(due).collect(),
    );
    let authorities = warning(
        "CACertificateExpirationWarning",
        "Certificate Authority certificates require attention - plan their rotation by k3s certificate rotate-ca",
        authorities.iter().filter(ending).collect(),
    );
    leafs.into_iter().chain(authorities).collect()
}

fn sentence(line: &Line, now: i64) -> String {
    let name = line.path.file_name().map(Path::new).unwrap_or(&line.path).display();
    format!("{}/{name}: {}", line.service, line.sentence(now))
}

/// Until the next leaf that is not renewed would be overdue or over, if that is sooner.
fn wait_secs(leafs: &[Line], now: i64) -> u64 {
    let moments = leafs.iter().flat_map(|line| line.moments());
    let next = moments.filter(|at| *at > now).min().unwrap_or(i64::MAX);
    (next.saturating_sub(now)).saturating_add(1).clamp(1, LOOK_SECS).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use pki::Certificate;

    use super::*;

    fn line(service: &'static str, from: i64, to: i64) -> Line {
        let certificate = Certificate {
            subject: "CN=x".into(),
            common_name: "x".into(),
            usages: Vec::new(),
            not_before: from,
            not_after: to,
            renew_at: from + (to - from) * 2 / 3,
        };
        Line { service, path: "/tls/x.crt".into(), certificate }
    }

    #[test]
    fn only_what_is_overdue_is_spoken_of() {
        let check = |life: i64, authority: i64, now: i64, reasons: &[&str]| {
            let (leaf, authority) = (line("kubelet", 0, life), line("ca", 0, authority));
            let found = findings(&[leaf], &[authority], now);
            let have: Vec<_> = found.iter().map(|finding| finding.reason).collect();
            assert_eq!(have, reasons, "{found:?}");
        };
        let decade = 10 * AUTHORITY_SECS;
        check(24, decade, 10, &[]);
        // Renewal is due, and has as much time again as it may need.
        check(24, decade, 17, &[]);
        check(24, decade, 21, &["CertificateExpirationWarning"]);
        check(24, decade, 30, &["CertificateExpirationWarning"]);
        check(24, AUTHORITY_SECS, 10, &["CACertificateExpirationWarning"]);
    }

    #[test]
    fn it_looks_when_a_leaf_would_be_overdue() {
        assert_eq!(wait_secs(&[line("kubelet", 0, 24)], 0), 21);
        assert_eq!(wait_secs(&[line("kubelet", 0, 24)], 21), 4);
        assert_eq!(wait_secs(&[line("kubelet", 0, 24)], 40), LOOK_SECS.unsigned_abs());
        assert_eq!(wait_secs(&[line("kubelet", 0, 365 * 86400)], 0), LOOK_SECS.unsigned_abs());
    }
}
