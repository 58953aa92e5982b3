//! containerd's snapshots: an image's files as mounts, which CRI has no call for before containerd
//! 2.1.
//!
//! Invariant: what is viewed is labelled as a root of containerd's garbage collection, so it stays
//! until it is removed by the same key, whatever becomes of the image's name.

use std::collections::BTreeMap;

use tonic::{Code, Status};

use super::image::{ImageStatusRequest, ImageStatusResponse};
use super::{DEADLINE, Result, Runtime, config::ImageSpec};

/// The label that keeps a snapshot and the layers below it.
const ROOT: &str = "containerd.io/gc.root";

/// One mount of those that show a snapshot.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct SnapshotMount {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, tag = "3")]
    pub(crate) target: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) options: Vec<String>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct ViewSnapshotRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
}

/// What names a snapshot: the request of `Mounts` and of `Remove`.
#[derive(Clone, PartialEq, ::prost::Message)]
struct SnapshotKey {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

/// The answer of `View` and of `Mounts`.
#[derive(Clone, PartialEq, ::prost::Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<SnapshotMount>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct Empty {}

impl Runtime {
    /// The mounts that show the image's files read-only; asking again with the key shows the same.
    pub(crate) async fn view_image(&self, key: &str, image: &str) -> Result<Vec<SnapshotMount>> {
        let snapshotter = self.snapshotter().await?;
        let name = SnapshotKey { snapshotter: snapshotter.clone(), key: key.to_owned() };
        let view = ViewSnapshotRequest {
            snapshotter,
            key: key.to_owned(),
            parent: self.chain_id(image).await?,
            labels: BTreeMap::from([(ROOT.to_owned(), jiff::Timestamp::now().to_string())]),
        };
        let viewed: Result<Mounts> =
            self.call("/containerd.services.snapshots.v1.Snapshots/View", view, DEADLINE).await;
        match viewed {
            Err(status) if status.code() == Code::AlreadyExists => {
                let path = "/containerd.services.snapshots.v1.Snapshots/Mounts";
                Ok(self.call::<_, Mounts>(path, name, DEADLINE).await?.mounts)
            }
            viewed => Ok(viewed?.mounts),
        }
    }

    /// Lets go of what [`Runtime::view_image`] made; one that is gone already is no error.
    pub(crate) async fn forget_image(&self, key: &str) -> Result<()> {
        let name = SnapshotKey { snapshotter: self.snapshotter().await?, key: key.to_owned() };
        let path = "/containerd.services.snapshots.v1.Snapshots/Remove";
        match self.call::<_, Empty>(path, name, DEADLINE).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    async fn snapshotter(&self) -> Result<String> {
        let version = self.version().await?;
        if version.runtime_name != "containerd" {
            return Err(Status::unimplemented(format!(
                "image volumes need containerd, and this runtime is {}",
                version.runtime_name
            )));
        }
        Ok(super::facts::RuntimeFacts::parse(&self.info().await?).snapshotter())
    }

    /// The name of the snapshot that is the image's last layer.
    async fn chain_id(&self, image: &str) -> Result<String> {
        #[derive(serde::Deserialize)]
        struct Info {
            #[serde(rename = "chainID")]
            chain_id: String,
        }
        let spec = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
        let message = ImageStatusRequest { image: spec, verbose: true };
        let answer: ImageStatusResponse =
            self.call("/runtime.v1.ImageService/ImageStatus", message, DEADLINE).await?;
        let info = answer.info.get("info").map(String::as_str).unwrap_or_default();
        let info = serde_json::from_str::<Info>(info);
        info.map(|info| info.chain_id)
            .map_err(|err| Status::not_found(format!("no layers are known of {image}: {err}")))
    }
}
