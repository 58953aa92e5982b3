//! One watch of the client: resumes by itself after the last revision that it delivered when
//! the connection breaks.
//!
//! Invariant: events come once each, in order, without a gap; where that cannot be kept
//! (compaction, cancellation) the watch ends with an error.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::Client;
use crate::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchRequestUnion, WatchResponse,
};
use crate::frame;
use crate::grpc::{Receiver, Sender, broken};
use crate::mvccpb::Event;
use crate::status::{COMPACTED, Code, Status};

/// An open watch; dropping it cancels it at the server.
pub struct Watch {
    client: Client,
    /// What to ask for when the stream has to be made again.
    request: WatchCreateRequest,
    stream: Option<Receiver<WatchResponse>>,
    sender: Progress,
    /// Events of a fragmented response whose end has not come yet.
    fragments: Vec<Event>,
    created_revision: i64,
}

/// Asks the server how far the watch is.
#[derive(Clone, Default)]
pub struct Progress {
    sender: Arc<Mutex<Option<Sender<WatchRequest>>>>,
}

impl Progress {
    /// The answer is a response without events, after all events up to its header's revision.
    pub fn request(&self) -> Result<(), Status> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_mut() else {
            return Err(Status::new(Code::Unavailable, "the watch is being resumed"));
        };
        let ask = WatchRequest::from(WatchRequestUnion::Progress(WatchProgressRequest {}));
        sender.stream.send_data(frame::encode(&ask), false).map_err(|err| broken(&err))
    }

    fn set(&self, sender: Option<Sender<WatchRequest>>) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }
}

impl Watch {
    pub(crate) async fn create(
        client: Client,
        request: WatchCreateRequest,
    ) -> Result<Self, Status> {
        let mut watch = Self {
            client,
            request,
            stream: None,
            sender: Progress::default(),
            fragments: Vec::new(),
            created_revision: 0,
        };
        watch.open().await?;
        Ok(watch)
    }

    /// The store's revision when the watch was made.
    pub fn created_revision(&self) -> i64 {
        self.created_revision
    }

    /// A handle for progress requests, usable while [`Watch::next`] waits.
    pub fn progress(&self) -> Progress {
        self.sender.clone()
    }

    /// The next events or progress notification. [`COMPACTED`] when the start revision is gone;
    /// `Unavailable` when the server could not be reached for a while: calling again tries again.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let response = match stream.next().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    let end = stream.status().await;
                    self.close();
                    match end {
                        Err(status) if status.code != Code::Unavailable => return Err(status),
                        _ => continue,
                    }
                }
                Err(status) if status.code == Code::Unavailable => {
                    self.close();
                    continue;
                }
                Err(status) => return Err(status),
            };
            if let Some(response) = self.take(response)? {
                return Ok(response);
            }
        }
    }

    fn close(&mut self) {
        self.stream = None;
        self.sender.set(None);
        self.fragments.clear();
    }

    /// Makes the stream and waits for the confirmation.
    async fn open(&mut self) -> Result<(), Status> {
        let create = WatchRequest::from(WatchRequestUnion::Create(self.request.clone()));
        let (sender, mut stream) = self.client.stream("/etcdserverpb.Watch/Watch", &create).await?;
        let Some(created) = stream.next().await? else {
            stream.status().await?;
            return Err(Status::new(Code::Unavailable, "the watch ended before it began"));
        };
        cancelled(&created)?;
        self.created_revision = created.header.map_or(0, |h| h.revision);
        if self.request.start_revision == 0 {
            self.request.start_revision = self.created_revision + 1;
        }
        self.stream = Some(stream);
        self.sender.set(Some(sender));
        Ok(())
    }

    /// Joins fragments and remembers where to resume.
    fn take(&mut self, mut response: WatchResponse) -> Result<Option<WatchResponse>, Status> {
        if let Err(status) = cancelled(&response) {
            self.close();
            return Err(status);
        }
        if response.fragment || !self.fragments.is_empty() {
            self.fragments.append(&mut response.events);
            if response.fragment {
                return Ok(None);
            }
            response.events = mem::take(&mut self.fragments);
        }
        let seen = match response.events.last() {
            Some(Event { kv: Some(kv), .. }) => kv.mod_revision,
            _ if response.is_progress_notify() => response.header.map_or(0, |h| h.revision),
            _ => 0,
        };
        self.request.start_revision = self.request.start_revision.max(seen + 1);
        Ok(Some(response))
    }
}

fn cancelled(response: &WatchResponse) -> Result<(), Status> {
    if response.compact_revision != 0 {
        return Err(COMPACTED);
    }
    if response.canceled {
        return Err(Status::with(Code::Canceled, response.cancel_reason.clone()));
    }
    Ok(())
}
