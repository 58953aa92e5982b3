//! The Service `kube-system/kube-dns`: the name under which everybody looks for cluster DNS.
//!
//! Its address is on every node's `lo`, served by k3s-dns, so it has no selector and the proxies
//! are told by label to leave it alone.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{Action, Event, Key, Patch, WorkQueue, is_already_exists, is_not_found};
use serde_json::json;

use crate::{Cx, Running, caches::SERVICES, types::core::Service, workers};

const NAME: &str = "cluster-dns-controller";
const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const PROXY_NAME: &str = "k3s-dns";

pub(crate) fn start(cx: &Cx) -> Running {
    if cx.args.cluster_dns.is_empty() {
        return Box::pin(async {});
    }
    let queue = WorkQueue::new();
    queue.add(Key::new(NAMESPACE, SERVICE));
    let filled = queue.clone();
    cx.caches.services.on_event(move |event| {
        let key = event.object().metadata.key();
        if key.namespace == NAMESPACE && key.name == SERVICE {
            filled.add(key);
        }
    });
    let filled = queue.clone();
    cx.caches.namespaces.on_event(move |event| {
        if let Event::Added(namespace) = event
            && namespace.metadata.name == NAMESPACE
        {
            filled.add(Key::new(NAMESPACE, SERVICE));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    if cx.caches.namespaces.lister().get(&Key::cluster(NAMESPACE)).is_none() {
        return Ok(Action::Done);
    }
    if let Some(service) = cx.caches.services.lister().get(key) {
        if service.metadata.labels.get(PROXY_LABEL).is_none_or(|it| it != PROXY_NAME) {
            let body = json!({"metadata": {"labels": {PROXY_LABEL: PROXY_NAME}}});
            let service: Service = cx.rest.patch(&SERVICES, key, "", Patch::Merge, &body).await?;
            cx.caches.services.observe(service);
        }
        return Ok(Action::Done);
    }
    // The first address when several families are configured.
    let address = cx.args.cluster_dns.split(',').next().unwrap_or_default();
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let body = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
                PROXY_LABEL: PROXY_NAME,
            },
        },
        "spec": {
            "clusterIP": address, "clusterIPs": [address],
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    match cx.rest.create::<Service>(&SERVICES, NAMESPACE, &body).await {
        Ok(service) => cx.caches.services.observe(service),
        Err(err) if is_already_exists(&err) || is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("creating service {key}")),
    }
    Ok(Action::Done)
}
