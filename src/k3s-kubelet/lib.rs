//! The node agent: runs the pods that are bound to this node through a CRI runtime.

mod cgroup;
mod config;
mod cri;
mod eviction;
mod image;
mod manager;
mod objects;
mod pod;
mod shared;
mod source;
mod typed;
mod volume;
