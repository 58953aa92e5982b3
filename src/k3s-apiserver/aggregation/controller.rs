//! Keeps APIServices and what is known of their servers up to date.
//!
//! One task, woken by the APIServices, the definitions of custom resources and (while there is a
//! server behind a Service) Services and their endpoints, and by the clock while servers are asked
//! whether they are there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::{join_all, select_all};
use jiff::Timestamp;
use pki::trust::Trust;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::plan::{Step, Verdict, judged, reachable, registered};
use super::{Delegate, resources};
use crate::api_server::ApiServer;
use crate::proxy::endpoint;
use crate::registry::Object;
use crate::registry::value::{flag, has, int, key, text};
use crate::remote::{Place, Server};
use crate::storage::entry::{Entry, encode};
use crate::storage::store::Store;
use crate::storage::write::Change;

const SERVICES: &str = "apiservices.apiregistration.k8s.io";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// How often servers are asked whether they are there, as upstream does.
const ASK: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
/// Changes come in bursts.
const GATHER: Duration = Duration::from_millis(200);

/// Runs until `stop`.
pub async fn run(server: Arc<ApiServer>, stop: CancellationToken) {
    let stores = [SERVICES, DEFINITIONS, "services", "endpointslices.discovery.k8s.io"];
    let stores: Vec<Arc<Store>> =
        stores.iter().filter_map(|name| server.storage.store(name)).collect();
    loop {
        let delegated = !server.delegates.all().is_empty();
        let watched = if delegated { &stores[..] } else { &stores[..2] };
        // Asked for before the round, so that no change falls between.
        let mut changed = select_all(watched.iter().map(|store| {
            let mut notified = Box::pin(store.changed.notified());
            notified.as_mut().enable();
            notified
        }));
        let pause = match round(&server).await {
            Ok(Some(true)) => Some(ASK),
            Ok(Some(false)) => Some(AGAIN),
            Ok(None) => None,
            Err(err) => {
                warn!(err = %err, "Could not settle API services, retrying");
                Some(AGAIN)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            _ = &mut changed => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
    }
}

/// One round; says whether all servers answered, or that there is none.
async fn round(server: &ApiServer) -> Result<Option<bool>, Status> {
    let Some(store) = server.storage.store(SERVICES) else { return Ok(None) };
    if !server.storage.loaded() || !server.started.load(std::sync::atomic::Ordering::Acquire) {
        return Ok(Some(false));
    }
    server.storage.settled().await?;
    let entries = store.list("");
    let objects: Vec<Object> = entries.iter().map(|entry| entry.object()).collect();
    register(server, &store, &objects).await?;
    let delegated: Vec<(&Arc<Entry>, &Object)> =
        entries.iter().zip(&objects).filter(|(_, api)| has(api, "spec.service")).collect();
    let before = server.delegates.all();
    let asked = delegated.iter().map(|(_, api)| {
        let known = before.iter().find(|one| one.name == text(api, "metadata.name"));
        ask(server, api, known.map(|known| &**known))
    });
    let mut now_known = Vec::new();
    let mut good = true;
    for ((entry, api), (delegate, verdict)) in delegated.iter().zip(join_all(asked).await) {
        good &= verdict.available;
        let was = before.iter().find(|one| one.name == delegate.name);
        if was.is_none_or(|was| was.available != verdict.available) {
            let (name, reason) = (&delegate.name, verdict.reason);
            info!(name, available = verdict.available, reason, "Aggregated API was judged");
        }
        now_known.push(Arc::new(delegate));
        if let Some(judged) = judged(api, &verdict, Timestamp::now()) {
            let path = format!("{}{}", store.prefix, entry.key);
            let change = Change::Put { value: encode(&judged).into(), lease: 0 };
            server.storage.write(&path, entry.revision, change).await?;
        }
    }
    let any = !now_known.is_empty();
    server.delegates.0.store(Arc::new(now_known));
    Ok(any.then_some(good))
}

/// Keeps one local APIService for each custom group version.
async fn register(server: &ApiServer, store: &Store, have: &[Object]) -> Result<(), Status> {
    let custom: BTreeSet<(String, String)> = server
        .kinds
        .custom()
        .iter()
        .map(|kind| (kind.group.clone(), kind.version.clone()))
        .collect();
    for step in registered(&custom, have, Timestamp::now()) {
        let (name, change) = match step {
            Step::Create(object) => {
                let name = text(&object, "metadata.name").to_owned();
                (name, Change::Put { value: encode(&object).into(), lease: 0 })
            }
            Step::Delete(name) => (name, Change::Delete),
        };
        let expected = store.get(&name).map_or(0, |entry| entry.revision);
        let path = format!("{}{name}", store.prefix);
        server.storage.write(&path, expected, change).await?;
    }
    Ok(())
}

/// Finds out whether a server is there and what it serves.
async fn ask(server: &ApiServer, api: &Object, known: Option<&Delegate>) -> (Delegate, Verdict) {
    let mut delegate = Delegate {
        name: text(api, "metadata.name").to_owned(),
        group: text(api, "spec.group").to_owned(),
        version: text(api, "spec.version").to_owned(),
        server: place(api),
        priority: int(api, "spec.groupPriorityMinimum").unwrap_or_default(),
        available: false,
        resources: known.map(|known| known.resources.clone()).unwrap_or_default(),
        openapi: known.and_then(|known| known.openapi.clone()),
    };
    let (namespace, name) = (text(api, "spec.service.namespace"), text(api, "spec.service.name"));
    let service = server.cluster.get("services", namespace, name).map(|entry| entry.object());
    let port = int(api, "spec.service.port").unwrap_or(443).to_string();
    let endpoints = service.as_ref().is_some_and(|service| {
        endpoint(&server.cluster, namespace, name, service, &port).is_some()
    });
    if let Some(verdict) = reachable(api, service.as_ref(), endpoints) {
        return (delegate, verdict);
    }
    let path = format!("/apis/{}/{}", delegate.group, delegate.version);
    let remote = match &delegate.server {
        Ok(remote) => remote.clone(),
        Err(why) => return (delegate.clone(), Verdict::failed(why.clone())),
    };
    let url = format!("https://{}{path}", remote.authority());
    let listed = match get(server, &remote, &path).await {
        Ok(listed) => listed,
        Err(why) => {
            let message = format!("failing or missing response from {url}: {why}");
            return (delegate, Verdict::failed(message));
        }
    };
    delegate.resources = resources(&listed);
    delegate.available = true;
    let place = path.trim_start_matches('/').to_owned();
    if let Ok(index) = get(server, &remote, "/openapi/v3").await {
        let url = text(key(key(&index, "paths"), &place), "serverRelativeURL");
        delegate.openapi = url.split_once('?').map(|(_, query)| query.to_owned());
    }
    (delegate, Verdict::passed())
}

async fn get(server: &ApiServer, remote: &Server, path: &str) -> Result<Value, String> {
    match timeout(PATIENCE, server.remote.get(&server.cluster, remote, path)).await {
        Ok(answered) => answered,
        Err(_) => {
            Err(format!("Get \"https://{}{path}\": context deadline exceeded", remote.authority()))
        }
    }
}

/// Where the server of an APIService is.
fn place(api: &Object) -> Result<Server, String> {
    let trust = match (text(api, "spec.caBundle"), flag(api, "spec.insecureSkipTLSVerify")) {
        (_, true) => Trust::Anyone,
        ("", false) => Trust::System,
        (bundle, false) => Trust::Bundle(STANDARD.decode(bundle).map_err(|err| err.to_string())?),
    };
    Ok(Server {
        place: Place::Service {
            namespace: text(api, "spec.service.namespace").to_owned(),
            name: text(api, "spec.service.name").to_owned(),
        },
        port: int(api, "spec.service.port")
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(443),
        path: String::new(),
        trust,
        as_proxy: true,
    })
}
