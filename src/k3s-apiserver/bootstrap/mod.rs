//! What a fresh cluster contains before anyone writes to it.
//!
//! `plan` is pure: it compares what is wanted with what is there and says what to write. The objects
//! are complete as stored (defaults, uid, creation time), because they are ours. Invariant: an
//! object that a user has changed is never taken back, except where upstream does so too.

mod apiservices;
mod controller_roles;
pub(crate) mod flowcontrol;
mod rbac;
mod roles;

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::companions;
use crate::registry::Object;
use crate::registry::value::{at, key, set, text};

/// What the flags say about this server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that endpoints of the service `kubernetes` carry.
    pub advertise: IpAddr,
    pub port: u16,
    /// `10.43.0.0/16`, several separated by commas when dual-stack.
    pub service_ranges: Vec<ipnetwork::IpNetwork>,
    /// PEM, when client certificates are accepted.
    pub client_ca: Option<String>,
    pub request_header: Option<RequestHeader>,
    /// The name of this server's lease, `apiserver-<hash>`, and its `holderIdentity`.
    pub lease_name: String,
    pub lease_holder: String,
    pub hostname: String,
}

/// The front-proxy settings that extension servers read.
#[derive(Clone, Debug)]
pub struct RequestHeader {
    pub ca: String,
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

/// One write that brings the cluster to what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The object is missing.
    Create { resource: &'static str, object: Object },
    /// The object is there and differs; what is given replaces it.
    Replace { resource: &'static str, object: Object },
}

/// When and how the objects of one plan are stamped.
pub(crate) struct Stamp {
    pub(crate) now: String,
}

/// One wanted object and how it is kept.
pub(crate) struct Item {
    /// Upstream's short form, `roles.rbac.authorization.k8s.io`.
    pub(crate) resource: &'static str,
    pub(crate) object: Object,
    pub(crate) keep: Keep,
}

/// What happens to a bootstrap object that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Made once, then the users'.
    AsIs,
    /// Missing rules are added.
    Rules,
    /// Missing subjects are added.
    Subjects,
    /// The spec is ours while the annotation says so.
    FlowSpec,
    /// These members are ours: the server's own facts.
    Members(&'static [&'static str]),
}

/// Compares the wanted objects with those that `have` finds (resource, namespace, name).
pub fn plan(
    have: &dyn Fn(&str, &str, &str) -> Option<Object>,
    settings: &Settings,
    now: Timestamp,
) -> Vec<Step> {
    let stamp = Stamp { now: format!("{:.0}", now) };
    let mut steps = Vec::new();
    for Item { resource, mut object, keep } in items(settings, &stamp) {
        let name = text(&object, "metadata.name").to_owned();
        let namespace = text(&object, "metadata.namespace").to_owned();
        match have(resource, &namespace, &name) {
            None => {
                set(&mut object, "metadata.uid", uuid::Uuid::new_v4().to_string());
                set(&mut object, "metadata.creationTimestamp", stamp.now.as_str());
                steps.push(Step::Create { resource, object });
            }
            Some(old) => {
                if let Some(object) = kept(&old, &object, keep) {
                    steps.push(Step::Replace { resource, object });
                }
            }
        }
    }
    steps
}

fn kept(old: &Object, want: &Object, keep: Keep) -> Option<Object> {
    match keep {
        Keep::AsIs => None,
        Keep::Rules => rbac::reconcile(old, want, "rules"),
        Keep::Subjects => rbac::reconcile(old, want, "subjects"),
        Keep::FlowSpec => {
            let ours = key(at(old, "metadata.annotations"), flowcontrol::AUTOUPDATE) == "true";
            (ours && old["spec"] != want["spec"]).then(|| {
                let mut new = old.clone();
                new["spec"] = want["spec"].clone();
                let generation = at(old, "metadata.generation").as_i64().unwrap_or_default();
                set(&mut new, "metadata.generation", generation + 1);
                new
            })
        }
        Keep::Members(names) => {
            let mut new = old.clone();
            for name in names {
                if let Some(value) = want.get(*name) {
                    new[*name] = value.clone();
                }
            }
            (new != *old).then_some(new)
        }
    }
}

fn items(settings: &Settings, stamp: &Stamp) -> Vec<Item> {
    let mut items: Vec<Item> =
        ["default", "kube-node-lease", "kube-public", "kube-system"].map(namespace).into();
    items.extend(priority_classes());
    items.extend(flowcontrol::items(stamp));
    items.extend(rbac::items());
    items.extend(apiservices::items(stamp));
    items.extend(service(settings, stamp));
    items.push(authentication_config(settings));
    items.push(config_map(
        "kube-apiserver-legacy-service-account-token-tracking",
        json!({"since": stamp.now.get(..10)}),
    ));
    items.push(lease(settings, stamp));
    items
}

fn namespace(name: &str) -> Item {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    });
    Item { resource: "namespaces", object, keep: Keep::AsIs }
}

fn priority_classes() -> [Item; 2] {
    [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary.",
        ),
    ]
    .map(|(name, value, description)| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        Item { resource: "priorityclasses.scheduling.k8s.io", object, keep: Keep::AsIs }
    })
}

/// The service `kubernetes`, its address, its endpoints, and the range it comes from.
fn service(settings: &Settings, stamp: &Stamp) -> Vec<Item> {
    let Some(range) = settings.service_ranges.first() else { return Vec::new() };
    let cidrs: Vec<String> = settings.service_ranges.iter().map(ToString::to_string).collect();
    let (family, ip) = (family(range.network()), next(range.network()).to_string());
    let slice_family = self::family(settings.advertise);
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta("kubernetes"),
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": settings.port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    });
    service["metadata"]["labels"] = json!({"component": "apiserver", "provider": "kubernetes"});
    let mut endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": meta("kubernetes"),
        "subsets": [{
            "addresses": [{"ip": settings.advertise.to_string()}],
            "ports": [{"name": "https", "port": settings.port, "protocol": "TCP"}],
        }],
    });
    endpoints["metadata"]["labels"] = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta("kubernetes"),
        "addressType": slice_family,
        "endpoints": [{
            "addresses": [settings.advertise.to_string()],
            "conditions": {"ready": true},
        }],
        "ports": [{"name": "https", "port": settings.port, "protocol": "TCP"}],
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "kubernetes"});
    slice["metadata"]["generation"] = json!(1);
    let address = companions::address(&ip, "default", "kubernetes").object;
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{
            "lastTransitionTime": stamp.now,
            "message": "Kubernetes default Service CIDR is ready",
            "reason": "",
            "status": "True",
            "type": "Ready",
        }]},
    });
    vec![
        Item { resource: "servicecidrs.networking.k8s.io", object: cidr, keep: Keep::AsIs },
        Item { resource: "ipaddresses.networking.k8s.io", object: address, keep: Keep::AsIs },
        Item { resource: "services", object: service, keep: Keep::AsIs },
        Item { resource: "endpoints", object: endpoints, keep: Keep::Members(&["subsets"]) },
        Item {
            resource: "endpointslices.discovery.k8s.io",
            object: slice,
            keep: Keep::Members(&["endpoints", "ports"]),
        },
    ]
}

fn authentication_config(settings: &Settings) -> Item {
    let mut data = json!({});
    if let Some(ca) = &settings.client_ca {
        data["client-ca-file"] = json!(ca);
    }
    if let Some(header) = &settings.request_header {
        let list = |names: &[String]| Value::String(json!(names).to_string());
        data["requestheader-client-ca-file"] = json!(header.ca);
        data["requestheader-allowed-names"] = list(&header.allowed_names);
        data["requestheader-username-headers"] = list(&header.username_headers);
        data["requestheader-group-headers"] = list(&header.group_headers);
        data["requestheader-extra-headers-prefix"] = list(&header.extra_prefixes);
    }
    let mut item = config_map("extension-apiserver-authentication", data);
    item.keep = Keep::Members(&["data"]);
    item
}

fn config_map(name: &str, data: Value) -> Item {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": data,
    });
    Item { resource: "configmaps", object, keep: Keep::AsIs }
}

fn lease(settings: &Settings, stamp: &Stamp) -> Item {
    let seconds = stamp.now.trim_end_matches('Z');
    let object = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": settings.lease_name,
            "namespace": "kube-system",
            "labels": {
                "apiserver.kubernetes.io/identity": "kube-apiserver",
                "kubernetes.io/hostname": settings.hostname,
            },
        },
        "spec": {
            "holderIdentity": settings.lease_holder,
            "leaseDurationSeconds": 3600,
            "renewTime": format!("{seconds}.000000Z"),
        },
    });
    Item { resource: "leases.coordination.k8s.io", object, keep: Keep::Members(&["spec"]) }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip).wrapping_add(1)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(1)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            advertise: IpAddr::from([192, 0, 2, 1]),
            port: 6443,
            service_ranges: vec!["10.43.0.0/16".parse().expect("a network")],
            client_ca: Some("CA".into()),
            request_header: None,
            lease_name: "apiserver-x".into(),
            lease_holder: "apiserver-x_1".into(),
            hostname: "host".into(),
        }
    }

    #[test]
    fn a_second_plan_over_the_first_does_nothing() {
        let now = Timestamp::UNIX_EPOCH;
        let steps = plan(&|_, _, _| None, &settings(), now);
        let objects: Vec<(&str, Object)> = steps
            .iter()
            .map(|step| match step {
                Step::Create { resource, object } => (*resource, object.clone()),
                Step::Replace { .. } => panic!("nothing is there to replace"),
            })
            .collect();
        assert!(objects.iter().any(|(_, o)| text(o, "metadata.name") == "10.43.0.1"));
        let have = |resource: &str, namespace: &str, name: &str| {
            objects
                .iter()
                .find(|(r, o)| {
                    *r == resource
                        && text(o, "metadata.name") == name
                        && text(o, "metadata.namespace") == namespace
                })
                .map(|(_, o)| o.clone())
        };
        assert_eq!(plan(&have, &settings(), now), Vec::new());
    }

    #[test]
    fn a_new_address_is_written_to_the_endpoints() {
        let now = Timestamp::UNIX_EPOCH;
        let have = |resource: &str, _: &str, _: &str| {
            (resource == "endpointslices.discovery.k8s.io")
                .then(|| json!({"endpoints": [], "ports": [], "addressType": "IPv4"}))
        };
        let steps = plan(&have, &settings(), now);
        assert!(steps.iter().any(|step| matches!(step, Step::Replace { object, .. }
            if object["endpoints"][0]["addresses"][0] == "192.0.2.1")));
    }
}
