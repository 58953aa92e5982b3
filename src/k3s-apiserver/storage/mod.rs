//! Storage: the watch caches that serve every read, and the writes to the store.

pub mod entry;
pub mod keys;
pub mod store;
