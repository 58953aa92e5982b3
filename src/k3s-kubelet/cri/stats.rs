//! CRI v1 statistics of containers.

use std::collections::BTreeMap;

use super::{config::*, image::*};

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ListContainerStatsRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) filter: Option<ContainerStatsFilter>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ContainerStatsFilter {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) pod_sandbox_id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) label_selector: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ListContainerStatsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) stats: Vec<ContainerStats>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ContainerStats {
    #[prost(message, optional, tag = "1")]
    pub(crate) attributes: Option<ContainerAttributes>,
    #[prost(message, optional, tag = "2")]
    pub(crate) cpu: Option<CpuUsage>,
    #[prost(message, optional, tag = "3")]
    pub(crate) memory: Option<MemoryUsage>,
    #[prost(message, optional, tag = "4")]
    pub(crate) writable_layer: Option<FilesystemUsage>,
    #[prost(message, optional, tag = "5")]
    pub(crate) swap: Option<SwapUsage>,
    #[prost(message, optional, tag = "6")]
    pub(crate) io: Option<IoUsage>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ContainerAttributes {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) metadata: Option<ContainerMetadata>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct CpuUsage {
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) usage_core_nano_seconds: Option<UInt64Value>,
    #[prost(message, optional, tag = "3")]
    pub(crate) usage_nano_cores: Option<UInt64Value>,
    #[prost(message, optional, tag = "4")]
    pub(crate) psi: Option<PsiStats>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct PsiStats {
    #[prost(message, optional, tag = "1")]
    pub(crate) full: Option<PsiData>,
    #[prost(message, optional, tag = "2")]
    pub(crate) some: Option<PsiData>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct PsiData {
    #[prost(uint64, tag = "1")]
    pub(crate) total: u64,
    #[prost(double, tag = "2")]
    pub(crate) avg10: f64,
    #[prost(double, tag = "3")]
    pub(crate) avg60: f64,
    #[prost(double, tag = "4")]
    pub(crate) avg300: f64,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct MemoryUsage {
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) working_set_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "3")]
    pub(crate) available_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "4")]
    pub(crate) usage_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "5")]
    pub(crate) rss_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "6")]
    pub(crate) page_faults: Option<UInt64Value>,
    #[prost(message, optional, tag = "7")]
    pub(crate) major_page_faults: Option<UInt64Value>,
    #[prost(message, optional, tag = "8")]
    pub(crate) psi: Option<PsiStats>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct SwapUsage {
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) swap_available_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "3")]
    pub(crate) swap_usage_bytes: Option<UInt64Value>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct IoUsage {
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub(crate) psi: Option<PsiStats>,
}
