//! ServiceCIDRs: ready when they are there, and gone only when no Service would lose its address.
//!
//! Invariant: while an IPAddress lies in no other range that stays, the finalizer stays.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{Action, Event, Key, Patch, WorkQueue, is_not_found};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::SERVICE_CIDRS,
    types::{Partial, condition, networking::ServiceCidr},
    workers,
};

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long API servers may take to learn that a range is going.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let (filled, all) = (queue.clone(), cx.caches.service_cidrs.lister());
    cx.caches.service_cidrs.on_event(move |event| {
        filled.add(event.object().metadata.key());
        // A range that comes may let another go, one that goes may hold another.
        if !matches!(event, Event::Updated { .. }) {
            all.list().iter().for_each(|other| filled.add(other.metadata.key()));
        }
    });
    let (filled, all) = (queue.clone(), cx.caches.service_cidrs.lister());
    cx.caches.ip_addresses.on_event(move |event| {
        let Some(ip) = allocated(event.object()) else { return };
        for range in all.list() {
            if range.metadata.is_deleting() && contains(&range, ip) {
                filled.add(range.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// The finalizer is missing.
    Protect,
    Ready,
    /// It is going, and addresses would be left without a range.
    Hold,
    Wait(Duration),
    Release,
}

fn contains(range: &ServiceCidr, ip: IpAddr) -> bool {
    range.ranges().any(|range| range.contains(ip))
}

/// The address of an IPAddress that a Service was given.
fn allocated(address: &Partial) -> Option<IpAddr> {
    let ours = address.metadata.labels.get(MANAGED_BY).is_some_and(|it| it == ALLOCATOR);
    if ours { address.metadata.name.parse().ok() } else { None }
}

/// Whether every address of the range has, or would have, another range.
fn can_go(range: &ServiceCidr, all: &[Arc<ServiceCidr>], used: &[IpAddr]) -> bool {
    let staying: Vec<IpNetwork> = all
        .iter()
        .filter(|it| it.metadata.uid != range.metadata.uid && !it.metadata.is_deleting())
        .flat_map(|it| it.ranges())
        .collect();
    let within = |range: IpNetwork| {
        staying.iter().any(|it| it.prefix() <= range.prefix() && it.contains(range.network()))
    };
    if range.ranges().all(within) {
        return true;
    }
    let lost = |ip: &&IpAddr| {
        contains(range, **ip) && !staying.iter().any(|staying| staying.contains(**ip))
    };
    !used.iter().any(|ip| lost(&ip))
}

fn plan(range: &ServiceCidr, all: &[Arc<ServiceCidr>], used: &[IpAddr], now: Timestamp) -> Step {
    let protected = range.metadata.has_finalizer(FINALIZER);
    let ready = condition(&range.status.conditions, "Ready");
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        return match ready {
            _ if !protected => Step::Protect,
            Some(ready) if ready.is_true() => Step::Nothing,
            _ => Step::Ready,
        };
    };
    if !protected {
        return Step::Nothing;
    }
    if !can_go(range, all, used) {
        let said = ready.is_some_and(|it| it.status == "False" && it.reason == "Terminating");
        return if said { Step::Nothing } else { Step::Hold };
    }
    let passed = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    match GRACE.checked_sub(passed) {
        Some(left) if !left.is_zero() => Step::Wait(left),
        _ => Step::Release,
    }
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(range) = cx.caches.service_cidrs.lister().get(key) else { return Ok(Action::Done) };
    let all = cx.caches.service_cidrs.lister().list();
    let used: Vec<IpAddr> = if range.metadata.is_deleting() {
        cx.caches.ip_addresses.lister().list().iter().filter_map(|it| allocated(it)).collect()
    } else {
        Vec::new()
    };
    let finalizers = |list: Vec<&String>| {
        let version = &range.metadata.resource_version;
        json!({"metadata": {"resourceVersion": version, "finalizers": list}})
    };
    let (subresource, patch, body) = match plan(&range, &all, &used, client::now()) {
        Step::Nothing => return Ok(Action::Done),
        Step::Wait(left) => return Ok(Action::RequeueAfter(left)),
        Step::Protect => {
            let ours = FINALIZER.to_owned();
            let list = range.metadata.finalizers.iter().chain([&ours]).collect();
            ("", Patch::Merge, finalizers(list))
        }
        Step::Release => {
            let list = range.metadata.finalizers.iter().filter(|it| *it != FINALIZER).collect();
            ("", Patch::Merge, finalizers(list))
        }
        Step::Ready => {
            let ready = ("True", "", "Kubernetes Service CIDR is ready");
            ("status", Patch::Apply(NAME), status(&key.name, ready))
        }
        Step::Hold => {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove \
                them or create a new ServiceCIDR";
            ("status", Patch::Apply(NAME), status(&key.name, ("False", "Terminating", message)))
        }
    };
    match cx.rest.patch::<ServiceCidr>(&SERVICE_CIDRS, key, subresource, patch, &body).await {
        // Without its finalizer a range that is going may be gone by now.
        Ok(range) if range.metadata.is_deleting() => {}
        Ok(range) => cx.caches.service_cidrs.observe(range),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating ServiceCIDR {key}")),
    }
    Ok(Action::Done)
}

fn status(name: &str, (status, reason, message): (&str, &str, &str)) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "status": {"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": client::rfc3339(client::now()),
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidr: &str, rest: Value) -> Arc<ServiceCidr> {
        let mut object = json!({
            "metadata": {"name": name, "uid": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": [cidr]},
        });
        for (key, value) in rest.as_object().into_iter().flatten() {
            object["metadata"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn ranges_become_ready_and_go_when_no_address_needs_them() {
        let now: Timestamp = "2030-01-01T00:00:20Z".parse().unwrap();
        let going = json!({"deletionTimestamp": "2030-01-01T00:00:00Z"});
        let fresh = json!({"deletionTimestamp": "2030-01-01T00:00:15Z"});
        let check = |first: &Arc<ServiceCidr>, others: &[Arc<ServiceCidr>], used: &[&str], want| {
            let mut all = vec![Arc::clone(first)];
            all.extend_from_slice(others);
            let used: Vec<IpAddr> = used.iter().map(|it| it.parse().unwrap()).collect();
            assert_eq!(plan(first, &all, &used, now), want, "{first:?}");
        };
        let wide = range("wide", "10.0.0.0/8", json!({}));
        check(&range("a", "10.1.0.0/16", json!({"finalizers": []})), &[], &[], Step::Protect);
        check(&wide, &[], &["10.1.2.3"], Step::Ready);
        let mut ready = ServiceCidr::clone(&wide);
        ready.status.conditions = vec![crate::types::Condition::new("Ready", "True", "", "")];
        check(&Arc::new(ready), &[], &[], Step::Nothing);
        let going_one = range("a", "10.1.0.0/16", going.clone());
        check(&going_one, &[], &["10.1.2.3"], Step::Hold);
        check(&going_one, &[], &["10.2.2.3"], Step::Release);
        check(&going_one, std::slice::from_ref(&wide), &["10.1.2.3"], Step::Release);
        let part = range("part", "10.1.2.0/24", json!({}));
        check(&going_one, std::slice::from_ref(&part), &["10.1.2.3"], Step::Release);
        check(&going_one, &[part], &["10.1.2.3", "10.1.3.3"], Step::Hold);
        // Two that go at once hold each other's addresses.
        check(&going_one, &[range("b", "10.1.0.0/16", going)], &["10.1.2.3"], Step::Hold);
        let wait = Step::Wait(Duration::from_secs(5));
        check(&range("a", "10.1.0.0/16", fresh), &[], &[], wait);
    }
}
