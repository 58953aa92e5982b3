//! The machinery that every API object goes through: codecs, patches, selectors, quantities, texts.
//!
//! Knows no IO, no HTTP and no single kind. Everything that depends on a type walks the object
//! beside an `api::schema::Node`, so a custom resource is the same code with another schema.

pub mod apply;
pub mod cel;
pub mod decode;
pub mod duration;
pub mod encode;
pub mod field;
pub mod gotext;
pub mod intstr;
pub mod json;
pub mod jsonpath;
pub mod meta;
pub mod patch;
#[cfg(test)]
mod properties;
pub mod protobuf;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod structural;
pub mod time;
pub mod validation;
pub mod yaml;
