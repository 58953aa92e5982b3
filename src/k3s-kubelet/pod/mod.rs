//! Pods: one worker each, a pure plan, and what it takes to turn a spec into containers.

pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod labels;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
