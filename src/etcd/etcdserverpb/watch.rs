//! Service `Watch`: one bidirectional stream carries any number of watchers.

use bytes::Bytes;

use super::ResponseHeader;
use crate::mvccpb::Event;

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchRequest {
    #[prost(oneof = "WatchRequestUnion", tags = "1, 2, 3")]
    pub request_union: Option<WatchRequestUnion>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum WatchRequestUnion {
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
    #[prost(message, tag = "2")]
    Cancel(WatchCancelRequest),
    #[prost(message, tag = "3")]
    Progress(WatchProgressRequest),
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// First revision to report; 0 for "from now on".
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Send an empty response now and then while nothing happens.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    #[prost(enumeration = "FilterType", repeated, tag = "5")]
    pub filters: Vec<i32>,
    #[prost(bool, tag = "6")]
    pub prev_kv: bool,
    #[prost(int64, tag = "7")]
    pub watch_id: i64,
    /// Large revisions may be split over several responses.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// Which events a watcher does not want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FilterType {
    NoPut = 0,
    NoDelete = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchCancelRequest {
    #[prost(int64, tag = "1")]
    pub watch_id: i64,
}

/// Asks for a progress notification of every watcher of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchProgressRequest {}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    #[prost(bool, tag = "3")]
    pub created: bool,
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Not 0: the start revision is compacted, this is the oldest that can be watched.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// No event, only the promise that everything up to the header's revision was sent.
    pub fn is_progress_notify(&self) -> bool {
        self.events.is_empty()
            && !self.created
            && !self.canceled
            && self.compact_revision == 0
            && self.header.is_some_and(|h| h.revision != 0)
    }
}

impl From<WatchRequestUnion> for WatchRequest {
    fn from(union: WatchRequestUnion) -> Self {
        Self { request_union: Some(union) }
    }
}
