//! OpenAPI documents, made from the tables when somebody asks.
//!
//! - `GET /openapi/v3` → `v3::index`, `GET /openapi/v3/{api/v1,apis/<group>/<version>}` →
//!   `v3::document`; the index names each with the hash of its text, which clients cache by.
//! - `GET /openapi/v2` → `v2::document`.
//!
//! Nothing is kept: a document is rendered, sent and dropped, so an idle server pays nothing.
//! Knows no HTTP.

pub mod custom;
mod descriptions;
mod enums;
mod paths;
mod schemas;
pub mod v2;
pub mod v3;

pub use schemas::Dialect;
