//! Who runs which pod: workers by uid, fed from the API, from manifests and by the runtime.
//!
//! Invariant: a sandbox whose pod no source knows is removed, but only after every source has told
//! all it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use client::Key;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Rejection};
use crate::cri::events::Event;
use crate::pod::labels::{self, CONFIG_HASH, CONFIG_MIRROR, PodNames};
use crate::pod::worker::{Message, View, Worker};
use crate::shared::Shared;
use crate::source::manifests::Manifests;
use crate::source::watch::{Change, Queue};
use crate::typed::PODS;
use crate::volume;

const INBOX: usize = 64;

/// A pod and what its worker last saw.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) pod: Arc<Pod>,
    pub(crate) view: watch::Receiver<View>,
    inbox: mpsc::Sender<Message>,
    pub(crate) is_static: bool,
}

impl Known {
    /// Tells the worker; dropped when its inbox is full, which only a stuck worker's is.
    pub(crate) fn tell(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.inbox.try_send(message) {
            tracing::warn!(pod = %self.pod.key(), "Worker's inbox was full, dropping a message");
        }
    }
}

/// The pods of this node, for the server and the node loops.
#[derive(Clone, Default)]
pub(crate) struct Pods {
    known: Arc<Mutex<BTreeMap<String, Known>>>,
}

impl Pods {
    pub(crate) fn list(&self) -> Vec<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Known> {
        self.list().into_iter().find(|k| k.pod.namespace() == namespace && k.pod.name() == name)
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<String, Known>) -> T) -> T {
        use_it(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the manager's news come from.
pub(crate) struct Sources {
    pub(crate) api: Option<(Queue, mpsc::Receiver<()>, watch::Receiver<bool>)>,
    pub(crate) manifests: Option<mpsc::Receiver<Manifests>>,
    pub(crate) events: mpsc::Receiver<Event>,
}

struct Manager {
    shared: Arc<Shared>,
    pods: Pods,
    workers: JoinSet<String>,
    stop: CancellationToken,
    manifests: Option<Manifests>,
    mirrors: BTreeMap<Key, Arc<Pod>>,
    /// Mirror pods being written, one after the other.
    mirror_work: JoinSet<()>,
    cleaned: bool,
}

/// Runs workers until `stop`; containers keep running.
pub(crate) async fn run(
    shared: Arc<Shared>,
    pods: Pods,
    mut sources: Sources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut manager = Manager {
        shared,
        pods,
        workers: JoinSet::new(),
        stop: stop.clone(),
        manifests: None,
        mirrors: BTreeMap::new(),
        mirror_work: JoinSet::new(),
        cleaned: false,
    };
    let (queue, mut woken, mut synced) = match sources.api {
        Some((queue, woken, synced)) => (Some(queue), Some(woken), Some(synced)),
        None => (None, None, None),
    };
    let mut api_synced = queue.is_none();
    loop {
        let all_told = api_synced && (sources.manifests.is_none() || manager.manifests.is_some());
        if all_told && !manager.cleaned {
            manager.clean_orphans().await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = next(&mut woken) => manager.take_api(queue.as_ref()),
            () = settled(&mut synced), if !api_synced => {
                api_synced = true;
                manager.take_api(queue.as_ref());
            }
            Some(manifests) = next(&mut sources.manifests) => {
                manager.take_manifests(manifests);
            }
            Some(event) = sources.events.recv() => manager.take_event(event),
            Some(ended) = manager.workers.join_next() => manager.worker_ended(ended),
            Some(_) = manager.mirror_work.join_next() => {}
        }
    }
    while manager.workers.join_next().await.is_some() {}
    manager.mirror_work.shutdown().await;
    Ok(())
}

/// The next of a source that may not exist.
async fn next<T>(source: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match source {
        Some(source) => source.recv().await,
        None => std::future::pending().await,
    }
}

async fn settled(synced: &mut Option<watch::Receiver<bool>>) {
    if let Some(synced) = synced
        && synced.wait_for(|synced| *synced).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Manager {
    fn take_api(&mut self, queue: Option<&Queue>) {
        let Some(queue) = queue else { return };
        for change in queue.take() {
            let (pod, gone) = match change {
                Change::Set(pod) => (pod, false),
                Change::Gone(pod) => (pod, true),
            };
            if pod.annotation(CONFIG_MIRROR).is_some() {
                let key = Key::new(pod.namespace(), pod.name());
                if gone {
                    self.mirrors.remove(&key);
                } else {
                    self.mirrors.insert(key, pod);
                }
                self.sync_mirrors();
            } else if gone {
                let known = self.pods.with(|pods| pods.get(pod.uid()).cloned());
                if let Some(known) = known {
                    known.tell(Message::Gone);
                }
            } else {
                self.set(pod, false);
            }
        }
    }

    /// Hands the pod to its worker, or makes one.
    fn set(&mut self, pod: Arc<Pod>, is_static: bool) {
        let uid = pod.uid().to_owned();
        let told = self.pods.with(|pods| {
            let known = pods.get_mut(&uid)?;
            known.pod = Arc::clone(&pod);
            known.tell(Message::Pod(Arc::clone(&pod)));
            Some(())
        });
        if told.is_some() {
            return;
        }
        let (sender, view) = watch::channel(View::default());
        let (inbox, messages) = mpsc::channel(INBOX);
        let (mut worker, heard) =
            Worker::new(Arc::clone(&self.shared), Arc::clone(&pod), is_static, sender);
        let judged = match admission::was_admitted(&pod) {
            true => Ok(()),
            false => admission::admit(&pod, &self.active(), &self.shared.allocatable),
        };
        if let Err(rejection) = judged {
            let Rejection { reason, message } = &rejection;
            tracing::warn!(pod = %pod.key(), reason, message, "Pod was rejected");
            worker.reject(rejection);
        }
        let stop = self.stop.clone();
        let id = uid.clone();
        self.workers.spawn(async move {
            worker.run(messages, heard, stop).await;
            id
        });
        self.pods.with(|pods| pods.insert(uid, Known { pod, view, inbox, is_static }));
    }

    /// The pods that hold resources of the node.
    fn active(&self) -> Vec<Arc<Pod>> {
        let over = |phase: Option<&str>| matches!(phase, Some("Succeeded" | "Failed"));
        let known = self.pods.list();
        known
            .into_iter()
            .filter(|known| {
                let told = known.pod.status.as_ref().and_then(|status| status.phase.as_deref());
                !over(told) && !over(known.view.borrow().status.phase.as_deref())
            })
            .map(|known| known.pod)
            .collect()
    }

    fn take_manifests(&mut self, manifests: Manifests) {
        let known = self.pods.list();
        for gone in known.iter().filter(|k| k.is_static && !manifests.contains_key(k.pod.uid())) {
            gone.tell(Message::Gone);
        }
        let names: BTreeSet<(String, String)> = manifests
            .values()
            .map(|pod| (pod.namespace().to_owned(), pod.name().to_owned()))
            .collect();
        for pod in manifests.values() {
            // The old pod of an edited manifest ends first; its end starts the new one.
            let busy = known.iter().any(|k| {
                k.pod.name() == pod.name()
                    && k.pod.namespace() == pod.namespace()
                    && k.pod.uid() != pod.uid()
            });
            if !busy {
                self.set(Arc::clone(pod), true);
            }
        }
        tracing::debug!(count = names.len(), "Manifests were read");
        self.manifests = Some(manifests);
        self.sync_mirrors();
    }

    /// Every static pod has one mirror in the API, and no other mirror exists.
    fn sync_mirrors(&mut self) {
        let (Some(manifests), Some(rest)) = (&self.manifests, &self.shared.rest) else { return };
        let mut wanted = BTreeMap::new();
        for pod in manifests.values() {
            wanted.insert(Key::new(pod.namespace(), pod.name()), pod);
        }
        let hash = |pod: &Pod| pod.annotation(CONFIG_HASH).map(str::to_owned);
        for (key, mirror) in &self.mirrors {
            let right = wanted.get(key).is_some_and(|pod| {
                mirror.annotation(CONFIG_MIRROR).map(str::to_owned) == hash(pod)
                    && mirror.metadata.deletion_timestamp.is_none()
            });
            if !right {
                let (rest, key, uid) = (rest.clone(), key.clone(), mirror.uid().to_owned());
                self.mirror_work.spawn(async move {
                    let options = serde_json::json!({
                        "gracePeriodSeconds": 0, "preconditions": {"uid": uid}
                    });
                    if let Err(err) = rest.delete_with(&PODS, &key, options).await
                        && !client::is_not_found(&err)
                    {
                        tracing::warn!(pod = %key, %err, "Mirror pod was not deleted, retrying with the next change");
                    }
                });
            }
        }
        for (key, pod) in wanted {
            let mirror = self.mirrors.get(&key).cloned();
            let known = self.pods.with(|pods| pods.get(pod.uid()).cloned());
            if let Some(known) = known {
                known.tell(Message::Mirror(mirror.clone()));
            }
            if mirror.is_none() {
                let body = mirror_of(pod);
                let rest = rest.clone();
                self.mirror_work.spawn(async move {
                    let made = rest
                        .create::<serde::de::IgnoredAny>(&PODS, &key.namespace, &body)
                        .await;
                    if let Err(err) = made
                        && !client::is_already_exists(&err)
                    {
                        tracing::warn!(pod = %key, %err, "Mirror pod was not created, retrying with the next change");
                    }
                });
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        let (container, message): (&str, fn(String) -> Message) = match &event {
            Event::Lagged => {
                for known in self.pods.list() {
                    known.tell(Message::Look);
                }
                return;
            }
            // A start is the worker's own doing and it waits for it.
            Event::Started { .. } => return,
            Event::Exited { container } => (container, Message::Exited),
            Event::OutOfMemory { container } => (container, Message::OutOfMemory),
        };
        let Some(uid) = self.shared.owner(container) else {
            return;
        };
        if let Some(known) = self.pods.with(|pods| pods.get(&uid).cloned()) {
            known.tell(message(container.to_owned()));
        }
    }

    fn worker_ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        let Ok(uid) = ended else { return };
        self.pods.with(|pods| pods.remove(&uid));
        if let Some(manifests) = self.manifests.clone() {
            self.take_manifests(manifests);
        }
    }

    /// Removes what earlier pods left behind that no source knows any more.
    async fn clean_orphans(&mut self) {
        self.cleaned = true;
        let known: BTreeSet<String> = self.pods.with(|pods| pods.keys().cloned().collect());
        let sandboxes = match self.shared.runtime.list_sandboxes(None).await {
            Ok(sandboxes) => sandboxes,
            Err(err) => {
                tracing::warn!(%err, "Orphaned sandboxes were not listed, ignoring");
                return;
            }
        };
        let mut gone = BTreeSet::new();
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(labels::POD_UID) else { continue };
            if known.contains(uid) {
                continue;
            }
            tracing::info!(pod = %uid, "Orphaned pod was found, removing");
            gone.insert(uid.clone());
            let runtime = self.shared.runtime.clone();
            let removed = async {
                runtime.stop_sandbox(&sandbox.id).await?;
                runtime.remove_sandbox(&sandbox.id).await
            };
            if let Err(err) = removed.await {
                tracing::warn!(pod = %uid, %err, "Orphaned sandbox was not removed, ignoring");
            }
        }
        let dirs = std::fs::read_dir(self.shared.config.pods_dir()).into_iter().flatten().flatten();
        for dir in dirs {
            let uid = dir.file_name().to_string_lossy().into_owned();
            if known.contains(&uid) {
                continue;
            }
            let released = volume::image::release(&self.shared.runtime, &dir.path()).await;
            if let Err(err) = released.and_then(|()| volume::teardown(&dir.path())) {
                let err = format!("{err:#}");
                tracing::warn!(pod = %uid, %err, "Orphaned volumes were not removed, ignoring");
            }
        }
    }
}

fn mirror_of(pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    let hash = pod.annotation(CONFIG_HASH).unwrap_or_default().to_owned();
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.to_owned(), hash);
    mirror
}
