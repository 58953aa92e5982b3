//! A pod's inputs from the API: ConfigMaps, Secrets, tokens, claims; and its volumes on disk.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{EventType, Key};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest as ApiTokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Secret,
};
use serde_json::json;

use super::env::Objects;
use super::labels::PodNames;
use super::start::{pod_dir, pull_secrets};
use crate::cri::config::PodSandboxConfig;
use crate::image::Note;
use crate::objects::Handle;
use crate::shared::Shared;
use crate::typed::{CLAIMS, PERSISTENT_VOLUMES, SERVICE_ACCOUNTS};
use crate::volume::{self, Claims, Source, TokenRequest, Tokens, Volume};

/// Tokens are renewed after four fifths of their life, and at least daily.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a pod holds on to while it runs.
#[derive(Default, Clone)]
pub(crate) struct Inputs {
    config_maps: BTreeMap<String, Arc<Handle<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Handle<Secret>>>,
    tokens: BTreeMap<TokenRequest, (String, Timestamp)>,
    claims: Claims,
    pub(crate) objects: Arc<Objects>,
    pub(crate) volumes: Arc<Vec<Volume>>,
    /// When a token is to be renewed.
    pub(crate) renew_at: Option<Timestamp>,
}

impl Inputs {
    /// Whether this ConfigMap or Secret is one of the pod's.
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.config_maps.contains_key(name) || self.secrets.contains_key(name)
    }
}

/// Fetches what the pod refers to and brings its volumes up to date.
pub(crate) async fn prepare(
    shared: &Shared,
    pod: &Arc<Pod>,
    mut inputs: Inputs,
    pod_ips: &[String],
) -> Result<Inputs, String> {
    match gather(shared, pod, &mut inputs, pod_ips).await {
        Ok(()) => Ok(inputs),
        Err(err) => Err(format!("{err:#}")),
    }
}

async fn gather(
    shared: &Shared,
    pod: &Arc<Pod>,
    inputs: &mut Inputs,
    pod_ips: &[String],
) -> anyhow::Result<()> {
    let (maps, secrets) = volume::config_names(pod);
    let key = |name: &str| Key::new(pod.namespace(), name);
    for name in maps {
        if let Entry::Vacant(place) = inputs.config_maps.entry(name) {
            let handle = shared.objects.config_map(key(place.key()))?;
            place.insert(handle);
        }
    }
    for name in secrets {
        if let Entry::Vacant(place) = inputs.secrets.entry(name) {
            let handle = shared.objects.secret(key(place.key()))?;
            place.insert(handle);
        }
    }
    let mut objects = Objects::default();
    for (name, handle) in &inputs.config_maps {
        objects.config_maps.insert(name.clone(), handle.get().await?);
    }
    for (name, handle) in &inputs.secrets {
        objects.secrets.insert(name.clone(), handle.get().await?);
    }
    inputs.objects = Arc::new(objects);
    refresh_tokens(shared, pod, inputs).await?;
    find_claims(shared, pod, inputs).await;
    let tokens: Tokens = inputs
        .tokens
        .iter()
        .map(|(request, (token, _))| {
            ((request.volume.clone(), request.path.clone()), token.clone())
        })
        .collect();
    let facts = shared.facts(pod_ips);
    let mut volumes = volume::plan(pod, &inputs.objects, &tokens, &inputs.claims, &facts)?;
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let fs_group =
        context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    let dir = pod_dir(shared, pod);
    for volume in &mut volumes {
        show_image(shared, pod, &inputs.objects, &dir, volume).await.map_err(|reason| {
            volume::VolumeError { volume: volume.name.clone(), reason: format!("{reason:#}") }
        })?;
    }
    let volumes = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        for volume in &volumes {
            volume::setup(&dir, volume, fs_group).map_err(|err| volume::VolumeError {
                volume: volume.name.clone(),
                reason: format!("{err:#}"),
            })?;
        }
        anyhow::Ok(volumes)
    })
    .await??;
    inputs.volumes = Arc::new(volumes);
    Ok(())
}

/// Has the runtime show the image of an image volume that is not there yet.
async fn show_image(
    shared: &Shared,
    pod: &Pod,
    objects: &Objects,
    dir: &Path,
    volume: &mut Volume,
) -> anyhow::Result<()> {
    if volume.is_settled(dir)? {
        return Ok(());
    }
    let Source::Image { reference, pull_policy, mounts } = &mut volume.source else {
        return Ok(());
    };
    let note = |note: Note| {
        let (reason, message) = note.told(reference);
        shared.event(pod, "", EventType::Normal, reason, message);
    };
    let secrets = pull_secrets(pod, objects);
    let sandbox = PodSandboxConfig::default();
    let policy = pull_policy.as_deref();
    let image = shared.images.ensure(reference, policy, &secrets, &sandbox, &note).await;
    let image =
        image.map_err(|waiting| anyhow::anyhow!("{}: {}", waiting.reason, waiting.message))?;
    let key = volume::image::key(pod.uid(), &volume.name);
    let shown = shared.runtime.view_image(&key, &image.id).await;
    *mounts = shown.map_err(|err| anyhow::anyhow!("{}", err.message()))?;
    Ok(())
}

async fn refresh_tokens(
    shared: &Shared,
    pod: &Arc<Pod>,
    inputs: &mut Inputs,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    for request in volume::token_requests(pod) {
        if inputs.tokens.get(&request).is_some_and(|(_, renew_at)| *renew_at > now) {
            continue;
        }
        let rest = shared.rest.as_ref().context("a token cannot be had without an API server")?;
        let audiences: Vec<&String> = request.audience.iter().collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": request.expiration_secs,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()
                }
            }
        });
        let key = Key::new(pod.namespace(), account.as_str());
        let answer: ApiTokenRequest = rest
            .create_sub(&SERVICE_ACCOUNTS, &key, "token", &body)
            .await
            .with_context(|| format!("failed to fetch token: service account {key}"))?;
        let status = answer.status.context("failed to fetch token: the answer has none")?;
        let token = status.token.context("failed to fetch token: the answer has none")?;
        let expires = status.expiration_timestamp.map_or(now, |time| time.0);
        let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
        let renew_at = now + (life * 4 / 5).min(TOKEN_AGE_MAX);
        inputs.tokens.insert(request, (token, renew_at));
    }
    inputs.renew_at = inputs.tokens.values().map(|(_, at)| *at).min();
    Ok(())
}

async fn find_claims(shared: &Shared, pod: &Pod, inputs: &mut Inputs) {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => claim.claim_name.clone(),
            (None, Some(_)) => format!("{}-{}", pod.name(), volume.name),
            _ => continue,
        };
        if matches!(inputs.claims.get(&volume.name), Some(Ok(_))) {
            continue;
        }
        let found = persistent(shared, pod, &name).await.map_err(|err| format!("{err:#}"));
        inputs.claims.insert(volume.name.clone(), found);
    }
}

async fn persistent(
    shared: &Shared,
    pod: &Pod,
    name: &str,
) -> anyhow::Result<PersistentVolumeSpec> {
    let rest = shared.rest.as_ref().context("a claim cannot be read without an API server")?;
    let claim: PersistentVolumeClaim = rest
        .get(&CLAIMS, &Key::new(pod.namespace(), name))
        .await
        .with_context(|| format!("persistentvolumeclaim \"{name}\""))?;
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|_| bound);
    let volume = volume.with_context(|| format!("PVC {name} is not bound"))?;
    let volume: PersistentVolume = rest.get(&PERSISTENT_VOLUMES, &Key::cluster(volume)).await?;
    volume.spec.context("the persistent volume has no spec")
}
