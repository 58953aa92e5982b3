//! Endpoints that somebody writes for a Service without a selector are mirrored into EndpointSlices.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use client::{Action, Key, Labels, WorkQueue, is_namespace_terminating, is_not_found};
use serde::Deserialize;
use serde_json::{Value, json};

use super::endpointslice::{Desired, Step, delete, plan, write};
use crate::{
    Cx, Running,
    caches::{ENDPOINTS, SLICES},
    ownership::controller_ref,
    types::{
        core::{Endpoints, Service},
        discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, TargetRef},
    },
    workers,
};

const NAME: &str = "endpointslice-mirroring-controller";
const WORKERS: usize = 5;
const ADDRESSES_MAX: usize = 1000;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.endpoints.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.services.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.slices.on_event(move |event| {
        let slice = event.object();
        if let Some(name) = slice.metadata.labels.get(SERVICE_NAME).filter(|_| is_ours(slice)) {
            filled.add(Key::new(&slice.metadata.namespace, name));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(MANAGED_BY).is_some_and(|it| it == MANAGER)
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    service.spec.selector.is_empty()
        && !service.metadata.is_deleting()
        && !meta.is_deleting()
        && meta.labels.get(SKIP).is_none_or(|it| it != "true")
        && meta.annotation(LEADER).is_none()
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let caches = &cx.caches;
    let existing: Vec<Arc<EndpointSlice>> = caches
        .slices
        .lister()
        .by_index(caches.slices_by_service, &key.to_string())
        .into_iter()
        .filter(|slice| is_ours(slice))
        .collect();
    let service = caches.services.lister().get(key);
    let endpoints = caches.endpoints.lister().get(key);
    let mirrored = endpoints.zip(service).filter(|(endpoints, it)| is_mirrored(endpoints, it));
    let Some((endpoints, _)) = mirrored else {
        for slice in &existing {
            delete(cx, slice).await?;
        }
        return Ok(Action::Done);
    };
    let mut desired = desired(&endpoints.subsets);
    for family in ["IPv4", "IPv6"] {
        let of_family: Vec<Arc<EndpointSlice>> =
            existing.iter().filter(|it| it.address_type == family).cloned().collect();
        let wanted = desired.remove(family);
        // Without any address one empty slice says that there is none.
        let placeholder = family == "IPv4" && desired.is_empty();
        if wanted.is_none() && !placeholder {
            for slice in &of_family {
                delete(cx, slice).await?;
            }
            continue;
        }
        for step in plan(wanted.unwrap_or_default(), &of_family) {
            perform(cx, &endpoints, family, step).await?;
        }
    }
    Ok(Action::Done)
}

async fn perform(cx: &Cx, endpoints: &Endpoints, family: &str, step: Step) -> Result<()> {
    let meta = &endpoints.metadata;
    match step {
        Step::Delete(slice) => delete(cx, &slice).await,
        Step::Create { ports, endpoints: found } => {
            let mut labels: Labels = meta.labels.clone();
            labels.insert(SERVICE_NAME.into(), meta.name.clone());
            labels.insert(MANAGED_BY.into(), MANAGER.into());
            let mut annotations = meta.annotations.clone();
            annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
            let body = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "generateName": format!("{}-", meta.name), "namespace": meta.namespace,
                    "labels": labels, "annotations": annotations,
                    "ownerReferences": [controller_ref(&ENDPOINTS, meta)],
                },
                "addressType": family, "endpoints": found, "ports": ports,
            });
            match cx.rest.create::<EndpointSlice>(&SLICES, &meta.namespace, &body).await {
                Ok(slice) => cx.caches.slices.observe(slice),
                Err(err) if is_not_found(&err) || is_namespace_terminating(&err) => {}
                Err(err) => {
                    return Err(err).with_context(|| format!("mirroring {}", meta.key()));
                }
            }
            Ok(())
        }
        Step::Update { slice, ports, endpoints: found } => {
            let body = json!({
                "metadata": {"resourceVersion": slice.metadata.resource_version},
                "endpoints": found, "ports": ports,
            });
            write(cx, &slice.metadata.key(), &body).await
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    #[serde(deserialize_with = "client::null_default")]
    addresses: Vec<Address>,
    #[serde(deserialize_with = "client::null_default")]
    not_ready_addresses: Vec<Address>,
    #[serde(deserialize_with = "client::null_default")]
    ports: Vec<EndpointPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    ip: String,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<TargetRef>,
}

/// The endpoints of each address family. At most a thousand of a subset are mirrored, as upstream.
fn desired(subsets: &[Value]) -> BTreeMap<&'static str, Desired> {
    let mut desired: BTreeMap<&'static str, Desired> = BTreeMap::new();
    for subset in subsets {
        let Ok(mut subset) = serde_json::from_value::<Subset>(subset.clone()) else { continue };
        subset.ports.sort();
        let ready = subset.addresses.into_iter().map(|it| (it, true));
        let all = ready.chain(subset.not_ready_addresses.into_iter().map(|it| (it, false)));
        for (address, ready) in all.take(ADDRESSES_MAX) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let endpoint = Endpoint {
                addresses: vec![address.ip],
                conditions: EndpointConditions {
                    ready: Some(ready),
                    ..EndpointConditions::default()
                },
                hostname: address.hostname,
                target_ref: address.target_ref,
                node_name: address.node_name,
                zone: None,
                hints: None,
            };
            let ports = subset.ports.clone();
            desired.entry(family).or_default().entry(ports).or_default().push(endpoint);
        }
    }
    desired
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_become_slices_by_family_and_ports() {
        let subsets = [
            json!({"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                   "notReadyAddresses": [{"ip": "10.0.0.2"}],
                   "ports": [{"name": "b", "port": 2, "protocol": "TCP"},
                             {"name": "a", "port": 1, "protocol": "TCP"}]}),
            json!({"addresses": [{"ip": "10.0.0.3"}], "ports": null}),
        ];
        let found = desired(&subsets);
        assert_eq!(found["IPv6"].len(), 1);
        let v4 = &found["IPv4"];
        assert_eq!(v4.len(), 2);
        let (ports, endpoints) = v4.iter().find(|(ports, _)| !ports.is_empty()).unwrap();
        assert_eq!(ports[0].name, "a");
        let ready: Vec<_> = endpoints.iter().map(|it| it.conditions.ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
    }

    #[test]
    fn only_what_nobody_else_manages_is_mirrored() {
        let mut endpoints = Endpoints::default();
        let mut service = Service::default();
        assert!(is_mirrored(&endpoints, &service));
        endpoints.metadata.labels.insert(SKIP.into(), "true".into());
        assert!(!is_mirrored(&endpoints, &service));
        endpoints.metadata.labels.clear();
        service.spec.selector.insert("app".into(), "web".into());
        assert!(!is_mirrored(&endpoints, &service));
    }
}
