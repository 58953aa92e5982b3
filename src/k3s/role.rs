//! What a role does with Nodes: the server's label, k3s' annotations, the passwords of Nodes that are
//! gone, and knowing when a Node is Ready.
//!
//! Invariant: level-driven; a Node that is deleted and registers again gets everything again.

use std::path::Path;

use anyhow::Result;
use client::{
    Event, HasMeta, Key, Labels, Meta, PartialObject, Patch, Preconditions, Propagation, Reflector,
    Resource, Rest, Selection,
};
use ring::digest;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::settings::Node;

/// Kubernetes' label of a control-plane node.
const LABEL: &str = "node-role.kubernetes.io/control-plane";
const NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");
const SECRETS: Resource = Resource::namespaced("", "v1", "secrets", "Secret");
/// What stands for a secret.
const MASK: &str = "********";
/// Nodes that may be deleted at once without their passwords waiting for the next start.
const GONE_MAX: usize = 1024;

/// Watches the Node of this name and labels it, until stopped.
pub(crate) async fn keep_label(
    stop: CancellationToken,
    kubeconfig: &Path,
    node: &str,
) -> Result<()> {
    let client = client::connect(kubeconfig).await?;
    let selection = Selection { fields: format!("metadata.name={node}"), ..Selection::default() };
    let reflector: Reflector<PartialObject> = Reflector::metadata(client.clone(), NODES, selection);
    let rest = Rest::new(client);
    let lister = reflector.lister();
    let mut changes = reflector.changes();
    let key = Key::cluster(node);
    let mut watching = std::pin::pin!(reflector.run(stop.clone()));
    loop {
        tokio::select! {
            () = &mut watching => return Ok(()),
            changed = changes.changed() => changed?,
        }
        let unlabelled =
            lister.get(&key).is_some_and(|node| !node.meta().labels.contains_key(LABEL));
        if !unlabelled {
            continue;
        }
        let patch = json!({ "metadata": { "labels": { LABEL: "true" } } });
        let patched: Result<PartialObject, _> =
            rest.patch(&NODES, &key, "", Patch::Merge, &patch).await;
        match patched {
            Ok(_) => info!(node, "Labelled the node as control plane"),
            Err(err) => {
                let err = client::describe(&err);
                warn!(node, err, "Could not label the node, retrying at its next change");
            }
        }
    }
}

/// A Node as far as its being Ready goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReadyNode {
    metadata: Meta,
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "client::null_default")]
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl HasMeta for ReadyNode {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl ReadyNode {
    fn is_ready(&self) -> bool {
        let ready = |one: &Condition| one.kind == "Ready" && one.status == "True";
        self.status.conditions.iter().any(ready)
    }
}

fn own_node(node: &str) -> Selection {
    Selection { fields: format!("metadata.name={node}"), ..Selection::default() }
}

/// Waits until the Node of this name is Ready; returns early when stopped.
pub(crate) async fn until_ready(
    stop: CancellationToken,
    kubeconfig: &Path,
    node: &str,
    then: impl FnOnce(),
) -> Result<()> {
    let client = client::connect(kubeconfig).await?;
    let reflector: Reflector<ReadyNode> = Reflector::selecting(client, NODES, own_node(node));
    let lister = reflector.lister();
    let mut changes = reflector.changes();
    let mut watching = std::pin::pin!(reflector.run(stop));
    loop {
        tokio::select! {
            () = &mut watching => return Ok(()),
            changed = changes.changed() => changed?,
        }
        if lister.get(&Key::cluster(node)).is_some_and(|node| node.is_ready()) {
            then();
            return Ok(());
        }
    }
}

/// Keeps k3s' annotations on this machine's own Node.
pub(crate) async fn keep_annotations(
    stop: CancellationToken,
    kubeconfig: &Path,
    node: &Node,
) -> Result<()> {
    let wanted = annotations(node, &std::env::args().collect::<Vec<_>>(), std::env::vars());
    let client = client::connect(kubeconfig).await?;
    let reflector: Reflector<PartialObject> =
        Reflector::metadata(client.clone(), NODES, own_node(&node.name));
    let rest = Rest::new(client);
    let lister = reflector.lister();
    let mut changes = reflector.changes();
    let key = Key::cluster(&node.name);
    let mut watching = std::pin::pin!(reflector.run(stop.clone()));
    loop {
        tokio::select! {
            () = &mut watching => return Ok(()),
            changed = changes.changed() => changed?,
        }
        let lacks = |have: &Labels| wanted.iter().any(|(key, value)| have.get(key) != Some(value));
        if !lister.get(&key).is_some_and(|node| lacks(&node.meta().annotations)) {
            continue;
        }
        let patch = json!({ "metadata": { "annotations": wanted } });
        let patched: Result<PartialObject, _> =
            rest.patch(&NODES, &key, "", Patch::Merge, &patch).await;
        if let Err(err) = patched {
            let err = client::describe(&err);
            warn!(
                node = node.name,
                err, "Could not annotate the node, retrying at its next change"
            );
        }
    }
}

/// k3s' annotations: how the node was started, without its secrets.
fn annotations(
    node: &Node,
    args: &[String],
    env: impl Iterator<Item = (String, String)>,
) -> Labels {
    let env: Labels = env
        .filter(|(name, _)| name.starts_with("K3S_"))
        .map(|(name, value)| {
            let value = if is_secret(&name) { MASK.to_owned() } else { value };
            (name, value)
        })
        .collect();
    let (args, env) = (json!(shown(args)).to_string(), json!(env).to_string());
    let hash = digest::digest(&digest::SHA256, format!("{args}{env}").as_bytes());
    [
        ("k3s.io/hostname", node.name.clone()),
        ("k3s.io/internal-ip", node.ip.to_string()),
        ("k3s.io/node-config-hash", base32(hash.as_ref())),
        ("k3s.io/node-args", args),
        ("k3s.io/node-env", env),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The arguments one by one, values apart from their flags, secrets masked.
fn shown(args: &[String]) -> Vec<String> {
    let secret = |flag: &str| flag == "-t" || is_secret(flag);
    let mut shown = Vec::new();
    let mut hide = false;
    for arg in args.iter().skip(1) {
        if std::mem::take(&mut hide) {
            shown.push(MASK.to_owned());
            continue;
        }
        match arg.split_once('=').filter(|(flag, _)| flag.starts_with('-')) {
            Some((flag, value)) => {
                let value = if secret(flag) { MASK } else { value };
                shown.extend([flag.to_owned(), value.to_owned()]);
            }
            None => {
                hide = arg.starts_with('-') && secret(arg);
                shown.push(arg.clone());
            }
        }
    }
    shown
}

/// Whether a flag or a variable carries a secret; the name of a file is none.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let words = ["token", "secret", "password", "vpn-auth", "datastore-endpoint"];
    words.iter().any(|word| name.contains(word)) && !name.ends_with("-file")
}

/// RFC 4648's base 32, with padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut five = [0; 5];
        five[..chunk.len()].copy_from_slice(chunk);
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let filled = (chunk.len() * 8).div_ceil(5);
        for at in 0..8 {
            let index = usize::try_from(bits >> (35 - 5 * at) & 31).unwrap_or(0);
            text.push(if at < filled { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// Deletes the password of every Node that is deleted: its name is free again.
pub(crate) async fn forget_passwords(stop: CancellationToken, kubeconfig: &Path) -> Result<()> {
    let client = client::connect(kubeconfig).await?;
    let reflector: Reflector<PartialObject> =
        Reflector::metadata(client.clone(), NODES, Selection::default());
    let rest = Rest::new(client);
    let (sender, mut gone) = mpsc::channel(GONE_MAX);
    reflector.on_event(move |event| {
        if let Event::Deleted(node) = event
            && sender.try_send(node.meta().name.clone()).is_err()
        {
            warn!(node = node.meta().name, "Too many nodes deleted at once, kept its password");
        }
    });
    let mut watching = std::pin::pin!(reflector.run(stop.clone()));
    loop {
        let node: String = tokio::select! {
            () = &mut watching => return Ok(()),
            Some(node) = gone.recv() => node,
        };
        let key = Key::new("kube-system", format!("{node}.node-password.k3s"));
        let deleted =
            rest.delete(&SECRETS, &key, Propagation::Default, Preconditions::default()).await;
        match deleted {
            Err(err) if !client::is_not_found(&err) => {
                let err = client::describe(&err);
                warn!(
                    node,
                    err, "Could not forget the password of a deleted node, its name stays taken"
                );
            }
            Err(_) => {}
            Ok(_) => info!(node, "Forgot the password of a deleted node"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], expected: &str) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        assert_eq!(json!(shown(&args)).to_string(), expected);
    }

    #[test]
    fn a_node_is_annotated_without_its_secrets() {
        check(
            &["k3s", "agent", "--server=https://s:6443", "--token=x", "--node-label", "a=b"],
            r#"["agent","--server","https://s:6443","--token","********","--node-label","a=b"]"#,
        );
        check(&["k3s", "agent", "-t", "x"], r#"["agent","-t","********"]"#);
        check(&["k3s", "agent", "--token-file=/x"], r#"["agent","--token-file","/x"]"#);
        check(
            &["k3s", "server", "--datastore-endpoint", "x"],
            r#"["server","--datastore-endpoint","********"]"#,
        );
        assert!(is_secret("K3S_TOKEN") && !is_secret("K3S_TOKEN_FILE") && !is_secret("K3S_URL"));
    }

    #[test]
    fn base32_is_rfc_4648s() {
        for (text, expected) in
            [("", ""), ("f", "MY======"), ("foobar", "MZXW6YTBOI======"), ("fooba", "MZXW6YTB")]
        {
            assert_eq!(base32(text.as_bytes()), expected);
        }
    }
}
