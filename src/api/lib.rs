//! Facts about the Kubernetes API of this version: every resource, type and field, as tables.
//!
//! Uses nothing of ours. The tables are generated (see `generated/`), the rest of this crate is the
//! vocabulary to read them with.

mod generated;
pub mod resources;
pub mod schema;
