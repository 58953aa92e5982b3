//! VolumeBinding: a pod goes where its claims' volumes are, or where they can be found or made.

use std::{collections::HashSet, sync::Arc};

use client::Key;
use serde_json::Value;

use super::{Prepared, node_affinity::term_matches};
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::Rejection,
    storage::{Claim, Class, SELECTED_NODE, Volume},
    types::{Node, PodVolume},
};

pub(crate) const NAME: &str = "VolumeBinding";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NOTHING: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// A step that binds a claim before its pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// The claim gets this volume.
    Volume { claim: Key, volume: String },
    /// A volume is to be made for the claim, for this node.
    Provision { claim: Key },
    /// The claim gets these devices, and the pod as a user.
    Devices { claim: Key, allocation: Arc<Value> },
}

impl Binding {
    pub(crate) fn claim(&self) -> &Key {
        match self {
            Binding::Volume { claim, .. }
            | Binding::Provision { claim }
            | Binding::Devices { claim, .. } => claim,
        }
    }
}

/// The pod's claims, looked up once per decision.
#[derive(Default)]
pub(crate) struct PodVolumes {
    /// Why no node will do.
    pub(crate) refusal: Option<Rejection>,
    pub(super) bound: Vec<Arc<Volume>>,
    missing_volume: bool,
    unbound: Vec<(Arc<Claim>, Option<Arc<Class>>)>,
}

impl PodVolumes {
    pub(crate) fn new(cache: &Cache, info: &PodInfo) -> Self {
        let mut volumes = PodVolumes::default();
        let pod = &info.pod;
        for volume in &pod.spec.volumes {
            let Some(name) = volume.claim_name(&pod.metadata.name) else { continue };
            let claim = cache.storage.claims.get(&Key::new(&pod.metadata.namespace, &name));
            if let Err(why) = volumes.add(cache, volume, &name, claim, &pod.metadata.uid) {
                volumes.refusal = Some(Rejection::unresolvable(NAME, &why));
                return volumes;
            }
        }
        volumes
    }

    fn add(
        &mut self,
        cache: &Cache,
        volume: &PodVolume,
        name: &str,
        claim: Option<Arc<Claim>>,
        pod_uid: &str,
    ) -> Result<(), String> {
        let Some(claim) = claim else {
            return Err(if volume.ephemeral {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        if claim.metadata.is_deleting() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if volume.ephemeral && claim.metadata.controller().is_none_or(|it| it.uid != pod_uid) {
            return Err(format!("PVC {name:?} was not created for the pod"));
        }
        if claim.status.phase == "Lost" {
            let volume = &claim.spec.volume_name;
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.is_bound() {
            match cache.storage.volumes.get(&Key::cluster(&claim.spec.volume_name)) {
                Some(volume) => self.bound.push(volume),
                None => self.missing_volume = true,
            }
            return Ok(());
        }
        let class = cache.storage.classes.get(&Key::cluster(claim.class()));
        let waits = class.as_ref().is_some_and(|it| it.waits_for_consumer());
        if !waits || !claim.spec.volume_name.is_empty() {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        self.unbound.push((claim, class));
        Ok(())
    }

    /// What has to be bound for the node; `None` when that is not possible there.
    pub(crate) fn bindings(&self, cache: &Cache, node: &Node) -> Option<Vec<Binding>> {
        let mut taken = HashSet::new();
        let mut bindings = Vec::new();
        for (claim, class) in &self.unbound {
            let key = claim.metadata.key();
            let selected = cache.storage.selected.get(&key).map(String::as_str);
            let selected = selected.or(claim.metadata.annotation(SELECTED_NODE));
            if selected.is_some_and(|it| it != node.metadata.name) {
                return None;
            }
            let found = cache.storage.volume_for(claim, |volume| {
                !taken.contains(&volume.metadata.name) && reachable(volume, node)
            });
            let provisions =
                || class.as_ref().is_some_and(|it| it.provisions_on(&node.metadata.labels));
            match found.filter(|_| selected.is_none()) {
                Some(volume) => {
                    taken.insert(volume.clone());
                    bindings.push(Binding::Volume { claim: key, volume });
                }
                None if provisions() => bindings.push(Binding::Provision { claim: key }),
                None => return None,
            }
        }
        Some(bindings)
    }
}

fn reachable(volume: &Volume, node: &Node) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|it| it.required.as_ref());
    required.is_none_or(|it| it.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

pub(super) fn filter(
    cache: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let (volumes, node) = (&prepared.volumes, node.node.as_ref()?);
    if volumes.missing_volume {
        return Some(Rejection::unresolvable(NAME, GONE));
    }
    if !volumes.bound.iter().all(|volume| reachable(volume, node)) {
        return Some(Rejection::unresolvable(NAME, ELSEWHERE));
    }
    let possible = volumes.unbound.is_empty() || volumes.bindings(cache, node).is_some();
    (!possible).then(|| Rejection::unresolvable(NAME, NOTHING))
}

#[cfg(test)]
mod tests {
    use client::Lister;

    use super::*;
    use crate::framework::{
        Decision, decide,
        tests::{cluster, node},
    };
    use crate::profile::Profile;

    const PINNED: &str = r#""nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":
        [{"key":"kubernetes.io/hostname","operator":"In","values":["b"]}]}]}}"#;

    fn volume(name: &str, size: &str, extra: &str) -> Volume {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}"}},"status":{{"phase":"Available"}},"spec":{{
            "capacity":{{"storage":"{size}"}},"accessModes":["ReadWriteOnce"],"storageClassName":"late"{extra}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn storage(claim: &str, volumes: Vec<Volume>) -> Cache {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        if !claim.is_empty() {
            let text = format!(
                r#"{{"metadata":{{"namespace":"n","name":"c"}},"spec":{{
                "accessModes":["ReadWriteOnce"],"resources":{{"requests":{{"storage":"1Gi"}}}},{claim}}}}}"#
            );
            cache.storage.claims = Lister::of(vec![serde_json::from_str(&text).unwrap()]);
        }
        let class = |name: &str, rest: &str| {
            let text = format!(r#"{{"metadata":{{"name":"{name}"}},{rest}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        cache.storage.classes = Lister::of(vec![
            class("now", r#""provisioner":"x/y","volumeBindingMode":"Immediate""#),
            class(
                "late",
                r#""provisioner":"kubernetes.io/no-provisioner","volumeBindingMode":"WaitForFirstConsumer""#,
            ),
            class(
                "made",
                r#""provisioner":"x/y","volumeBindingMode":"WaitForFirstConsumer","allowedTopologies":
                [{"matchLabelExpressions":[{"key":"zone","values":["b"]}]}]"#,
            ),
        ]);
        cache.storage.volumes = Lister::of(volumes);
        cache
    }

    fn pod() -> PodInfo {
        let text = r#"{"metadata":{"namespace":"n","name":"p","uid":"u"},
            "spec":{"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c"}}]}}"#;
        PodInfo::new(Arc::new(serde_json::from_str(text).unwrap()))
    }

    fn check(claim: &str, volumes: Vec<Volume>, want: Result<&str, &str>) {
        let mut cache = storage(claim, volumes);
        match decide(&mut cache, &Profile::default(), &pod(), 0) {
            Decision::Node(node) => assert_eq!(Ok(node.as_str()), want, "{claim}"),
            Decision::Unschedulable(it) => assert_eq!(Err(it.message.as_str()), want, "{claim}"),
        }
    }

    #[test]
    fn claims_lead_to_nodes_or_say_why_not() {
        check("", vec![], Err("0/2 nodes are available: persistentvolumeclaim \"c\" not found."));
        let unbound = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        check(r#""storageClassName":"now""#, vec![], Err(unbound));
        check(r#""storageClassName":"made""#, vec![], Ok("b"));
        let late = r#""storageClassName":"late""#;
        let nothing =
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
        check(late, vec![volume("small", "1Mi", "")], Err(nothing));
        let pinned = format!(",{PINNED}");
        check(late, vec![volume("there", "2Gi", &pinned)], Ok("b"));
        let taken = format!(r#"{pinned},"claimRef":{{"namespace":"n","name":"other"}}"#);
        check(late, vec![volume("taken", "2Gi", &taken)], Err(nothing));
    }

    #[test]
    fn the_smallest_volume_is_taken_unless_it_is_promised() {
        let mut cache = storage(
            r#""storageClassName":"late""#,
            vec![volume("large", "9Gi", ""), volume("fits", "1Gi", "")],
        );
        let chosen = |cache: &Cache| {
            let node = cache.nodes["a"].node.clone().unwrap();
            PodVolumes::new(cache, &pod()).bindings(cache, &node).unwrap()
        };
        let claim = Key::new("n", "c");
        let bind =
            |volume: &str| vec![Binding::Volume { claim: claim.clone(), volume: volume.into() }];
        assert_eq!(chosen(&cache), bind("fits"));
        cache.storage.promised.insert("fits".into(), Key::new("n", "other"));
        assert_eq!(chosen(&cache), bind("large"));
    }
}
