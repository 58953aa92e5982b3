//! Objects that live as long as another: the IPAddress of each cluster IP of a service.
//!
//! Writes of a service make and remove its addresses in the same request; what a crash or an older
//! server left undone is mended here, as upstream's repair does. Invariant: an object is removed only
//! while it still says what we wrote into it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api_server::ApiServer;
use crate::registry::Object;
use crate::storage::Storage;
use crate::storage::entry::encode;
use crate::storage::keys::object_key;
use crate::storage::write::{Change, Outcome};

/// The time between two looks at everything, upstream's.
const REPAIR: Duration = Duration::from_secs(3 * 60);
/// What is younger may belong to a service whose write is under way.
const YOUNG: Duration = Duration::from_secs(60);

const ADDRESSES: &str = "ipaddresses.networking.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// An object that another one needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Companion {
    pub resource: &'static str,
    /// Without uid and time of creation.
    pub object: Object,
}

/// The IPAddress of a service's cluster IP.
pub fn address(ip: &str, namespace: &str, name: &str) -> Companion {
    let family = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    };
    let object = json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": ip,
            "labels": {"ipaddress.kubernetes.io/ip-family": family, MANAGED_BY: ALLOCATOR},
        },
        "spec": {"parentRef": {"name": name, "namespace": namespace, "resource": "services"}},
    });
    Companion { resource: ADDRESSES, object }
}

/// Makes the companions that are new and removes those that are no more. What fails is mended by
/// `run`; the write that it belongs to is done already.
pub async fn follow(storage: &Storage, new: &[Companion], old: &[Companion], now: Timestamp) {
    for companion in new.iter().filter(|one| !old.contains(one)) {
        tell(make(storage, companion, now).await, &companion.object);
    }
    for companion in old.iter().filter(|one| !new.contains(one)) {
        tell(remove(storage, companion).await, &companion.object);
    }
}

fn tell(done: Result<(), Status>, object: &Object) {
    if let Err(err) = done {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        warn!(name, err = %err.message, "Could not write an IPAddress, its repair will");
    }
}

async fn make(storage: &Storage, companion: &Companion, now: Timestamp) -> Result<(), Status> {
    let Some(path) = path(storage, companion) else { return Ok(()) };
    let mut object = companion.object.clone();
    object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
    object["metadata"]["creationTimestamp"] = json!(format!("{now:.0}"));
    let change = Change::Put { value: encode(&object).into(), lease: 0 };
    match storage.write(&path, 0, change).await? {
        Outcome::Done(_) | Outcome::Conflict(_) => Ok(()),
    }
}

async fn remove(storage: &Storage, companion: &Companion) -> Result<(), Status> {
    let Some(path) = path(storage, companion) else { return Ok(()) };
    let Some(store) = storage.store(companion.resource) else { return Ok(()) };
    storage.settled().await?;
    let name = companion.object["metadata"]["name"].as_str().unwrap_or_default();
    let Some(entry) = store.get(&object_key("", name)) else { return Ok(()) };
    if entry.object()["spec"] == companion.object["spec"] {
        storage.write(&path, entry.revision, Change::Delete).await?;
    }
    Ok(())
}

fn path(storage: &Storage, companion: &Companion) -> Option<String> {
    let store = storage.store(companion.resource)?;
    let name = companion.object["metadata"]["name"].as_str()?;
    Some(format!("{}{}", store.prefix, object_key("", name)))
}

/// What there is too little and too much of.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    make: Vec<Companion>,
    remove: Vec<Companion>,
}

fn plan(wanted: Vec<Companion>, addresses: &[Arc<Object>], now: Timestamp) -> Plan {
    let name = |object: &Object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut by_name: HashMap<String, Companion> =
        wanted.into_iter().map(|one| (name(&one.object), one)).collect();
    let mut plan = Plan::default();
    for object in addresses {
        let ours = object["metadata"]["labels"][MANAGED_BY] == ALLOCATOR;
        let service = object["spec"]["parentRef"]["resource"] == "services";
        match by_name.remove(&name(object)) {
            Some(want) if want.object["spec"] == object["spec"] => {}
            // Somebody else holds the address: the service keeps it, and so does the other.
            Some(_) => {}
            None if ours && service && is_old(object, now) => {
                plan.remove.push(Companion { resource: ADDRESSES, object: Object::clone(object) });
            }
            None => {}
        }
    }
    plan.make = by_name.into_values().collect();
    plan
}

fn is_old(object: &Object, now: Timestamp) -> bool {
    let made: Option<Timestamp> =
        object["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    made.is_none_or(|made| now.duration_since(made).unsigned_abs() > YOUNG)
}

/// Mends what services and their addresses disagree about, until `stop`.
pub async fn run(server: Arc<ApiServer>, stop: CancellationToken) {
    loop {
        if let Err(err) = repair(&server).await {
            warn!(err = %err.message, "Could not compare services with their addresses, retrying");
        }
        tokio::select! {
            () = tokio::time::sleep(REPAIR) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn repair(server: &ApiServer) -> Result<(), Status> {
    server.storage.settled().await?;
    let services = server.cluster.list("services", "");
    let wanted = services.iter().flat_map(|entry| of_service(&entry.object())).collect();
    let addresses: Vec<Arc<Object>> =
        server.cluster.list(ADDRESSES, "").iter().map(|entry| Arc::new(entry.object())).collect();
    let now = server.now();
    let plan = plan(wanted, &addresses, now);
    follow(&server.storage, &plan.make, &plan.remove, now).await;
    Ok(())
}

/// The addresses of a service.
pub fn of_service(service: &Value) -> Vec<Companion> {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    ips.filter_map(Value::as_str)
        .filter(|ip| ip.parse::<IpAddr>().is_ok())
        .map(|ip| address(ip, text("namespace"), text("name")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().expect("a time")
    }

    fn stored(ip: &str, name: &str, made: &str) -> Arc<Object> {
        let mut object = address(ip, "default", name).object;
        object["metadata"]["creationTimestamp"] = json!(made);
        Arc::new(object)
    }

    #[test]
    fn addresses_without_a_service_go_when_they_are_old() {
        let have = [
            stored("10.0.0.1", "a", "2026-01-01T00:00:00Z"),
            stored("10.0.0.2", "gone", "2026-01-01T00:00:00Z"),
            stored("10.0.0.3", "coming", "2026-01-01T00:09:50Z"),
        ];
        let wanted = vec![address("10.0.0.1", "default", "a"), address("10.0.0.4", "default", "b")];
        let plan = plan(wanted, &have, now());
        assert_eq!(plan.make, [address("10.0.0.4", "default", "b")]);
        assert_eq!(plan.remove.len(), 1);
        assert_eq!(plan.remove[0].object["metadata"]["name"], "10.0.0.2");
    }

    #[test]
    fn a_service_has_the_addresses_that_it_names() {
        let service = json!({"metadata": {"name": "s", "namespace": "n"},
            "spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}});
        assert_eq!(of_service(&service).len(), 2);
        let headless = json!({"metadata": {"name": "s"}, "spec": {"clusterIPs": ["None"]}});
        assert!(of_service(&headless).is_empty());
    }
}
