//! The group `resource.k8s.io`.

use client::{Meta, null_default};
use serde::{Deserialize, Serialize};

use super::object;

object!(ResourceClaim);

/// `resource.k8s.io/v1 ResourceClaim`; what devices it has is not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResourceClaim {
    pub metadata: Meta,
    pub status: ResourceClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ResourceClaimStatus {
    pub allocation: Option<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_default")]
    pub reserved_for: Vec<Consumer>,
}

/// Who uses a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Consumer {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    pub resource: String,
    pub name: String,
    pub uid: String,
}

impl Consumer {
    pub(crate) fn is_pod(&self) -> bool {
        self.api_group.is_empty() && self.resource == "pods"
    }
}
