//! Pods: one worker each, a pure plan, and what it takes to turn a spec into containers.

pub(crate) mod container;
mod devices;
pub(crate) mod env;
mod hook;
mod http_get;
pub(crate) mod labels;
mod observe;
mod oom;
pub(crate) mod plan;
mod prepare;
mod probe;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
mod start;
pub(crate) mod state;
mod status;
pub(crate) mod worker;
