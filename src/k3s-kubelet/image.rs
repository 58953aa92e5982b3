//! Having a container's image on the node: pull policy, credentials, one pull per image at a time.
//!
//! Invariant: two containers that need the same absent image cause one pull.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;

use crate::cri::config::PodSandboxConfig;
use crate::cri::image::{AuthConfig, Image};
use crate::cri::{Runtime, rpc_error};
use crate::pod::state::Waiting;

const UNUSED_MIN: Duration = Duration::from_secs(120);

/// What happened on the way to an image, for events.
pub(crate) enum Note {
    Present,
    Pulling,
    Pulled { took: Duration, size_bytes: u64 },
}

impl Note {
    /// The reason and message of the event that tells it of the image `name`.
    pub(crate) fn told(self, name: &str) -> (&'static str, String) {
        match self {
            Note::Present => (
                "Pulled",
                format!(
                    "Container image \"{name}\" already present on machine and can be accessed by the pod"
                ),
            ),
            Note::Pulling => ("Pulling", format!("Pulling image \"{name}\"")),
            Note::Pulled { took, size_bytes } => {
                let millis = took.as_millis();
                let took = format!("{}.{:03}s", millis / 1000, millis % 1000);
                (
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {size_bytes} bytes."
                    ),
                )
            }
        }
    }
}

/// Pulls images.
pub(crate) struct Images {
    runtime: Runtime,
    serial: Option<tokio::sync::Mutex<()>>,
    per_image: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// When an unused image was first seen so.
    unused_since: Mutex<HashMap<String, Instant>>,
}

fn failure(reason: &str, message: String) -> Waiting {
    Waiting { reason: reason.to_owned(), message }
}

impl Images {
    pub(crate) fn new(runtime: Runtime, serialize: bool) -> Images {
        let serial = serialize.then(tokio::sync::Mutex::default);
        Images { runtime, serial, per_image: Mutex::default(), unused_since: Mutex::default() }
    }

    /// The image of a container or a volume, pulled if the policy wants that.
    pub(crate) async fn ensure(
        &self,
        name: &str,
        policy: Option<&str>,
        secrets: &[Arc<Secret>],
        sandbox: &PodSandboxConfig,
        note: &(dyn Fn(Note) + Send + Sync),
    ) -> Result<Image, Waiting> {
        if let Err(reason) = check_name(name) {
            let message = format!("Failed to apply default image tag \"{name}\": {reason}");
            return Err(failure("InvalidImageName", message));
        }
        let inspect = |err: tonic::Status| failure("ImageInspectError", rpc_error(&err));
        let policy = pull_policy(name, policy);
        let present = self.runtime.image_status(name).await.map_err(inspect)?;
        match (policy, present) {
            ("IfNotPresent" | "Never", Some(image)) => {
                note(Note::Present);
                return Ok(image);
            }
            ("Never", None) => {
                let message =
                    format!("Container image \"{name}\" is not present with pull policy of Never");
                return Err(failure("ErrImageNeverPull", message));
            }
            _ => {}
        }
        let lock = {
            let mut locks = self.per_image.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        let _one = lock.lock().await;
        let _serial = match &self.serial {
            Some(serial) => Some(serial.lock().await),
            None => None,
        };
        if policy != "Always"
            && let Some(image) = self.runtime.image_status(name).await.map_err(inspect)?
        {
            note(Note::Present);
            return Ok(image);
        }
        note(Note::Pulling);
        let begun = Instant::now();
        let reference = self.pull(name, secrets, sandbox).await?;
        let image = self.runtime.image_status(&reference).await.map_err(inspect)?;
        let image = image.ok_or_else(|| {
            failure("ErrImagePull", format!("image \"{name}\" is gone after it was pulled"))
        })?;
        note(Note::Pulled { took: begun.elapsed(), size_bytes: image.size });
        Ok(image)
    }

    async fn pull(
        &self,
        name: &str,
        secrets: &[Arc<Secret>],
        sandbox: &PodSandboxConfig,
    ) -> Result<String, Waiting> {
        let mut attempts: Vec<Option<AuthConfig>> =
            credentials(name, secrets).into_iter().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut last = failure("ErrImagePull", String::new());
        for auth in attempts {
            match self.runtime.pull_image(name, auth, sandbox.clone()).await {
                Ok(reference) => return Ok(reference),
                Err(err) => last = failure("ErrImagePull", rpc_error(&err)),
            }
        }
        Err(last)
    }

    /// Removes images that no container uses until `wanted_bytes` are free; returns what was freed.
    pub(crate) async fn collect(&self, wanted_bytes: u64) -> anyhow::Result<u64> {
        let containers = self.runtime.list_containers(None).await?;
        let used: BTreeSet<String> =
            containers.into_iter().flat_map(|c| [c.image_ref, c.image_id]).collect();
        let mut images = self.runtime.list_images().await?;
        images.retain(|image| !image.pinned && !is_pause(image) && !used.contains(&image.id));
        {
            let mut since = self.unused_since.lock().unwrap_or_else(PoisonError::into_inner);
            since.retain(|id, _| images.iter().any(|image| image.id == *id));
            // An image may have come a moment before the pod that wants it.
            images.retain(|image| {
                since.entry(image.id.clone()).or_insert_with(Instant::now).elapsed() >= UNUSED_MIN
            });
        }
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let mut freed = 0;
        for image in images {
            if freed >= wanted_bytes {
                break;
            }
            match self.runtime.remove_image(&image.id).await {
                Ok(()) => freed += image.size,
                Err(err) => {
                    tracing::warn!(image = %image.id, %err, "Image was not removed, going on")
                }
            }
        }
        Ok(freed)
    }
}

/// Sandboxes are made from it, and runtimes before CRI's `pinned` do not say so.
fn is_pause(image: &Image) -> bool {
    image.repo_tags.iter().any(|tag| tag.contains("pause:"))
}

/// The policy, defaulted by the tag as the API server would.
fn pull_policy<'a>(image: &str, policy: Option<&'a str>) -> &'a str {
    match policy {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let last = image.rsplit('/').next().unwrap_or_default();
            let pinned =
                image.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
            if pinned { "IfNotPresent" } else { "Always" }
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let invalid = || format!("couldn't parse image name \"{name}\": invalid reference format");
    let path = name.split('@').next().unwrap_or_default();
    let ok = !path.is_empty()
        && !path.starts_with([':', '/', '-', '.'])
        && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c));
    if !ok {
        return Err(invalid());
    }
    let repository = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => path,
    };
    let without_host = repository.split_once('/').map_or(repository, |(_, rest)| rest);
    if without_host.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!(
            "couldn't parse image name \"{name}\": invalid reference format: repository name must be lowercase"
        ));
    }
    Ok(())
}

/// The credentials of pull secrets that fit the image's registry.
fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<AuthConfig> {
    let registry = registry(image);
    let mut out = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let config = data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg"));
        let Some(value) =
            config.and_then(|c| serde_json::from_slice::<serde_json::Value>(&c.0).ok())
        else {
            continue;
        };
        let auths = value.get("auths").unwrap_or(&value);
        for (host, entry) in auths.as_object().into_iter().flatten() {
            let bare = host.trim_start_matches("https://").trim_start_matches("http://");
            let bare = bare.split('/').next().unwrap_or_default();
            let docker_hub = registry == "docker.io" && bare == "index.docker.io";
            if bare != registry && !docker_hub {
                continue;
            }
            let text = |key: &str| entry.get(key).and_then(|v| v.as_str()).unwrap_or_default();
            let (mut username, mut password) =
                (text("username").to_owned(), text("password").to_owned());
            if username.is_empty()
                && let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text("auth"))
                && let Ok(pair) = String::from_utf8(bytes)
                && let Some((user, secret)) = pair.split_once(':')
            {
                (username, password) = (user.to_owned(), secret.to_owned());
            }
            out.push(AuthConfig {
                username,
                password,
                identity_token: text("identitytoken").to_owned(),
                ..Default::default()
            });
        }
    }
    out
}

fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_policy() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("busybox@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image, None), policy, "{image}");
        }
    }

    #[test]
    fn image_names_are_checked() {
        for (name, ok) in [
            ("busybox", true),
            ("localhost:5000/a/b:Tag", true),
            ("Bad/Name", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(check_name(name).is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn credentials_are_chosen_by_registry() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"x.io":{"username":"a","password":"b"}}}"#;
        let secret: Secret = serde_json::from_value(serde_json::json!({"data": {
            ".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json)
        }}))
        .unwrap();
        let secrets = [Arc::new(secret)];
        assert_eq!(credentials("busybox", &secrets)[0].username, "u");
        assert_eq!(credentials("x.io/busybox", &secrets)[0].password, "b");
        assert!(credentials("y.io/busybox", &secrets).is_empty());
    }
}
