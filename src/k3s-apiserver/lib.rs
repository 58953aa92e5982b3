//! The Kubernetes API server: one table-driven implementation of every verb for every kind.

pub mod admission;
pub mod bootstrap;
pub mod cluster;
pub mod registry;
pub mod storage;
pub mod user;
