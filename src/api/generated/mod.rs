//! The generated tables. `tests/generate` writes `schema.rs` and `resources.rs`.

mod resources;
mod schema;

pub(crate) use resources::RESOURCES;
pub(crate) use schema::{BUILTIN, KINDS};
