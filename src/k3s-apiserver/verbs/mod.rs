//! The verbs, one file each, for every kind alike.

pub mod binding;
pub mod create;
pub mod delete;
pub mod eviction;
pub mod get;
mod inert;
pub mod list;
pub mod managed;
pub mod object;
pub mod options;
pub mod patch;
pub mod render;
pub mod review;
pub mod scale;
pub mod select;
pub mod subresource;
pub mod table;
pub mod update;
pub mod watch;
pub mod write;
