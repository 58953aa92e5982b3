//! The node agent: runs the pods that are bound to this node through a CRI runtime.

mod config;
mod cri;
mod eviction;
mod pod;
mod volume;
