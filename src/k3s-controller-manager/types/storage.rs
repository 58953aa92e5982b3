//! Persistent volumes and claims, and `storage.k8s.io`.

use client::{Labels, Meta, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Selector, object};
use crate::amounts::Resources;

/// The annotation that named the class before there was a field.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";

object!(Claim, Volume, StorageClass, CsiDriver, Attachment);

/// `v1 PersistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Claim {
    pub metadata: Meta,
    pub spec: ClaimSpec,
    pub status: ClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimSpec {
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    pub resources: Resources,
    pub selector: Option<Selector>,
    pub storage_class_name: Option<String>,
    pub volume_attributes_class_name: Option<String>,
    pub volume_name: String,
    pub volume_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimStatus {
    pub phase: String,
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub capacity: crate::amounts::Amounts,
    pub current_volume_attributes_class_name: Option<String>,
    pub modify_volume_status: Option<ModifyVolumeStatus>,
}

/// The change of a volume's attributes that is under way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ModifyVolumeStatus {
    pub target_volume_attributes_class_name: String,
}

impl Claim {
    /// The classes of attributes that the claim asks for, has, and is getting.
    pub(crate) fn attributes_classes(&self) -> Vec<&str> {
        let status = &self.status;
        let target = status.modify_volume_status.as_ref();
        named([
            self.spec.volume_attributes_class_name.as_deref(),
            status.current_volume_attributes_class_name.as_deref(),
            target.map(|it| it.target_volume_attributes_class_name.as_str()),
        ])
    }

    /// The storage class, empty for none.
    pub(crate) fn class(&self) -> &str {
        let field = self.spec.storage_class_name.as_deref();
        self.metadata.annotation(CLASS_BETA).or(field).unwrap_or_default()
    }
}

fn named<const N: usize>(names: [Option<&str>; N]) -> Vec<&str> {
    names.into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// `v1 PersistentVolume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Volume {
    pub metadata: Meta,
    pub spec: VolumeSpec,
    pub status: VolumeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeSpec {
    #[serde(deserialize_with = "null_default")]
    pub capacity: crate::amounts::Amounts,
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    pub claim_ref: Option<ClaimRef>,
    pub persistent_volume_reclaim_policy: String,
    pub storage_class_name: String,
    pub volume_attributes_class_name: Option<String>,
    pub volume_mode: Option<String>,
    pub node_affinity: Option<Box<Value>>,
    pub local: Option<PathSource>,
    pub csi: Option<CsiSource>,
    pub host_path: Option<PathSource>,
}

impl Volume {
    /// The class of attributes that the volume has.
    pub(crate) fn attributes_classes(&self) -> Vec<&str> {
        named([self.spec.volume_attributes_class_name.as_deref()])
    }
}

/// A volume of a CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CsiSource {
    pub driver: String,
    pub volume_handle: String,
}

/// A path on a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PathSource {
    pub path: String,
}

impl VolumeSpec {
    /// The path on its node, for a volume that is one.
    pub(crate) fn path(&self) -> Option<&str> {
        let source = self.local.as_ref().or(self.host_path.as_ref())?;
        Some(&source.path)
    }
}

/// The claim that a volume is bound to, or kept for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeStatus {
    pub phase: String,
    pub message: String,
    pub reason: String,
}

/// `storage.k8s.io/v1 StorageClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StorageClass {
    pub metadata: Meta,
    pub provisioner: String,
    pub volume_binding_mode: String,
    pub reclaim_policy: String,
    #[serde(deserialize_with = "null_default")]
    pub parameters: Labels,
}

/// `storage.k8s.io/v1 CSIDriver`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CsiDriver {
    pub metadata: Meta,
    pub spec: CsiDriverSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CsiDriverSpec {
    pub attach_required: Option<bool>,
}

/// `storage.k8s.io/v1 VolumeAttachment`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Attachment {
    pub metadata: Meta,
    pub spec: AttachmentSpec,
    pub status: AttachmentStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AttachmentSpec {
    pub attacher: String,
    pub node_name: String,
    source: AttachmentSource,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AttachmentSource {
    persistent_volume_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AttachmentStatus {
    pub attached: bool,
    pub attach_error: Option<AttachError>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AttachError {
    pub message: String,
}

impl Attachment {
    /// The name of its volume; empty for one that a pod has without a claim.
    pub(crate) fn volume(&self) -> &str {
        &self.spec.source.persistent_volume_name
    }
}
