//! Static pods: manifests in a directory, watched by inotify.
//!
//! Invariant: a pod's uid is the hash of its manifest and node, so an edited manifest is a new pod
//! and an untouched one is recognised after a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::labels::{CONFIG_HASH, CONFIG_SOURCE, fnv32a};

const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// All static pods by uid, whenever the directory changes.
pub(crate) type Manifests = BTreeMap<String, Arc<Pod>>;

/// Watches the directory and sends what is in it, first at once and then after every change.
pub(crate) async fn watch(
    dir: &Path,
    node: &str,
    pods: mpsc::Sender<Manifests>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let inotify = Inotify::init().context("starting inotify")?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::ATTRIB;
    inotify.watches().add(dir, mask).with_context(|| format!("watching {}", dir.display()))?;
    let mut events = inotify.into_event_stream([0; 4096])?;
    loop {
        if pods.send(read(dir, node)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.next() => match event {
                Some(Ok(_)) => {}
                Some(Err(err)) => return Err(err).context("reading inotify events"),
                None => return Ok(()),
            }
        }
    }
}

fn read(dir: &Path, node: &str) -> Manifests {
    let mut out = Manifests::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) => {
            tracing::warn!(%err, "Manifest directory was not readable, retrying with its next change");
            return out;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        let size = entry.metadata().map(|meta| meta.len()).unwrap_or(u64::MAX);
        let pod = (size <= MANIFEST_BYTES_MAX)
            .then(|| std::fs::read_to_string(&path).ok())
            .flatten()
            .context("is not readable or too large")
            .and_then(|text| parse(&text, &path.to_string_lossy(), node));
        match pod {
            Ok(pod) => {
                out.insert(pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod));
            }
            Err(err) => {
                let err = format!("{err:#}");
                tracing::warn!(%err, "Manifest {} was not a pod, ignoring", path.display());
            }
        }
    }
    out
}

fn parse(text: &str, path: &str, node: &str) -> anyhow::Result<Pod> {
    let value: serde_json::Value = serde_saphyr::from_str(text).context("not YAML")?;
    anyhow::ensure!(value.get("kind").and_then(|kind| kind.as_str()) == Some("Pod"), "not a Pod");
    let mut pod: Pod = serde_json::from_value(value).context("not a valid Pod")?;
    let name = pod.metadata.name.take().filter(|name| !name.is_empty()).context("no name")?;
    let spec = pod.spec.as_mut().context("no spec")?;
    anyhow::ensure!(!spec.containers.is_empty(), "no containers");
    spec.node_name = Some(node.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.tolerations.get_or_insert_default().push(k8s_openapi::api::core::v1::Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Default::default()
    });
    let hash = hash(&format!("{node}\n{path}\n{text}"));
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid.get_or_insert_with(|| hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.to_owned(), hash);
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    pod.status = None;
    Ok(pod)
}

/// 128 bits in hexadecimal, as long as upstream's.
fn hash(text: &str) -> String {
    (0..4_u8).map(|salt| format!("{:08x}", fnv32a(format!("{salt}{text}").as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_named_after_its_node_and_identified_by_its_content() {
        let text = "kind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        let pod = parse(text, "/m/web.yaml", "Node1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node1"));
        let other = parse(&format!("{text}# edited\n"), "/m/web.yaml", "Node1").unwrap();
        assert_ne!(pod.metadata.uid, other.metadata.uid);
        for bad in ["kind: Service", "kind: Pod", "kind: Pod\nmetadata: {name: a}\nspec: {}", ":"] {
            assert!(parse(bad, "/m", "n").is_err(), "{bad}");
        }
    }
}
