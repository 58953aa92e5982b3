//! AddOns: every manifest under `<data>/server/manifests` is applied when it appears or changes.
//!
//! The folder is watched by inotify. What was applied is remembered in an `Addon` object, by
//! checksum, so that a restart applies nothing anew; a server without custom resources has no such
//! objects, and then it is remembered as long as the process lives. A file that goes leaves its
//! objects; one that `--disabled-addons` names takes them with it.
//! Invariant: a manifest that cannot be read changes nothing.

mod files;
mod set;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use client::{
    Action, EventType, Key, Meta, ObjectReference, Patch, Recorder, Resource, Rest, WorkQueue,
    is_already_exists, is_not_found,
};
use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::set::Gvk;
use crate::{Cx, Running};

const NAME: &str = "addon-controller";
const NAMESPACE: &str = "kube-system";
static ADDONS: Resource = Resource::namespaced("k3s.cattle.io", "v1", "addons", "Addon");
static DEFINITIONS: Resource = Resource::cluster(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
);
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// How long a new definition may take to be served.
const SERVED_WITHIN: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// `k3s.cattle.io/v1 Addon`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Addon {
    metadata: Meta,
    spec: AddonSpec,
    status: AddonStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct AddonSpec {
    source: String,
    checksum: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AddonStatus {
    #[serde(deserialize_with = "client::null_default")]
    gvks: BTreeSet<Gvk>,
}

struct Addons {
    rest: Rest,
    recorder: Recorder,
    folder: PathBuf,
    disabled: Vec<String>,
    /// Who applies, among the managers of fields.
    manager: String,
    /// What was applied where no `Addon` objects can be kept.
    memory: Mutex<BTreeMap<String, Addon>>,
}

pub(crate) fn start(cx: &Cx) -> Running {
    let Some(folder) = cx.args.manifests_dir.clone() else { return Box::pin(async {}) };
    let cx = cx.clone();
    Box::pin(async move {
        if let Err(err) = run(&cx, folder).await {
            tracing::error!(err = format!("{err:#}"), "Manifests are not watched");
        }
    })
}

async fn run(cx: &Cx, folder: PathBuf) -> Result<()> {
    // Manifests may contain anything, so they are applied as an administrator.
    let rest = match &cx.args.manifests_kubeconfig {
        Some(path) => Rest::new(client::connect(path).await?),
        None => cx.rest.clone(),
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let addons = Arc::new(Addons {
        rest,
        recorder: cx.recorder.named(NAME),
        disabled: cx.args.disabled_addons.clone(),
        manager: format!("deploy@{host}"),
        memory: Mutex::default(),
        folder,
    });
    let queue = WorkQueue::new();
    for name in &addons.disabled {
        // Their files are gone, as a rule, and what was applied from them is to go too.
        queue.add(addons.folder.join(format!("{name}.yaml")).to_string_lossy().into_owned());
    }
    let watched = watch(addons.folder.clone(), queue.clone(), cx.stop.clone());
    let work = async {
        tokio::select! {
            () = addons.define() => {}
            () = cx.stop.cancelled() => return,
        }
        client::run_workers(NAME, queue.clone(), 1, cx.stop.clone(), |path: String| {
            let addons = Arc::clone(&addons);
            async move { addons.sync(Path::new(&path)).await }
        })
        .await;
    };
    let (outcome, ()) = tokio::join!(watched, work);
    outcome
}

/// Puts every file of the folder into the queue, at once and whenever it changes.
async fn watch(folder: PathBuf, queue: WorkQueue<String>, stop: CancellationToken) -> Result<()> {
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let inotify = Inotify::init().context("starting inotify")?;
    let mut watches = inotify.watches();
    let mut folders: BTreeMap<i32, PathBuf> = BTreeMap::new();
    let mut add = |path: &Path, folders: &mut BTreeMap<i32, PathBuf>| -> Result<()> {
        let mut next = vec![path.to_owned()];
        while let Some(folder) = next.pop() {
            let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
            let watch = watches
                .add(&folder, mask)
                .with_context(|| format!("watching {}", folder.display()))?;
            folders.insert(watch.get_watch_descriptor_id(), folder.clone());
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("reading {}", folder.display()))?;
            for entry in entries.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    next.push(path);
                } else {
                    queue.add(path.to_string_lossy().into_owned());
                }
            }
        }
        Ok(())
    };
    add(&folder, &mut folders)?;
    let mut events = inotify.into_event_stream([0; 4096]).context("watching manifests")?;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        let event = event.context("watching manifests")?;
        let wd: WatchDescriptor = event.wd;
        let Some(base) = folders.get(&wd.get_watch_descriptor_id()).cloned() else { continue };
        let Some(name) = event.name else { continue };
        let path = base.join(name);
        if event.mask.contains(EventMask::ISDIR) {
            if let Err(err) = add(&path, &mut folders) {
                tracing::warn!(
                    err = format!("{err:#}"),
                    "Folder of manifests was not read, ignoring"
                );
            }
        } else if !event.mask.contains(EventMask::CREATE) || path.is_symlink() {
            // A file that is being written is complete when it is closed.
            queue.add(path.to_string_lossy().into_owned());
        }
    }
}

impl Addons {
    /// Makes sure that the server has `Addon` objects, if it can.
    async fn define(&self) {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", ADDONS.plural, ADDONS.group)},
            "spec": {
                "group": ADDONS.group, "scope": "Namespaced",
                "names": {"plural": "addons", "singular": "addon", "kind": "Addon", "listKind": "AddonList"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "additionalPrinterColumns": [
                        {"name": "Source", "type": "string", "jsonPath": ".spec.source"},
                        {"name": "Checksum", "type": "string", "jsonPath": ".spec.checksum"},
                    ],
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {
                                "source": {"type": "string"}, "checksum": {"type": "string"},
                            }},
                            "status": {"type": "object", "properties": {"gvks": {
                                "type": "array", "items": {"type": "object", "properties": {
                                    "group": {"type": "string"}, "version": {"type": "string"},
                                    "kind": {"type": "string"},
                                }},
                            }}},
                        },
                    }},
                }],
            },
        });
        let answer: Result<Value, _> = self.rest.create(&DEFINITIONS, "", &definition).await;
        if let Err(err) = answer
            && !is_already_exists(&err)
        {
            let err = client::describe(&err);
            tracing::warn!(err, "Definition of AddOns was not made, remembering them in memory");
            return;
        }
        for _ in 0..SERVED_WITHIN {
            let served: Result<Value, _> = self.rest.get_path("/apis/k3s.cattle.io/v1").await;
            if served.is_ok() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        tracing::warn!("AddOns are not served as objects, remembering them in memory");
    }

    async fn sync(&self, path: &Path) -> Result<Action> {
        let Some(name) = files::name(path) else { return Ok(Action::Done) };
        if files::is_disabled(path, &self.folder, &self.disabled) {
            return self.disable(name).await;
        }
        let mut skip = path.as_os_str().to_owned();
        skip.push(".skip");
        if Path::new(&skip).exists() {
            return Ok(Action::Done);
        }
        let size = match std::fs::metadata(path) {
            Ok(meta) => meta.len(),
            Err(_) => return Ok(Action::Done),
        };
        let source = path.display().to_string();
        let text = if size <= MANIFEST_BYTES_MAX {
            std::fs::read_to_string(path).map_err(|err| err.to_string())
        } else {
            Err(format!("larger than {MANIFEST_BYTES_MAX} bytes"))
        };
        let text = match text {
            Ok(text) => text,
            Err(err) => {
                let message = format!("Read manifest at {source:?} failed: {err}");
                self.event(name, EventType::Warning, "ReadManifestFailed", message);
                return Ok(Action::Done);
            }
        };
        let checksum: String = digest(&SHA256, text.as_bytes())
            .as_ref()
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect();
        let known = self.get(name).await?;
        let spec = AddonSpec { source: source.clone(), checksum };
        if known.as_ref().is_some_and(|it| it.spec == spec) {
            return Ok(Action::Done);
        }
        let objects = match files::objects(&text) {
            Ok(objects) => objects,
            Err(err) => {
                let message = format!("Parse manifest at {source:?} failed: {err}");
                tracing::warn!(
                    addon = name,
                    err,
                    "Manifest was not parsed, ignoring until it changes"
                );
                self.event(name, EventType::Warning, "ParseManifestFailed", message);
                return Ok(Action::Done);
            }
        };
        let message = format!("Applying manifest at {source:?}");
        self.event(name, EventType::Normal, "ApplyingManifest", message);
        let before = known.map(|it| it.status.gvks).unwrap_or_default();
        match set::apply(&self.rest, &self.manager, name, objects, &before).await {
            Ok(gvks) => {
                self.put(name, spec, gvks).await?;
                let message = format!("Applied manifest at {source:?}");
                self.event(name, EventType::Normal, "AppliedManifest", message);
                Ok(Action::Done)
            }
            Err(err) => {
                let message = format!("Applying manifest at {source:?} failed: {err:#}");
                self.event(name, EventType::Warning, "ApplyManifestFailed", message);
                Err(err)
            }
        }
    }

    /// Deletes what the AddOn has in the cluster; its file is none of ours.
    async fn disable(&self, name: &str) -> Result<Action> {
        let Some(addon) = self.get(name).await? else { return Ok(Action::Done) };
        let message = format!("Deleting manifest at {:?}", addon.spec.source);
        self.event(name, EventType::Normal, "DeletingManifest", message);
        set::remove(&self.rest, name, &addon.status.gvks).await?;
        let key = Key::new(NAMESPACE, name);
        let when = client::Preconditions::default();
        match self.rest.delete(&ADDONS, &key, client::Propagation::Background, when).await {
            Ok(()) => Ok(Action::Done),
            Err(err) if is_not_found(&err) => Ok(Action::Done),
            Err(err) => Err(err).with_context(|| format!("deleting addon {name}")),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Addon>> {
        match self.rest.get::<Addon>(&ADDONS, &Key::new(NAMESPACE, name)).await {
            Ok(addon) => Ok(Some(addon)),
            Err(err) if is_not_found(&err) => {
                let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(memory.get(name).cloned())
            }
            Err(err) => Err(err).with_context(|| format!("reading addon {name}")),
        }
    }

    async fn put(&self, name: &str, spec: AddonSpec, gvks: BTreeSet<Gvk>) -> Result<()> {
        let body = json!({
            "apiVersion": ADDONS.api_version(), "kind": ADDONS.kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"source": spec.source, "checksum": spec.checksum},
            "status": {"gvks": gvks},
        });
        let key = Key::new(NAMESPACE, name);
        let answer: Result<Addon, _> = match self.rest.create(&ADDONS, NAMESPACE, &body).await {
            Err(err) if is_already_exists(&err) => {
                self.rest.patch(&ADDONS, &key, "", Patch::Merge, &body).await
            }
            other => other,
        };
        match answer {
            Ok(_) => Ok(()),
            Err(err) if is_not_found(&err) => {
                let addon = Addon { spec, status: AddonStatus { gvks }, ..Addon::default() };
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.insert(name.to_owned(), addon);
                Ok(())
            }
            Err(err) => Err(err).with_context(|| format!("recording addon {name}")),
        }
    }

    fn event(&self, name: &str, kind: EventType, reason: &str, message: String) {
        let meta = Meta { namespace: NAMESPACE.into(), name: name.into(), ..Meta::default() };
        self.recorder.event(&ObjectReference::new(&ADDONS, &meta), kind, reason, message);
    }
}
