//! The garbage collector: what only absent owners own is deleted; foreground and orphan deletions
//! are carried out.
//!
//! `graph.rs` knows who owns whom, from metadata of every resource that the server discovers. An
//! owner that the graph does not know is looked up at the server before anything is deleted.

mod graph;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use client::{
    Action, Event, HasMeta, Key, OwnerReference, Patch, Preconditions, Propagation, Reflector,
    Resource, Selection, WorkQueue, is_conflict, is_invalid, is_not_found,
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::graph::{Below, FOREGROUND, Graph, Node, ORPHAN, Owner, Step, plan};
use crate::{
    Cx, Running,
    discovery::{Discovered, discover},
    types::Partial,
};

const NAME: &str = "garbage-collector-controller";
const WORKERS: usize = 20;
const REDISCOVER_AFTER: Duration = Duration::from_millis(500);
const DISCOVERY_RETRY: Duration = Duration::from_secs(5);

struct Collector {
    cx: Cx,
    queue: WorkQueue<String>,
    graph: Mutex<State>,
    rediscover: Notify,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// Set once every monitor knows its initial state.
    complete: bool,
    /// Resource by apiVersion and kind, of everything discovered.
    kinds: HashMap<(String, String), Arc<Resource>>,
    monitored: Vec<(String, String)>,
}

pub(crate) fn start(cx: &Cx) -> Running {
    let collector = Arc::new(Collector {
        cx: cx.clone(),
        queue: WorkQueue::new(),
        graph: Mutex::default(),
        rediscover: Notify::new(),
    });
    macro_rules! share {
        ($($field:ident),* $(,)?) => {
            $(collector.monitor(&cx.caches.$field);)*
        };
    }
    share!(
        pods,
        nodes,
        namespaces,
        services,
        endpoints,
        slices,
        replica_sets,
        replication_controllers,
        deployments,
        daemon_sets,
        stateful_sets,
        revisions,
        jobs,
        cron_jobs,
        budgets,
        cluster_roles,
        quotas,
        claims,
        volumes,
        storage_classes,
        signing_requests,
    );
    Box::pin(async move {
        let stop = collector.cx.stop.clone();
        let mut tasks = JoinSet::new();
        let this = Arc::clone(&collector);
        tasks.spawn(async move {
            let queue = this.queue.clone();
            let stop = this.cx.stop.clone();
            client::run_workers(NAME, queue, WORKERS, stop, |uid| this.process(uid)).await;
        });
        collector.keep_monitoring(&mut tasks, &stop).await;
    })
}

impl Collector {
    /// Discovers and watches, and discovers again when kinds come or go.
    async fn keep_monitoring(self: &Arc<Self>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match self.monitor_all(tasks, stop).await {
                Ok(true) => {}
                Ok(false) => {
                    wait = DISCOVERY_RETRY;
                    continue;
                }
                Err(err) => {
                    tracing::warn!(err = format!("{err:#}"), "Discovery failed, retrying");
                    wait = DISCOVERY_RETRY;
                    continue;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.rediscover.notified() => wait = REDISCOVER_AFTER,
            }
        }
    }

    /// Starts what is not monitored yet; returns whether everything could be discovered.
    async fn monitor_all(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let discovery = discover(&self.cx.rest).await?;
        let wanted = |it: &&Discovered| {
            it.has(&["list", "watch", "delete"]) && it.resource.plural != "events"
        };
        let mut fresh = Vec::new();
        {
            let mut state = self.state();
            for Discovered { resource, .. } in discovery.found.iter().filter(wanted) {
                let kind = (resource.api_version(), resource.kind.to_string());
                state.kinds.entry(kind).or_insert_with(|| Arc::new(resource.clone()));
                let id = (resource.group.to_string(), resource.plural.to_string());
                if !state.monitored.contains(&id) {
                    state.monitored.push(id);
                    fresh.push(resource.clone());
                }
            }
        }
        let mut synced = JoinSet::new();
        for resource in fresh {
            let client = self.cx.rest.client().clone();
            let reflector: Reflector<Partial> =
                Reflector::metadata(client, resource, Selection::default());
            self.subscribe(&reflector);
            tasks.spawn(reflector.clone().run(stop.clone()));
            synced.spawn(async move { reflector.synced().await });
        }
        // A kind that can't be listed must not hold up the collection of all others for ever.
        let all = async { while synced.join_next().await.is_some() {} };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(Duration::from_secs(30), all) => {}
        }
        let mut state = self.state();
        state.complete = true;
        for uid in state.graph.suspects() {
            self.queue.add(uid);
        }
        Ok(discovery.failed.is_empty())
    }

    /// Uses a cache that the process has anyhow.
    fn monitor<T>(self: &Arc<Self>, reflector: &Reflector<T>)
    where
        T: HasMeta + DeserializeOwned + Send + Sync + 'static,
    {
        let resource = reflector.resource();
        let id = (resource.group.to_string(), resource.plural.to_string());
        self.state().monitored.push(id);
        self.subscribe(reflector);
    }

    fn subscribe<T>(self: &Arc<Self>, reflector: &Reflector<T>)
    where
        T: HasMeta + DeserializeOwned + Send + Sync + 'static,
    {
        let this = Arc::clone(self);
        let resource = Arc::new(reflector.resource().clone());
        reflector.on_event(move |event| this.changed(&resource, event));
    }

    fn changed<T: HasMeta>(&self, resource: &Arc<Resource>, event: &Event<T>) {
        let meta = event.object().meta();
        if !meta.namespace.is_empty() && matches!(event, Event::Deleted(_)) {
            self.cx.caches.goings.tell(resource, &meta.namespace);
        }
        let mut state = self.state();
        let mut concerned = Vec::new();
        // A name that was taken over in one step: the old object is gone.
        if let Event::Updated { old, new } = event
            && old.meta().uid != new.meta().uid
        {
            concerned.extend(state.graph.remove(&old.meta().uid));
        }
        concerned.extend(match event {
            Event::Deleted(_) => state.graph.remove(&meta.uid),
            _ => state.graph.put(Node::new(resource, meta)),
        });
        if state.complete {
            concerned.into_iter().for_each(|uid| self.queue.add(uid));
        }
        drop(state);
        if matches!(resource.plural.as_ref(), "customresourcedefinitions" | "apiservices") {
            self.rediscover.notify_one();
        }
    }

    async fn process(&self, uid: String) -> Result<Action> {
        let (node, dependents) = {
            let state = self.state();
            let Some(node) = state.graph.get(&uid).cloned() else { return Ok(Action::Done) };
            let dependents: Vec<Node> = state.graph.dependents(&uid).into_iter().cloned().collect();
            (node, dependents)
        };
        if node.waits() {
            return self.foreground(&node, &dependents).await;
        }
        if node.deleting && node.orphan {
            return self.orphan(&node, &dependents).await;
        }
        let mut owners = Vec::with_capacity(node.owners.len());
        for owner in &node.owners {
            owners.push(self.look_at(&node, owner).await?);
        }
        let below = match dependents.as_slice() {
            [] => Below::Nothing,
            all if all.iter().any(Node::waits) => Below::Waiting,
            _ => Below::Dependents,
        };
        self.perform(&node, plan(&node, &owners, below)).await
    }

    /// Whether an owner is there: by the graph, or else by the server.
    async fn look_at(&self, node: &Node, owner: &OwnerReference) -> Result<Owner> {
        let resource = {
            let state = self.state();
            if let Some(known) = state.graph.get(&owner.uid) {
                let reachable =
                    !known.resource.namespaced || known.key.namespace == node.key.namespace;
                return Ok(match known {
                    _ if !reachable => Owner::Absent,
                    known if known.waits() => Owner::Waiting,
                    _ => Owner::Solid,
                });
            }
            state.kinds.get(&(owner.api_version.clone(), owner.kind.clone())).cloned()
        };
        let Some(resource) = resource else {
            self.rediscover.notify_one();
            bail!("owner {} {} of {} is of an unknown kind", owner.kind, owner.name, node.key);
        };
        if resource.namespaced && node.key.namespace.is_empty() {
            return Ok(Owner::Absent);
        }
        let namespace = if resource.namespaced { node.key.namespace.as_str() } else { "" };
        let key = Key::new(namespace, owner.name.clone());
        match self.cx.rest.get::<Partial>(&resource, &key).await {
            Ok(live) if live.metadata.uid == owner.uid => Ok(Owner::Solid),
            Ok(_) => Ok(Owner::Absent),
            Err(err) if is_not_found(&err) => Ok(Owner::Absent),
            Err(err) => Err(err).with_context(|| format!("reading owner {} {key}", owner.kind)),
        }
    }

    async fn perform(&self, node: &Node, step: Step) -> Result<Action> {
        let policy = match step {
            Step::Nothing => return Ok(Action::Done),
            Step::Release(uids) => {
                self.release(node, &uids).await?;
                return Ok(Action::Done);
            }
            Step::Unblock => {
                self.unblock(node).await?;
                return Ok(Action::Done);
            }
            Step::DeleteForeground => Propagation::Foreground,
            Step::Delete if node.orphan => Propagation::Orphan,
            Step::Delete if node.foreground => Propagation::Foreground,
            Step::Delete => Propagation::Background,
        };
        let when = Preconditions { uid: &node.uid, resource_version: &node.resource_version };
        match self.cx.rest.delete(&node.resource, &node.key, policy, when).await {
            Ok(()) => Ok(Action::Done),
            Err(err) if is_not_found(&err) => Ok(Action::Done),
            // A newer version: its event is on the way, or the object is another one by now.
            Err(err) if is_conflict(&err) => Ok(Action::RequeueAfter(Duration::from_millis(50))),
            Err(err) => Err(err).with_context(|| format!("deleting {}", node.key)),
        }
    }

    /// Removes these owners from an object.
    async fn release(&self, node: &Node, uids: &[String]) -> Result<()> {
        let left: Vec<&OwnerReference> =
            node.owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        let body = json!({"metadata": {
            "uid": node.uid,
            "resourceVersion": node.resource_version,
            "ownerReferences": left,
        }});
        self.patch(node, &body).await
    }

    /// Lets the owners of an object go before it; the change brings it back to the queue.
    async fn unblock(&self, node: &Node) -> Result<()> {
        let mut owners = node.owners.clone();
        for owner in &mut owners {
            owner.block_owner_deletion = owner.block_owner_deletion.map(|_| false);
        }
        let body = json!({"metadata": {
            "uid": node.uid,
            "resourceVersion": node.resource_version,
            "ownerReferences": owners,
        }});
        self.patch(node, &body).await
    }

    async fn patch(&self, node: &Node, body: &serde_json::Value) -> Result<()> {
        let answer: Result<IgnoredAny, _> =
            self.cx.rest.patch(&node.resource, &node.key, "", Patch::Merge, body).await;
        match answer {
            Ok(_) => Ok(()),
            Err(err) if is_not_found(&err) || is_invalid(&err) => Ok(()),
            Err(err) => Err(err).with_context(|| format!("updating {}", node.key)),
        }
    }

    /// Foreground: the owner goes when no dependent blocks it any more.
    async fn foreground(&self, node: &Node, dependents: &[Node]) -> Result<Action> {
        let blocks = |dependent: &&Node| {
            let mut owners = dependent.owners.iter();
            owners.any(|it| it.uid == node.uid && it.block_owner_deletion == Some(true))
        };
        if dependents.iter().any(|dependent| blocks(&dependent)) {
            for dependent in dependents.iter().filter(|it| !it.deleting) {
                self.queue.add(dependent.uid.clone());
            }
            return Ok(Action::Done);
        }
        self.drop_finalizer(node, FOREGROUND).await
    }

    /// Orphan: the dependents forget the owner, then it goes.
    async fn orphan(&self, node: &Node, dependents: &[Node]) -> Result<Action> {
        for dependent in dependents {
            self.release(dependent, std::slice::from_ref(&node.uid)).await?;
        }
        self.drop_finalizer(node, ORPHAN).await
    }

    async fn drop_finalizer(&self, node: &Node, finalizer: &str) -> Result<Action> {
        let live: Partial = match self.cx.rest.get(&node.resource, &node.key).await {
            Ok(live) => live,
            Err(err) if is_not_found(&err) => return Ok(Action::Done),
            Err(err) => return Err(err).with_context(|| format!("reading {}", node.key)),
        };
        if live.metadata.uid != node.uid || !live.metadata.has_finalizer(finalizer) {
            return Ok(Action::Done);
        }
        let left: Vec<&String> =
            live.metadata.finalizers.iter().filter(|it| *it != finalizer).collect();
        let body = json!({"metadata": {
            "uid": node.uid,
            "resourceVersion": live.metadata.resource_version,
            "finalizers": left,
        }});
        self.patch(node, &body).await?;
        Ok(Action::Done)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
