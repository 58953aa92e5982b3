//! The Node and its status, computed from facts.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::facts;
use crate::cri::image::Image;
use crate::cri::runtime::RuntimeStatus;
use crate::eviction::Pressure;
use crate::shared::Shared;

/// The version that this kubelet tells.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+k3s1");
const IMAGES_MAX: usize = 50;

/// What a status is made of besides the machine itself.
pub(crate) struct View<'a> {
    pub(crate) runtime_version: &'a str,
    pub(crate) images: Vec<Image>,
    pub(crate) not_ready: Option<String>,
    pub(crate) pressures: Vec<Pressure>,
    pub(crate) old: Option<&'a NodeStatus>,
    pub(crate) now: Timestamp,
}

/// The Node to register.
pub(crate) fn node(shared: &Shared) -> Node {
    let config = &shared.config;
    let mut labels = config.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts::architecture()),
        ("node.kubernetes.io/instance-type", "k3s"),
        ("beta.kubernetes.io/instance-type", "k3s"),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let mut taints: Vec<Taint> = config
        .taints
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    if config.external_cloud {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(
                [
                    ("node.alpha.kubernetes.io/ttl", "0"),
                    ("volumes.kubernetes.io/controller-managed-attach-detach", "true"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            provider_id: Some(
                config.provider_id.clone().unwrap_or_else(|| format!("k3s://{}", config.node_name)),
            ),
            ..Default::default()
        }),
        status: None,
    }
}

/// Why the node cannot run pods, if so.
pub(crate) fn not_ready(
    runtime: &Result<RuntimeStatus, tonic::Status>,
    network: Option<&str>,
) -> Option<String> {
    let status = match runtime {
        Ok(status) => status,
        Err(err) => return Some(format!("container runtime is down: {}", err.message())),
    };
    let bad = status.conditions.iter().find(|c| c.r#type == "RuntimeReady" && !c.status);
    if let Some(bad) = bad {
        return Some(format!(
            "container runtime not ready: RuntimeReady=false reason:{} message:{}",
            bad.reason, bad.message
        ));
    }
    network.map(|reason| {
        format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{reason}")
    })
}

pub(crate) fn status(shared: &Shared, view: View<'_>) -> NodeStatus {
    let config = &shared.config;
    let (capacity, allocatable) = facts::resources(config);
    let mut addresses: Vec<NodeAddress> = shared
        .host_ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.clone() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.clone() });
    NodeStatus {
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        addresses: Some(addresses),
        conditions: Some(conditions(&view)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: facts::architecture().to_owned(),
            boot_id: facts::line("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: format!("containerd://{}", view.runtime_version),
            kernel_version: facts::line("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: facts::line("/etc/machine-id"),
            operating_system: "linux".to_owned(),
            os_image: facts::os_image(),
            system_uuid: facts::line("/sys/class/dmi/id/product_uuid"),
            ..Default::default()
        }),
        images: Some(images(view.images)),
        ..Default::default()
    }
}

fn images(mut images: Vec<Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(IMAGES_MAX);
    images
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

fn conditions(view: &View<'_>) -> Vec<NodeCondition> {
    let under = |pressure: Pressure| view.pressures.contains(&pressure);
    let ready = match &view.not_ready {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(reason) => (false, "KubeletNotReady", reason.clone()),
    };
    let table = [
        (
            "MemoryPressure",
            under(Pressure::Memory),
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            under(Pressure::Disk),
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            under(Pressure::Pid),
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
    ];
    let mut out: Vec<NodeCondition> = table
        .into_iter()
        .map(|(type_, on, bad, bad_text, good, good_text)| {
            let (reason, text) = if on { (bad, bad_text) } else { (good, good_text) };
            condition(view, type_, on, reason, text)
        })
        .collect();
    out.push(condition(view, "Ready", ready.0, ready.1, &ready.2));
    out
}

fn condition(view: &View<'_>, type_: &str, on: bool, reason: &str, text: &str) -> NodeCondition {
    let status = if on { "True" } else { "False" };
    let before = view
        .old
        .and_then(|old| old.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_))
        .filter(|condition| condition.status == status);
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(text.to_owned()),
        last_heartbeat_time: Some(Time(view.now)),
        last_transition_time: before
            .and_then(|condition| condition.last_transition_time.clone())
            .or(Some(Time(view.now))),
    }
}

/// Makes what others advertise in the Node's capacity allocatable.
pub(crate) fn adopt(want: &mut NodeStatus, have: &NodeStatus) {
    let (Some(ours), Some(allocatable)) = (&want.capacity, &mut want.allocatable) else { return };
    let foreign = have.capacity.iter().flatten().filter(|(name, _)| !ours.contains_key(*name));
    allocatable.extend(foreign.map(|(name, amount)| (name.clone(), amount.clone())));
}

/// What is allocatable though nobody advertises it any more.
pub(crate) fn withdrawn(have: &NodeStatus) -> Vec<String> {
    let capacity = |name: &String| have.capacity.iter().any(|all| all.contains_key(name));
    let names = have.allocatable.iter().flat_map(|all| all.keys());
    names.filter(|name| !capacity(name)).cloned().collect()
}

/// Equal but for heartbeats.
pub(crate) fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::runtime::RuntimeCondition;

    #[test]
    fn what_others_advertise_is_allocatable() {
        let status = |capacity: serde_json::Value, allocatable: serde_json::Value| {
            let status = serde_json::json!({"capacity": capacity, "allocatable": allocatable});
            serde_json::from_value::<NodeStatus>(status).unwrap()
        };
        let check = |have: serde_json::Value, expected: serde_json::Value| {
            let own = serde_json::json!({"cpu": "2"});
            let mut want = status(own.clone(), serde_json::json!({"cpu": "1"}));
            adopt(&mut want, &status(have, serde_json::json!({})));
            assert_eq!(want, status(own, expected));
        };
        check(serde_json::json!({"cpu": "9"}), serde_json::json!({"cpu": "1"}));
        check(
            serde_json::json!({"cpu": "9", "example.com/dongle": "3"}),
            serde_json::json!({"cpu": "1", "example.com/dongle": "3"}),
        );
        let left = serde_json::json!({"cpu": "1", "example.com/dongle": "3"});
        let have = status(serde_json::json!({"cpu": "2"}), left);
        assert_eq!(withdrawn(&have), ["example.com/dongle"]);
    }

    #[test]
    fn the_node_is_ready_when_runtime_and_network_are() {
        let up = Ok(RuntimeStatus {
            conditions: vec![RuntimeCondition {
                r#type: "RuntimeReady".into(),
                status: true,
                ..Default::default()
            }],
        });
        assert_eq!(not_ready(&up, None), None);
        assert!(not_ready(&up, Some("no CNI")).unwrap().ends_with("message:no CNI"));
        assert!(not_ready(&Err(tonic::Status::unavailable("gone")), None).is_some());
    }
}
