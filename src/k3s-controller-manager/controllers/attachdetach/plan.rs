//! What of volumes a node must have attached, what it must lose, and what its status says. Pure.
//!
//! Invariant: a volume that the node says is in use is detached only when waiting for it has ended:
//! the node is out of service, gone, or silent about it for too long. Attachments that others made
//! are theirs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::types::{
    core::{AttachedVolume, Node},
    storage::{Attachment, Volume},
};

pub(super) const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// What the names of our attachments begin with.
pub(super) const PREFIX: &str = "csi-";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a node may say that it uses a volume which no pod of it wants.
pub(super) const UNMOUNT_MAX: Duration = Duration::from_secs(360);

/// What is known about one node.
pub(super) struct Scene<'a> {
    /// `None` when the Node is gone.
    pub node: Option<&'a Node>,
    /// The volumes that its pods want, by name.
    pub wanted: BTreeMap<String, Arc<Volume>>,
    /// Its attachments.
    pub attachments: Vec<Arc<Attachment>>,
    /// Volumes by name, for those that are not wanted.
    pub volume: &'a dyn Fn(&str) -> Option<Arc<Volume>>,
    /// The other nodes that have a volume attached, by the volume's name.
    pub elsewhere: &'a dyn Fn(&str) -> Vec<String>,
    /// Since when a volume has been attached and not wanted.
    pub unwanted_for: &'a dyn Fn(&str) -> Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Attach(String),
    /// It may be on one node only, and is on these.
    Elsewhere(String, Vec<String>),
    /// `status.volumesAttached`
    Report(Vec<AttachedVolume>),
    /// The attachment of this name goes.
    Detach(String),
    /// The node still uses the volume; to be looked at again.
    Wait(Duration),
}

/// The name of a volume in a node's status.
pub(super) fn unique_name(volume: &Volume) -> Option<String> {
    let csi = volume.spec.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

fn is_ours(attachment: &Attachment) -> bool {
    attachment.metadata.name.starts_with(PREFIX)
}

fn is_for_one_node(volume: &Volume) -> bool {
    let modes = &volume.spec.access_modes;
    !modes.is_empty()
        && modes.iter().all(|mode| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"))
}

pub(super) fn plan(scene: &Scene<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(node) = scene.node {
        if node.metadata.annotation(MANAGED) != Some("true") {
            return steps;
        }
        steps.extend(attach(scene));
    }
    let mut leaving = Vec::new();
    let mut wait: Option<Duration> = None;
    for attachment in &scene.attachments {
        let name = attachment.volume();
        let stays = scene.wanted.contains_key(name) || attachment.metadata.is_deleting();
        if stays || !is_ours(attachment) {
            continue;
        }
        match patience(scene, attachment) {
            Some(left) => wait = Some(wait.map_or(left, |it| it.min(left))),
            None => leaving.push(attachment.metadata.name.clone()),
        }
    }
    // The node learns that a volume goes before it does.
    if let Some(node) = scene.node {
        let attached = attached(scene, &leaving);
        if node.status.volumes_attached != attached {
            steps.push(Step::Report(attached));
        }
    }
    steps.extend(leaving.into_iter().map(Step::Detach));
    steps.extend(wait.map(Step::Wait));
    steps
}

fn attach(scene: &Scene<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, volume) in &scene.wanted {
        if scene.attachments.iter().any(|it| it.volume() == name) {
            continue;
        }
        let others = if is_for_one_node(volume) { (scene.elsewhere)(name) } else { Vec::new() };
        steps.push(match others.is_empty() {
            true => Step::Attach(name.clone()),
            false => Step::Elsewhere(name.clone(), others),
        });
    }
    steps
}

/// How long to wait before a volume that nobody wants is detached; `None` for no longer.
fn patience(scene: &Scene<'_>, attachment: &Attachment) -> Option<Duration> {
    let node = scene.node?;
    let out = node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
    let in_use = &node.status.volumes_in_use;
    let used = match (scene.volume)(attachment.volume()).as_deref().and_then(unique_name) {
        Some(name) => in_use.contains(&name),
        // A volume that is gone is known by its driver only.
        None => {
            let prefix = format!("kubernetes.io/csi/{}^", attachment.spec.attacher);
            in_use.iter().any(|it| it.starts_with(&prefix))
        }
    };
    if out || !used {
        return None;
    }
    UNMOUNT_MAX.checked_sub((scene.unwanted_for)(attachment.volume())).filter(|it| !it.is_zero())
}

fn attached(scene: &Scene<'_>, leaving: &[String]) -> Vec<AttachedVolume> {
    let mut attached: Vec<AttachedVolume> = scene
        .attachments
        .iter()
        .filter(|it| it.status.attached && !it.metadata.is_deleting() && is_ours(it))
        .filter(|it| !leaving.contains(&it.metadata.name))
        .filter_map(|it| unique_name(&*(scene.volume)(it.volume())?))
        .map(|name| AttachedVolume { name, device_path: String::new() })
        .collect();
    attached.sort();
    attached.dedup();
    attached
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, mode: &str) -> Arc<Volume> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"accessModes": [mode], "csi": {"driver": "x", "volumeHandle": name}},
            }))
            .unwrap(),
        )
    }

    fn attachment(volume: &str, rest: Value) -> Arc<Attachment> {
        let mut object = json!({
            "metadata": {"name": format!("csi-{volume}")},
            "spec": {"attacher": "x", "nodeName": "n",
                "source": {"persistentVolumeName": volume}},
            "status": {"attached": true},
        });
        if rest["attached"] == false {
            object["status"]["attached"] = json!(false);
        }
        if rest["deleting"] == true {
            object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn node(status: Value, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": {MANAGED: "true"}},
            "spec": {"taints": taints}, "status": status,
        }))
        .unwrap()
    }

    fn check(
        node: Option<&Node>,
        wanted: &[Arc<Volume>],
        attachments: &[Arc<Attachment>],
        waited: u64,
        want: &[Step],
    ) {
        let all = [volume("v", "ReadWriteOnce"), volume("w", "ReadWriteMany")];
        let find = |name: &str| all.iter().find(|it| it.metadata.name == name).cloned();
        let scene = Scene {
            node,
            wanted: wanted.iter().map(|it| (it.metadata.name.clone(), it.clone())).collect(),
            attachments: attachments.to_vec(),
            volume: &find,
            elsewhere: &|name| if name == "v" { vec!["m".into()] } else { vec![] },
            unwanted_for: &|_| Duration::from_secs(waited),
        };
        assert_eq!(plan(&scene), want);
    }

    fn report(names: &[&str]) -> Step {
        let one = |name: &&str| AttachedVolume {
            name: format!("kubernetes.io/csi/x^{name}"),
            device_path: String::new(),
        };
        Step::Report(names.iter().map(one).collect())
    }

    #[test]
    fn wanted_volumes_are_attached_and_reported() {
        let fresh = node(json!({}), json!([]));
        let (one, many) = (volume("v", "ReadWriteOnce"), volume("w", "ReadWriteMany"));
        let both = [one.clone(), many.clone()];
        let steps = [Step::Elsewhere("v".into(), vec!["m".into()]), Step::Attach("w".into())];
        check(Some(&fresh), &both, &[], 0, &steps);
        let pending = attachment("w", json!({"attached": false}));
        check(Some(&fresh), std::slice::from_ref(&many), &[pending], 0, &[]);
        let done = || attachment("w", json!({}));
        check(Some(&fresh), std::slice::from_ref(&many), &[done()], 0, &[report(&["w"])]);
        let told =
            json!({"volumesAttached": [{"name": "kubernetes.io/csi/x^w", "devicePath": ""}]});
        check(Some(&node(told, json!([]))), std::slice::from_ref(&many), &[done()], 0, &[]);
        // A kubelet that attaches by itself.
        let mut own = fresh;
        own.metadata.annotations.clear();
        check(Some(&own), &[many], &[], 0, &[]);
    }

    #[test]
    fn volumes_that_nobody_wants_go_when_the_node_lets_go() {
        let told = |in_use: &[&str]| {
            json!({"volumesInUse": in_use,
                "volumesAttached": [{"name": "kubernetes.io/csi/x^w", "devicePath": ""}]})
        };
        let has = || [attachment("w", json!({}))];
        let detach = || Step::Detach("csi-w".into());
        let free = node(told(&[]), json!([]));
        check(Some(&free), &[], &has(), 0, &[report(&[]), detach()]);
        let used = ["kubernetes.io/csi/x^w"];
        let busy = node(told(&used), json!([]));
        check(Some(&busy), &[], &has(), 60, &[Step::Wait(Duration::from_secs(300))]);
        check(Some(&busy), &[], &has(), 360, &[report(&[]), detach()]);
        let out = node(told(&used), json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]));
        check(Some(&out), &[], &has(), 0, &[report(&[]), detach()]);
        check(None, &[], &has(), 0, &[detach()]);
        let mut foreign = Attachment::clone(&attachment("w", json!({})));
        foreign.metadata.name = "e2e".into();
        check(None, &[], &[Arc::new(foreign)], 0, &[]);
        let going = attachment("w", json!({"deleting": true}));
        check(Some(&free), &[], &[going], 0, &[report(&[])]);
    }
}
