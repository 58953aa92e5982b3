//! The loop: takes the next pod, decides, assumes, binds; keeps cache and queue current.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use client::{
    Event, EventType, HasMeta, Key, ObjectReference, Patch, Preconditions, Propagation, Recorder,
    Rest, is_conflict, is_not_found, now, rfc3339,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    PODS, Sources,
    binder::Binder,
    cache::{Cache, PodInfo},
    config::Configuration,
    extender::{self, Extender},
    framework::{Survey, Unschedulable, bindings, fits, survey},
    hints::Change,
    plugins::{Binding, dynamic_resources},
    preemption::{Outcome, Preemption, preempt},
    profile::Profile,
    queue::{Queue, Waits},
    types::{BY_SCHEDULER, DISRUPTION_TARGET, Node, Pod},
};

const IN_FLIGHT_MAX: usize = 64;
const UNSCHEDULABLE: &str = "Unschedulable";

/// Cheap to clone; all clones are one scheduler.
#[derive(Clone)]
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    rest: Rest,
    binder: Binder,
    recorder: Recorder,
    profiles: Vec<Arc<Profile>>,
    extenders: Vec<Extender>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    cache: Cache,
    queue: Queue,
    /// Pods whose claims of devices are not there yet.
    without_claims: BTreeMap<Key, Arc<Pod>>,
    /// Counts decisions, to rotate where the search for nodes begins.
    turn: usize,
}

/// What is to be done about one pod, outside the lock.
enum Task {
    Bind {
        pod: Arc<Pod>,
        node: String,
    },
    /// Claims first, which may take minutes.
    BindVolumes {
        pod: Arc<Pod>,
        node: String,
        bindings: Vec<Binding>,
    },
    /// Extenders are asked about the nodes.
    Consult {
        info: Arc<PodInfo>,
        survey: Survey,
    },
    Report {
        pod: Arc<Pod>,
        message: String,
        promise: Promise<'static>,
    },
    Preempt {
        pod: Arc<Pod>,
        message: String,
        preemption: Preemption,
    },
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Clone, Copy, Debug)]
enum Promise<'a> {
    Keep,
    Clear,
    Set(&'a str),
}

impl State {
    /// The pod counts on the node from now on.
    fn assume(&mut self, info: Arc<PodInfo>, node: &str) -> Task {
        let (pod, node) = (Arc::clone(&info.pod), node.to_owned());
        let nothing = pod.spec.volumes.is_empty() && pod.spec.resource_claims.is_empty();
        let bindings = match nothing {
            true => Vec::new(),
            false => bindings(&self.cache, &info, &node),
        };
        self.cache.put(info, &node);
        if bindings.is_empty() {
            return Task::Bind { pod, node };
        }
        self.reserve(&bindings, &node);
        Task::BindVolumes { pod, node, bindings }
    }

    /// No node will do, unless others make way.
    fn refuse(&mut self, profile: &Profile, info: &PodInfo, failure: Unschedulable) -> Task {
        let pod = Arc::clone(&info.pod);
        let outcome = match profile.preempts {
            true => preempt(&mut self.cache, profile, info, &failure, self.turn),
            false => Outcome::Disabled,
        };
        if let Outcome::Preempt(preemption) = &outcome {
            preemption.demoted.iter().for_each(|key| {
                self.cache.nominated.remove(key);
            });
            self.cache.nominate(&pod, &preemption.node);
        }
        self.queue.unschedulable(&pod.metadata.key(), failure.plugins, Instant::now());
        unschedulable(pod, failure.message, failure.nodes, outcome)
    }

    /// Keeps what a pod's claims are about to get from other pods.
    fn reserve(&mut self, bindings: &[Binding], node: &str) {
        let storage = &mut self.cache.storage;
        for binding in bindings {
            match binding {
                Binding::Volume { claim, volume } => {
                    storage.promised.insert(volume.clone(), claim.clone());
                }
                Binding::Provision { claim } => {
                    storage.selected.insert(claim.clone(), node.to_owned());
                }
                Binding::Devices { claim, allocation } => {
                    self.cache.devices.promise(claim, allocation);
                }
            }
        }
    }

    fn unreserve(&mut self, bindings: &[Binding]) {
        let storage = &mut self.cache.storage;
        for binding in bindings {
            match binding {
                Binding::Volume { volume, .. } => storage.promised.remove(volume).map(drop),
                Binding::Provision { claim } => storage.selected.remove(claim).map(drop),
                Binding::Devices { claim, .. } => {
                    self.cache.devices.settle(claim);
                    None
                }
            };
        }
    }
}

impl Scheduler {
    /// Keeps cache and queue current with these sources.
    pub(crate) fn new(
        client: &kube::Client,
        recorder: Recorder,
        sources: &Sources,
        configuration: Configuration,
        waits: Waits,
    ) -> Self {
        let rest = Rest::new(client.clone());
        let mut state = State { queue: Queue::new(waits), ..State::default() };
        state.cache.storage.claims = sources.claims.lister();
        state.cache.storage.volumes = sources.volumes.lister();
        state.cache.storage.classes = sources.classes.lister();
        state.cache.storage.csi_nodes = sources.csi_nodes.lister();
        state.cache.devices.claims = sources.resource_claims.lister();
        state.cache.devices.classes = sources.device_classes.lister();
        state.cache.devices.slices = sources.resource_slices.lister();
        state.cache.owners.services = sources.services.lister();
        state.cache.owners.replication_controllers = sources.replication_controllers.lister();
        state.cache.owners.replica_sets = sources.replica_sets.lister();
        state.cache.owners.stateful_sets = sources.stateful_sets.lister();
        let shared = Shared {
            profiles: configuration.profiles,
            extenders: configuration.extenders,
            binder: Binder {
                rest: rest.clone(),
                claims: sources.claims.clone(),
                volumes: sources.volumes.clone(),
                resource_claims: sources.resource_claims.clone(),
            },
            rest,
            recorder,
            state: Mutex::new(state),
            wake: Notify::new(),
        };
        let scheduler = Scheduler { shared: Arc::new(shared) };
        scheduler.subscribe(sources);
        scheduler
    }

    fn subscribe(&self, sources: &Sources) {
        let this = self.clone();
        sources.budgets.on_event(move |event| {
            let budget = event.object();
            let mut state = this.state();
            if matches!(event, Event::Deleted(_)) {
                state.cache.budgets.remove(&budget.metadata.key());
            } else {
                state.cache.budgets.insert(budget.metadata.key(), Arc::clone(budget));
            }
        });
        let this = self.clone();
        sources.pods.on_event(move |event| this.pod_changed(event));
        let this = self.clone();
        sources.nodes.on_event(move |event| this.node_changed(event));
        let this = self.clone();
        sources.claims.on_event(move |event| {
            this.storage_changed(Change::Claim(event.object().metadata.key()));
        });
        let this = self.clone();
        sources.volumes.on_event(move |_| this.storage_changed(Change::Storage));
        let this = self.clone();
        sources.classes.on_event(move |_| this.storage_changed(Change::Storage));
        let this = self.clone();
        sources.csi_nodes.on_event(move |_| this.storage_changed(Change::Storage));
        let this = self.clone();
        sources.resource_claims.on_event(move |_| this.devices_changed());
        let this = self.clone();
        sources.device_classes.on_event(move |_| this.devices_changed());
        let this = self.clone();
        sources.resource_slices.on_event(move |_| this.devices_changed());
        let this = self.clone();
        sources.namespaces.on_event(move |event| {
            let meta = event.object().meta();
            let mut state = this.state();
            if matches!(event, Event::Deleted(_)) {
                state.cache.remove_namespace(&meta.name);
            } else {
                state.cache.set_namespace(&meta.name, &meta.labels);
            }
        });
    }

    /// Schedules until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut in_flight: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        // Apart, so that no number of slow volumes holds up other pods.
        let mut volumes: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            let woken = self.shared.wake.notified();
            let mut idle = false;
            while in_flight.len() < IN_FLIGHT_MAX {
                match self.next_task() {
                    Some(task @ Task::BindVolumes { .. }) => {
                        volumes.push(self.perform(task).boxed());
                    }
                    Some(task) => in_flight.push(self.perform(task).boxed()),
                    None => {
                        idle = true;
                        break;
                    }
                }
            }
            let due = self.state().queue.next_due();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = in_flight.next() => {}
                Some(()) = volumes.next() => {}
                () = woken, if idle => {}
                () = tokio::time::sleep_until(due), if idle => {}
            }
        }
    }

    /// Decides about the next pod, if there is one.
    fn next_task(&self) -> Option<Task> {
        let mut state = self.state();
        let now = Instant::now();
        let pod = state.queue.pop(now)?;
        state.turn = state.turn.wrapping_add(1);
        let info = Arc::new(PodInfo::new(Arc::clone(&pod)));
        let turn = state.turn;
        let profile = self.profile(&pod)?;
        let found = survey(&mut state.cache, profile, &info, turn);
        let asks = self.shared.extenders.iter().any(|it| it.is_interested(&pod));
        Some(match found {
            Ok(survey) if asks && !survey.feasible.is_empty() => Task::Consult { info, survey },
            Ok(survey) => match Survey::best(&survey.feasible, turn) {
                Some(node) => state.assume(info, node),
                None => state.refuse(profile, &info, survey.unschedulable()),
            },
            Err(failure) => state.refuse(profile, &info, failure),
        })
    }

    /// What is to be done about a pod that only extenders could judge further.
    async fn consult(&self, info: Arc<PodInfo>, mut survey: Survey) -> Task {
        let pod = Arc::clone(&info.pod);
        let nodes = std::mem::take(&mut survey.feasible);
        let shared = &self.shared;
        let answer = extender::consult(&shared.extenders, &shared.rest, &pod, nodes).await;
        let mut state = self.state();
        let failed = |state: &mut State, message: String| {
            state.queue.failed(&pod.metadata.key(), Instant::now());
            let pod = Arc::clone(&pod);
            Task::Report { pod, message, promise: Promise::Keep }
        };
        let Some(profile) = self.profile(&pod) else {
            return failed(&mut state, format!("no profile {:?}", pod.scheduler()));
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(message) => return failed(&mut state, message),
        };
        let turn = state.turn;
        let Some(node) = Survey::best(&answer.nodes, turn) else {
            for (node, why) in &answer.failed {
                survey.reject(extender::NAME, node, why);
            }
            return state.refuse(profile, &info, survey.unschedulable());
        };
        // Others were placed while the extenders thought.
        match fits(&mut state.cache, profile, &info, node) {
            None => state.assume(info, node),
            Some(rejection) => {
                survey.reject(rejection.plugin, node, &rejection.reasons.join(", "));
                let message = survey.unschedulable().message;
                failed(&mut state, message)
            }
        }
    }

    async fn perform(&self, task: Task) {
        match task {
            Task::Consult { info, survey } => {
                let task = self.consult(info, survey).await;
                Box::pin(self.perform(task)).await;
            }
            Task::Bind { pod, node } => self.bind(&pod, &node).await,
            Task::BindVolumes { pod, node, bindings } => {
                let patience = self.profile(&pod).map(|it| it.args.bind_timeout);
                let patience = patience.unwrap_or_default();
                let outcome = self.shared.binder.bind(&pod, &bindings, &node, patience).await;
                self.state().unreserve(&bindings);
                match outcome {
                    Ok(()) => self.bind(&pod, &node).await,
                    Err(message) => {
                        self.give_back(&pod, false);
                        self.fail(&pod, "SchedulerError", &message, Promise::Keep).await;
                    }
                }
            }
            Task::Report { pod, message, promise } => {
                self.report(&pod, &message, promise).await;
            }
            Task::Preempt { pod, message, preemption } => {
                self.displace(&pod, &preemption).await;
                self.report(&pod, &message, Promise::Set(&preemption.node)).await;
            }
        }
    }

    async fn bind(&self, pod: &Arc<Pod>, node: &str) {
        let key = pod.metadata.key();
        if let Some(extender) = self.shared.extenders.iter().find(|it| it.binds(pod)) {
            match extender.bind(pod, node).await {
                Ok(()) => self.bound(pod, node),
                Err(err) => {
                    self.give_back(pod, false);
                    let message = format!("binding rejected: {err}");
                    self.fail(pod, "SchedulerError", &message, Promise::Keep).await;
                }
            }
            return;
        }
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {
                "name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid,
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.shared.rest.create_sub::<IgnoredAny>(&PODS, &key, "binding", &body).await {
            Ok(_) => self.bound(pod, node),
            Err(err) => {
                self.give_back(pod, is_not_found(&err));
                if !is_conflict(&err) && !is_not_found(&err) {
                    let err = client::describe(&err);
                    tracing::warn!(pod = %key, node, err, "Pod was not bound, retrying");
                    let message = format!("binding rejected: {err}");
                    self.fail(pod, "SchedulerError", &message, Promise::Keep).await;
                }
            }
        }
    }

    fn bound(&self, pod: &Pod, node: &str) {
        let key = pod.metadata.key();
        let message = format!("Successfully assigned {key} to {node}");
        let about = ObjectReference::new(&PODS, &pod.metadata);
        self.shared.recorder.event(&about, EventType::Normal, "Scheduled", message);
        self.state().queue.remove(&key);
    }

    /// A binding was refused: the pod is no longer on the node, and tried again if it still exists.
    fn give_back(&self, pod: &Arc<Pod>, gone: bool) {
        let key = &pod.metadata.key();
        let mut state = self.state();
        state.cache.remove_pod(key);
        self.changed(&mut state, &Change::PodGone(Arc::clone(pod)));
        if gone {
            // Deleted meanwhile, or replaced by a namesake, which its own event queues.
            state.queue.remove(key);
        } else {
            state.queue.failed(key, Instant::now());
        }
        self.shared.wake.notify_one();
    }

    /// Makes victims go and takes promises back. What fails is tried again with the pod itself.
    async fn displace(&self, pod: &Pod, preemption: &Preemption) {
        let rest = &self.shared.rest;
        let victims = preemption.victims.iter().filter(|it| !it.metadata.is_deleting());
        for victim in victims {
            let key = victim.metadata.key();
            let condition = json!({
                "type": DISRUPTION_TARGET, "status": "True", "reason": BY_SCHEDULER,
                "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler()),
                "lastTransitionTime": rfc3339(now()),
            });
            let body = json!({
                "metadata": {"uid": victim.metadata.uid},
                "status": {"conditions": [condition]},
            });
            let marked: Result<IgnoredAny, _> =
                rest.patch(&PODS, &key, "status", Patch::Strategic, &body).await;
            let when = Preconditions { uid: &victim.metadata.uid, ..Preconditions::default() };
            let gone = match marked {
                Ok(_) => rest.delete(&PODS, &key, Propagation::Default, when).await,
                Err(err) => Err(err),
            };
            match gone {
                Ok(()) => {
                    let node = &preemption.node;
                    let message = format!("Preempted by pod {} on node {node}", pod.metadata.uid);
                    let about = ObjectReference::new(&PODS, &victim.metadata);
                    self.shared.recorder.event(&about, EventType::Normal, "Preempted", message);
                }
                Err(err) if is_not_found(&err) || is_conflict(&err) => {}
                Err(err) => {
                    let err = client::describe(&err);
                    tracing::warn!(pod = %key, err, "Pod was not preempted, retrying");
                }
            }
        }
        for key in &preemption.demoted {
            let body = json!({"status": {"nominatedNodeName": null}});
            let answer: Result<IgnoredAny, _> =
                rest.patch(&PODS, key, "status", Patch::Merge, &body).await;
            if let Err(err) = answer
                && !is_not_found(&err)
            {
                let err = client::describe(&err);
                tracing::warn!(pod = %key, err, "Nominated node was not cleared, ignoring");
            }
        }
    }

    async fn report(&self, pod: &Pod, message: &str, promise: Promise<'_>) {
        tracing::debug!(pod = %pod.metadata.key(), message, "Pod was not schedulable");
        self.fail(pod, UNSCHEDULABLE, message, promise).await;
    }

    /// The event, and the condition `PodScheduled=False` when it says something new.
    async fn fail(&self, pod: &Pod, reason: &str, message: &str, promise: Promise<'_>) {
        let about = ObjectReference::new(&PODS, &pod.metadata);
        self.shared.recorder.event(&about, EventType::Warning, "FailedScheduling", message);
        let known = pod.status.conditions.iter().find(|it| it.kind == "PodScheduled");
        let nominated = pod.status.nominated_node_name.as_str();
        let promise = match promise {
            Promise::Set(node) if node != nominated => Some(json!(node)),
            Promise::Clear if !nominated.is_empty() => Some(Value::Null),
            _ => None,
        };
        let said = known
            .is_some_and(|it| it.status == "False" && it.reason == reason && it.message == message);
        if said && promise.is_none() {
            return;
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        });
        if known.is_none_or(|it| it.status != "False") {
            condition["lastTransitionTime"] = json!(rfc3339(now()));
        }
        let mut body = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [condition]},
        });
        if let Some(promise) = promise {
            body["status"]["nominatedNodeName"] = promise;
        }
        let key = pod.metadata.key();
        let patch = Patch::Strategic;
        let answer: Result<IgnoredAny, _> =
            self.shared.rest.patch(&PODS, &key, "status", patch, &body).await;
        match answer {
            Ok(_) => {}
            Err(err) if is_not_found(&err) || is_conflict(&err) => {}
            Err(err) => {
                let err = client::describe(&err);
                tracing::warn!(pod = %key, err, "Pod condition was not written, ignoring");
            }
        }
    }

    fn pod_changed(&self, event: &Event<Pod>) {
        let pod = event.object();
        let key = pod.metadata.key();
        let mut state = self.state();
        let gone = matches!(event, Event::Deleted(_)) || pod.is_finished();
        let promise = &pod.status.nominated_node_name;
        state.without_claims.remove(&key);
        if gone || pod.is_assigned() || promise.is_empty() {
            state.cache.nominated.remove(&key);
        } else {
            state.cache.nominate(pod, promise);
        }
        if gone {
            state.queue.remove(&key);
            let was = state.cache.node_of(&key).is_some();
            state.cache.remove_pod(&key);
            if was {
                self.changed(&mut state, &Change::PodGone(Arc::clone(pod)));
            }
        } else if pod.is_assigned() {
            state.queue.remove(&key);
            let fresh = state.cache.node_of(&key) != Some(pod.spec.node_name.as_str());
            state.cache.place(pod, &pod.spec.node_name);
            let relabelled =
                event.old().is_some_and(|old| old.metadata.labels != pod.metadata.labels);
            if fresh || relabelled {
                self.changed(&mut state, &Change::PodPlaced(Arc::clone(pod)));
            }
        } else if wants_node(pod) && self.profile(pod).is_some() {
            if dynamic_resources::claims(&state.cache.devices, pod).is_err() {
                // Not worth an attempt, nor a word: whoever makes its claims is about to.
                state.queue.remove(&key);
                state.without_claims.insert(key, Arc::clone(pod));
                return;
            }
            // An assumed pod's own updates must not queue it again.
            if state.cache.node_of(&key).is_none() {
                state.queue.upsert(pod, Instant::now());
                self.shared.wake.notify_one();
            }
        } else {
            state.queue.remove(&key);
        }
    }

    fn node_changed(&self, event: &Event<Node>) {
        let mut state = self.state();
        let node = event.object();
        let change = match event {
            Event::Deleted(node) => {
                state.cache.remove_node(&node.metadata.name);
                Some(Change::NodeGone)
            }
            Event::Added(node) => {
                state.cache.set_node(node);
                Some(Change::NodeAdded(Arc::clone(node)))
            }
            Event::Updated { old, new } => {
                state.cache.set_node(new);
                let same = old.status.allocatable == new.status.allocatable
                    && old.metadata.labels == new.metadata.labels
                    && old.spec.taints == new.spec.taints
                    && old.spec.unschedulable == new.spec.unschedulable;
                let (old, new) = (Arc::clone(old), Arc::clone(new));
                (!same).then_some(Change::NodeUpdated { old, new })
            }
        };
        if let Some(change) = change {
            self.changed(&mut state, &change);
        }
        let (active, backoff, unschedulable) = state.queue.lengths();
        tracing::trace!(node = node.metadata.name, active, backoff, unschedulable, "Node changed");
    }

    fn devices_changed(&self) {
        let mut state = self.state();
        let State { cache, queue, without_claims, .. } = &mut *state;
        without_claims.retain(|_, pod| {
            let waits = dynamic_resources::claims(&cache.devices, pod).is_err();
            if !waits {
                queue.upsert(pod, Instant::now());
            }
            waits
        });
        self.changed(&mut state, &Change::Devices);
    }

    fn storage_changed(&self, change: Change) {
        let mut state = self.state();
        self.changed(&mut state, &change);
    }

    fn changed(&self, state: &mut State, change: &Change) {
        let State { cache, queue, .. } = state;
        queue.changed(change, cache.namespaces(), Instant::now());
        self.shared.wake.notify_one();
    }

    /// The profile for a pod; `None` when the pod is for another scheduler.
    fn profile(&self, pod: &Pod) -> Option<&Profile> {
        let profiles = self.shared.profiles.iter().map(|it| &**it);
        profiles.into_iter().find(|it| it.scheduler_name == pod.scheduler())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about a pod that no node is feasible for.
fn unschedulable(pod: Arc<Pod>, why: String, nodes: usize, outcome: Outcome) -> Task {
    let with = |preemption: &str| match nodes {
        0 => why.clone(),
        _ => format!("{why} preemption: {preemption}"),
    };
    match outcome {
        Outcome::Disabled => Task::Report { pod, message: why, promise: Promise::Keep },
        Outcome::NotEligible(text) => {
            Task::Report { pod, message: with(text), promise: Promise::Keep }
        }
        Outcome::NotHelpful(text) => {
            Task::Report { pod, message: with(&text), promise: Promise::Clear }
        }
        Outcome::Preempt(preemption) => Task::Preempt { pod, message: why, preemption },
    }
}

/// Whether some scheduler has to find a node for the pod now.
fn wants_node(pod: &Pod) -> bool {
    !pod.metadata.is_deleting() && pod.spec.scheduling_gates.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gated_and_deleted_pods_are_left_alone() {
        let check = |spec: &str, meta: &str, want: bool| {
            let text = format!(r#"{{"metadata":{{"name":"a"{meta}}},"spec":{{{spec}}}}}"#);
            let pod: Pod = serde_json::from_str(&text).unwrap();
            assert_eq!(wants_node(&pod), want, "{text}");
        };
        check("", "", true);
        check(r#""schedulingGates":[{"name":"x"}]"#, "", false);
        check("", r#","deletionTimestamp":"2024-01-01T00:00:00Z""#, false);
    }
}
