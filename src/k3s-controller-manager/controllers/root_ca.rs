//! Every active namespace has the ConfigMap `kube-root-ca.crt`, by which pods know the API server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use client::{Action, Key, Patch, WorkQueue, is_already_exists, is_not_found};
use pki::Live;
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::CONFIG_MAPS,
    types::core::{ConfigMap, Namespace},
    workers,
};

const NAME: &str = "root-ca-certificate-publisher-controller";
const WORKERS: usize = 4;
const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
    using internal endpoints such as the internal service IP or kubernetes.default.svc. No other \
    usage is guaranteed across distributions of Kubernetes clusters.";

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    Replace,
}

pub(crate) fn start(cx: &Cx) -> Running {
    let Some((path, bundle)) = bundle(cx) else { return Box::pin(async {}) };
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.namespaces.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.root_cas.on_event(move |event| {
        filled.add(Key::cluster(event.object().metadata.namespace.clone()));
    });
    let shared = Arc::new(cx.clone());
    let work = workers(cx, NAME, WORKERS, &queue, move |key| {
        let (cx, bundle) = (Arc::clone(&shared), Arc::clone(&bundle));
        async move { reconcile(&cx, &key, &bundle.get()).await }
    });
    let namespaces = cx.caches.namespaces.lister();
    Box::pin(async move {
        let all = || namespaces.list().iter().for_each(|it| queue.add(it.metadata.key()));
        tokio::select! {
            () = work => {}
            () = follow(&path, all) => {}
        }
    })
}

/// Calls back for every change beside the root CA file, for ever.
pub(super) async fn follow(path: &Path, changed: impl Fn()) {
    let changes = async {
        let mut changes = daemon::Changes::of(path.parent())?;
        loop {
            changes.next().await?;
            changed();
        }
    };
    let ended: Result<()> = changes.await;
    if let Err(err) = ended {
        let err = format!("{err:#}");
        tracing::warn!(err, "Root CA file is not followed, publishing it as it is");
    }
    std::future::pending().await
}

/// The root CA as its file has it.
pub(super) fn bundle(cx: &Cx) -> Option<(PathBuf, Arc<Live<String>>)> {
    let path = cx.args.root_ca_file.clone()?;
    let file = path.clone();
    match Live::new(vec![path.clone()], move || Ok(fs::read_to_string(&file)?)) {
        Ok(bundle) => Some((path, Arc::new(bundle))),
        Err(err) => {
            let path = path.display();
            tracing::error!(path = %path, err = %err, "Root CA file was not read, publishing none");
            None
        }
    }
}

fn plan(namespace: &Namespace, known: Option<&ConfigMap>, bundle: &str) -> Step {
    if namespace.metadata.is_deleting() || namespace.status.phase == "Terminating" {
        return Step::Nothing;
    }
    match known {
        None => Step::Create,
        Some(map)
            if map.data.len() == 1 && map.data.get("ca.crt").is_some_and(|it| it == bundle) =>
        {
            Step::Nothing
        }
        Some(_) => Step::Replace,
    }
}

async fn reconcile(cx: &Cx, key: &Key, bundle: &str) -> Result<Action> {
    let Some(namespace) = cx.caches.namespaces.lister().get(key) else { return Ok(Action::Done) };
    let at = Key::new(&key.name, CONFIG_MAP);
    let known = cx.caches.root_cas.lister().get(&at);
    let mut body = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP, "namespace": key.name,
            "annotations": {"kubernetes.io/description": DESCRIPTION},
        },
        "data": {"ca.crt": bundle},
    });
    let answer = match plan(&namespace, known.as_deref(), bundle) {
        Step::Nothing => return Ok(Action::Done),
        Step::Create => cx.rest.create::<ConfigMap>(&CONFIG_MAPS, &key.name, &body).await,
        Step::Replace => {
            let stale = known.iter().flat_map(|map| map.data.keys()).filter(|it| *it != "ca.crt");
            for name in stale {
                body["data"][name] = Value::Null;
            }
            cx.rest.patch::<ConfigMap>(&CONFIG_MAPS, &at, "", Patch::Merge, &body).await
        }
    };
    match answer {
        Ok(map) => cx.caches.root_cas.observe(map),
        // A namespace that is ending refuses; its own event says so soon. Every other refusal,
        // such as roles that are not written yet, is worth another try.
        Err(err) if is_already_exists(&err) || is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("writing configmap {at}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_kept_as_it_is_published() {
        let namespace = Namespace::default();
        let with = |pairs: &[(&str, &str)]| ConfigMap {
            data: pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            ..ConfigMap::default()
        };
        assert_eq!(plan(&namespace, None, "x"), Step::Create);
        assert_eq!(plan(&namespace, Some(&with(&[("ca.crt", "x")])), "x"), Step::Nothing);
        assert_eq!(plan(&namespace, Some(&with(&[("ca.crt", "y")])), "x"), Step::Replace);
        assert_eq!(
            plan(&namespace, Some(&with(&[("ca.crt", "x"), ("b", "")])), "x"),
            Step::Replace
        );
    }
}
