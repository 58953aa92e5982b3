//! The group `coordination.k8s.io`.

use client::Meta;
use serde::Deserialize;

use super::object;

object!(Lease);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    pub metadata: Meta,
    pub spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LeaseSpec {
    pub renew_time: Option<client::MicroTime>,
}
