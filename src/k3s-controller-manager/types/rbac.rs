//! The group `rbac.authorization.k8s.io`.

use client::{Meta, null_default};
use serde::Deserialize;
use serde_json::Value;

use super::{Selector, object};

object!(ClusterRole);

/// `rbac.authorization.k8s.io/v1 ClusterRole`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClusterRole {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<Value>,
    pub aggregation_rule: Option<AggregationRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AggregationRule {
    #[serde(deserialize_with = "null_default")]
    pub cluster_role_selectors: Vec<Selector>,
}
