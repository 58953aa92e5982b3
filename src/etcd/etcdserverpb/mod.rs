//! Package `etcdserverpb`: requests and responses of the etcd v3 services that Kubernetes and
//! `etcdctl` use. Names are the protocol's; a field that nobody of us reads is still carried.

mod cluster;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub use cluster::*;
pub use kv::*;
pub use lease::*;
pub use maintenance::*;
pub use watch::*;

/// Opens every response: who answered, and at which revision of the whole store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    #[prost(int64, tag = "3")]
    pub revision: i64,
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}
