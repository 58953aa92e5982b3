//! The group `networking.k8s.io`.

use client::{Meta, null_default};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::{Condition, object};

object!(ServiceCidr);

/// `networking.k8s.io/v1 ServiceCIDR`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidr {
    pub metadata: Meta,
    pub spec: ServiceCidrSpec,
    pub status: ServiceCidrStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrSpec {
    #[serde(deserialize_with = "null_default")]
    pub cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrStatus {
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl ServiceCidr {
    /// The ranges; the server has checked that they are some.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = IpNetwork> {
        self.spec.cidrs.iter().filter_map(|text| text.parse().ok())
    }
}
