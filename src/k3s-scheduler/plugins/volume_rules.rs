//! VolumeZone, VolumeRestrictions and NodeVolumeLimits: what volumes allow on a node beside where
//! they are.

use std::collections::{BTreeMap, BTreeSet};

use client::Key;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::Rejection,
    types::Pod,
};

pub(crate) const ZONE: &str = "VolumeZone";
pub(crate) const RESTRICTIONS: &str = "VolumeRestrictions";
pub(crate) const LIMITS: &str = "NodeVolumeLimits";
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A volume with zone labels is used in these zones only; a node without any is everywhere.
pub(super) fn zone(
    _: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let labels = node.labels()?;
    if !ZONES.iter().any(|it| labels.contains_key(*it)) {
        return None;
    }
    let fits = prepared.volumes.bound.iter().all(|volume| {
        ZONES.iter().all(|key| {
            volume.metadata.labels.get(*key).is_none_or(|zones| {
                labels.get(*key).is_some_and(|here| zones.split("__").any(|it| it == here))
            })
        })
    });
    (!fits).then(|| Rejection::unresolvable(ZONE, "node(s) had no available volume zone"))
}

/// Disks that only one pod may write, and claims that only one pod may use.
pub(super) fn restrictions(
    cache: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let disks: Vec<_> = info.pod.spec.volumes.iter().filter_map(|it| it.disk.as_ref()).collect();
    let others = || node.pods.values().flat_map(|it| &it.pod.spec.volumes);
    let clash = |disk: &&crate::types::Disk| {
        others().filter_map(|it| it.disk.as_ref()).any(|it| it.clashes(disk))
    };
    if !disks.is_empty() && disks.iter().any(clash) {
        return Some(Rejection::resolvable(RESTRICTIONS, "node(s) had no available disk"));
    }
    let exclusive: Vec<Key> = claims(&info.pod)
        .filter(|key| cache.storage.claims.get(key).is_some_and(|it| it.is_for_one_pod()))
        .collect();
    if exclusive.is_empty() {
        return None;
    }
    // Upstream counts users in the whole cluster; only those on this node can be displaced here.
    let uses = |node: &NodeInfo| {
        node.pods.values().any(|it| claims(&it.pod).any(|key| exclusive.contains(&key)))
    };
    let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    if uses(node) {
        return Some(Rejection::resolvable(RESTRICTIONS, reason));
    }
    cache.nodes.values().any(uses).then(|| Rejection::unresolvable(RESTRICTIONS, reason))
}

/// The claims that a pod's volumes name.
fn claims(pod: &Pod) -> impl Iterator<Item = Key> {
    pod.spec.volumes.iter().filter_map(|it| {
        Some(Key::new(&pod.metadata.namespace, it.claim_name(&pod.metadata.name)?))
    })
}

/// How many volumes each CSI driver attaches to the node.
pub(super) fn limits(
    cache: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let wanted = attachments(cache, &info.pod);
    if wanted.is_empty() {
        return None;
    }
    let name = &node.node.as_ref()?.metadata.name;
    let csi = cache.storage.csi_nodes.get(&Key::cluster(name))?;
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in node.pods.values().map(|it| &it.pod) {
        attachments(cache, pod).into_iter().for_each(|(driver, handle)| {
            used.entry(driver).or_default().insert(handle);
        });
    }
    let mut new: BTreeMap<String, usize> = BTreeMap::new();
    for (driver, handle) in wanted {
        if !used.get(&driver).is_some_and(|it| it.contains(&handle)) {
            *new.entry(driver).or_default() += 1;
        }
    }
    let exceeded = csi.spec.drivers.iter().any(|driver| {
        let limit = driver.allocatable.get("count").and_then(serde_json::Value::as_u64);
        let count = used.get(&driver.name).map_or(0, BTreeSet::len)
            + new.get(&driver.name).copied().unwrap_or(0);
        new.contains_key(&driver.name)
            && limit.is_some_and(|limit| u64::try_from(count).unwrap_or(u64::MAX) > limit)
    });
    exceeded.then(|| Rejection::resolvable(LIMITS, "node(s) exceed max volume count"))
}

/// The CSI volumes that a pod has attached, as driver and handle.
fn attachments(cache: &Cache, pod: &Pod) -> BTreeSet<(String, String)> {
    claims(pod)
        .filter_map(|key| cache.storage.claims.get(&key))
        .filter_map(|claim| cache.storage.volumes.get(&Key::cluster(&claim.spec.volume_name)))
        .filter_map(|volume| {
            let csi = volume.spec.csi.as_ref()?;
            Some((csi.driver.clone(), csi.volume_handle.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::Lister;

    use super::*;
    use crate::framework::{
        Decision, decide,
        tests::{cluster, node},
    };
    use crate::profile::Profile;

    fn pod(name: &str, volume: &str) -> Arc<Pod> {
        let text = format!(
            r#"{{"metadata":{{"namespace":"n","name":"{name}","uid":"{name}"}},"spec":{{"volumes":[{volume}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn cache(mode: &str, volume: &str) -> Cache {
        let mut cache = cluster(&[node("a", "")]);
        let claim = |name: &str| {
            let text = format!(
                r#"{{"metadata":{{"namespace":"n","name":"{name}","annotations":{{"pv.kubernetes.io/bind-completed":"yes"}}}},
                "spec":{{"accessModes":["{mode}"],"volumeName":"{name}"}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let a_volume = |name: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"{name}"{volume}}},"spec":{{"csi":{{"driver":"d","volumeHandle":"{name}"}}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        cache.storage.claims = Lister::of(vec![claim("one"), claim("two")]);
        cache.storage.volumes = Lister::of(vec![a_volume("one"), a_volume("two")]);
        let csi = r#"{"metadata":{"name":"a"},"spec":{"drivers":[{"name":"d","allocatable":{"count":1}}]}}"#;
        cache.storage.csi_nodes = Lister::of(vec![serde_json::from_str(csi).unwrap()]);
        cache
    }

    fn why(cache: &mut Cache, pod: &Arc<Pod>) -> Option<String> {
        match decide(cache, &Profile::default(), &PodInfo::new(Arc::clone(pod)), 0) {
            Decision::Node(_) => None,
            Decision::Unschedulable(it) => Some(it.message),
        }
    }

    fn uses(claim: &str) -> String {
        format!(r#"{{"persistentVolumeClaim":{{"claimName":"{claim}"}}}}"#)
    }

    #[test]
    fn drivers_attach_no_more_than_they_can() {
        let mut cache = cache("ReadWriteOnce", "");
        cache.place(&pod("first", &uses("one")), "a");
        assert_eq!(why(&mut cache, &pod("same", &uses("one"))), None);
        let full = why(&mut cache, &pod("other", &uses("two"))).unwrap();
        assert!(full.contains("1 node(s) exceed max volume count"), "{full}");
    }

    #[test]
    fn some_claims_and_disks_are_for_one_pod_only() {
        let mut cache = cache("ReadWriteOncePod", "");
        cache.place(&pod("first", &uses("one")), "a");
        let taken = why(&mut cache, &pod("second", &uses("one"))).unwrap();
        assert!(taken.contains("ReadWriteOncePod"), "{taken}");
        let disk = |read_only: bool| {
            format!(r#"{{"gcePersistentDisk":{{"pdName":"x","readOnly":{read_only}}}}}"#)
        };
        cache.place(&pod("reader", &disk(true)), "a");
        assert_eq!(why(&mut cache, &pod("reader2", &disk(true))), None);
        let taken = why(&mut cache, &pod("writer", &disk(false))).unwrap();
        assert!(taken.contains("1 node(s) had no available disk"), "{taken}");
    }

    #[test]
    fn zoned_volumes_stay_in_their_zones() {
        let labels = r#","labels":{"topology.kubernetes.io/zone":"x__y"}"#;
        let check = |zone: &str, want: bool| {
            let mut cache = cache("ReadWriteOnce", labels);
            let text = format!(
                r#"{{"metadata":{{"name":"a","labels":{{"topology.kubernetes.io/zone":"{zone}"}}}},
                "status":{{"allocatable":{{"pods":"9"}}}}}}"#
            );
            cache.set_node(&Arc::new(serde_json::from_str(&text).unwrap()));
            assert_eq!(why(&mut cache, &pod("p", &uses("one"))).is_none(), want, "{zone}");
        };
        check("y", true);
        check("z", false);
    }
}
