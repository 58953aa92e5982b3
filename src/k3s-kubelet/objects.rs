//! ConfigMaps and Secrets that running pods refer to: one watch per object, shared by its users.
//!
//! The node may only read objects by name, so this watches names and never lists a namespace.
//! Invariant: a watch lives exactly as long as somebody holds its [`Handle`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use client::{Key, Lister, Reflector, Resource, Selection};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::tasks::Spawner;
use crate::typed::{CONFIG_MAPS, SECRETS, Typed};

const SYNC_PATIENCE: Duration = Duration::from_secs(10);
const CHANGES_KEPT: usize = 256;

/// Keeps one object watched.
pub(crate) struct Handle<T> {
    key: Key,
    lister: Lister<Typed<T>>,
    reflector: Reflector<Typed<T>>,
    stop: CancellationToken,
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<T> Handle<T>
where
    T: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    /// The object as last seen; `None` when the API has none.
    pub(crate) async fn get(&self) -> anyhow::Result<Option<Arc<T>>> {
        tokio::time::timeout(SYNC_PATIENCE, self.reflector.synced())
            .await
            .map_err(|_| anyhow::anyhow!("failed to sync {} cache: timed out", self.key))?;
        Ok(self.lister.get(&self.key).map(|typed| Arc::clone(&typed.object)))
    }
}

type Held<T> = Mutex<HashMap<Key, Weak<Handle<T>>>>;

/// All watched objects.
pub(crate) struct ObjectCache {
    client: Option<kube::Client>,
    tasks: Spawner,
    changes: broadcast::Sender<Key>,
    config_maps: Held<ConfigMap>,
    secrets: Held<Secret>,
}

impl ObjectCache {
    pub(crate) fn new(client: Option<kube::Client>, tasks: Spawner) -> ObjectCache {
        ObjectCache {
            client,
            tasks,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// Names of objects that changed.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Key> {
        self.changes.subscribe()
    }

    pub(crate) fn config_map(&self, key: Key) -> anyhow::Result<Arc<Handle<ConfigMap>>> {
        self.hold(&self.config_maps, &CONFIG_MAPS, key)
    }

    pub(crate) fn secret(&self, key: Key) -> anyhow::Result<Arc<Handle<Secret>>> {
        self.hold(&self.secrets, &SECRETS, key)
    }

    fn hold<T>(&self, held: &Held<T>, of: &Resource, key: Key) -> anyhow::Result<Arc<Handle<T>>>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
    {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = held.get(&key).and_then(Weak::upgrade) {
            return Ok(handle);
        }
        let client = self.client.clone().ok_or_else(|| {
            anyhow::anyhow!("{} {key} cannot be read without an API server", of.kind)
        })?;
        let selection = Selection {
            namespace: key.namespace.clone(),
            fields: format!("metadata.name={}", key.name),
            ..Default::default()
        };
        let reflector: Reflector<Typed<T>> = Reflector::selecting(client, of.clone(), selection);
        let (changes, name) = (self.changes.clone(), key.clone());
        reflector.on_event(move |_| {
            // Nobody listening is fine: then nobody needs the change.
            let _ = changes.send(name.clone());
        });
        let stop = CancellationToken::new();
        self.tasks.spawn(reflector.clone().run(stop.clone()))?;
        let lister = reflector.lister();
        let handle = Arc::new(Handle { key: key.clone(), lister, reflector, stop });
        held.insert(key, Arc::downgrade(&handle));
        Ok(handle)
    }
}
