//! Package `mvccpb`: a key with its revisions, and one change of it.

use bytes::Bytes;

/// A key, its value and the revisions at which it was made and last changed.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision of the put that made the key after it last did not exist.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Revision of the latest put.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Puts since creation; 1 for a new key.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// On the client's side a slice of the whole received message: copy what is kept for long.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease that the key is attached to, 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// One change. A deletion has the key and `mod_revision` in `kv`, nothing else.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Event {
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
    /// The pair before the change, when asked for and not compacted.
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<KeyValue>,
}

/// What happened to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    Put = 0,
    Delete = 1,
}
