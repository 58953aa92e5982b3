//! The server glue: one HTTP/2 connection in, calls of a [`Service`] out.
//!
//! Invariant: every stream ends with a gRPC status, and no task outlives its connection.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::Mended;
use crate::etcdserverpb::*;
use crate::frame;
use crate::grpc::{self, put_status};
use crate::status::{AUTH_NOT_ENABLED, Code, Status};

pub use crate::grpc::{Receiver, Sender};

/// As etcd: 1.5 MiB of request and half a MiB for what is around it.
const REQUEST_LIMIT: usize = 2 << 20;
/// A connection carries at most this many calls and watches at once.
const STREAMS_MAX: u32 = 10_000;

macro_rules! service {
    ($($name:ident($path:literal, $request:ty) -> $response:ty;)*) => {
        /// What a server does. A method that is left out answers `Unimplemented`.
        pub trait Service: Send + Sync + 'static {
            $(fn $name(
                &self,
                _request: $request,
            ) -> impl Future<Output = Result<$response, Status>> + Send {
                async { Err(unimplemented($path)) }
            })*

            fn watch(
                &self,
                _requests: Receiver<WatchRequest>,
                _responses: &mut Sender<WatchResponse>,
            ) -> impl Future<Output = Result<(), Status>> + Send {
                async { Err(unimplemented("/etcdserverpb.Watch/Watch")) }
            }

            fn lease_keep_alive(
                &self,
                _requests: Receiver<LeaseKeepAliveRequest>,
                _responses: &mut Sender<LeaseKeepAliveResponse>,
            ) -> impl Future<Output = Result<(), Status>> + Send {
                async { Err(unimplemented("/etcdserverpb.Lease/LeaseKeepAlive")) }
            }

            fn snapshot(
                &self,
                _responses: &mut Sender<SnapshotResponse>,
            ) -> impl Future<Output = Result<(), Status>> + Send {
                async { Err(unimplemented("/etcdserverpb.Maintenance/Snapshot")) }
            }
        }

        async fn dispatch<S: Service>(service: &S, path: &str, body: RecvStream, call: Call) {
            match path {
                $($path => {
                    let answer = match first(body).await {
                        Ok(request) => service.$name(request).await,
                        Err(status) => Err(status),
                    };
                    call.answer(&answer)
                })*
                "/etcdserverpb.Watch/Watch" => {
                    let Some(mut out) = call.stream() else { return };
                    let requests = Receiver::new(body, REQUEST_LIMIT);
                    let end = service.watch(requests, &mut out).await;
                    finish(out, end);
                }
                "/etcdserverpb.Lease/LeaseKeepAlive" => {
                    let Some(mut out) = call.stream() else { return };
                    let requests = Receiver::new(body, REQUEST_LIMIT);
                    let end = service.lease_keep_alive(requests, &mut out).await;
                    finish(out, end);
                }
                "/etcdserverpb.Maintenance/Snapshot" => {
                    let Some(mut out) = call.stream() else { return };
                    let end = service.snapshot(&mut out).await;
                    finish(out, end);
                }
                _ => call.answer::<CompactionResponse>(&Err(unimplemented(path))),
            }
        }
    };
}

service! {
    range("/etcdserverpb.KV/Range", RangeRequest) -> RangeResponse;
    put("/etcdserverpb.KV/Put", PutRequest) -> PutResponse;
    delete_range("/etcdserverpb.KV/DeleteRange", DeleteRangeRequest) -> DeleteRangeResponse;
    txn("/etcdserverpb.KV/Txn", TxnRequest) -> TxnResponse;
    compact("/etcdserverpb.KV/Compact", CompactionRequest) -> CompactionResponse;
    lease_grant("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest) -> LeaseGrantResponse;
    lease_revoke("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest) -> LeaseRevokeResponse;
    lease_time_to_live("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse;
    lease_leases("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest) -> LeaseLeasesResponse;
    alarm("/etcdserverpb.Maintenance/Alarm", AlarmRequest) -> AlarmResponse;
    status("/etcdserverpb.Maintenance/Status", StatusRequest) -> StatusResponse;
    defragment("/etcdserverpb.Maintenance/Defragment", DefragmentRequest) -> DefragmentResponse;
    hash("/etcdserverpb.Maintenance/Hash", HashRequest) -> HashResponse;
    hash_kv("/etcdserverpb.Maintenance/HashKV", HashKvRequest) -> HashKvResponse;
    member_list("/etcdserverpb.Cluster/MemberList", MemberListRequest) -> MemberListResponse;
}

/// Serves one connection until the peer leaves, or until `stop` and the last open call is done.
/// Calls that never end by themselves (watches) must listen to `stop` too.
pub async fn serve<S: Service>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    service: Arc<S>,
    stop: CancellationToken,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(grpc::STREAM_WINDOW)
        .initial_connection_window_size(grpc::CONNECTION_WINDOW)
        .max_frame_size(grpc::FRAME_SIZE)
        .max_concurrent_streams(STREAMS_MAX)
        .handshake::<_, Bytes>(Mended::new(io))
        .await?;
    let mut calls = JoinSet::new();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { break };
                let (request, respond) = accepted?;
                let service = service.clone();
                calls.spawn(async move {
                    let (head, body) = request.into_parts();
                    dispatch(&*service, head.uri.path(), body, Call { respond }).await;
                });
            }
            Some(_) = calls.join_next() => {}
            () = stop.cancelled(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
        }
    }
    Ok(())
}

fn unimplemented(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    if service == "etcdserverpb.Auth" && method == "Authenticate" {
        return AUTH_NOT_ENABLED;
    }
    Status::with(
        Code::Unimplemented,
        format!("unknown method {method} for service {service}: not part of k3s-store"),
    )
}

/// The answering half of a call.
struct Call {
    respond: SendResponse<Bytes>,
}

impl Call {
    fn answer<T: Message>(mut self, answer: &Result<T, Status>) {
        let mut head = head();
        // An error here means that the peer is gone, and nobody is left to tell.
        match answer {
            Ok(message) => {
                let Ok(mut body) = self.respond.send_response(head, false) else { return };
                if body.send_data(frame::encode(message), false).is_ok() {
                    let mut trailers = HeaderMap::with_capacity(1);
                    put_status(&mut trailers, &Ok(()));
                    let _ = body.send_trailers(trailers);
                }
            }
            Err(status) => {
                put_status(head.headers_mut(), &Err(status.clone()));
                let _ = self.respond.send_response(head, true);
            }
        }
    }

    fn stream<T: Message>(mut self) -> Option<Sender<T>> {
        self.respond.send_response(head(), false).ok().map(Sender::new)
    }
}

fn head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
    head
}

async fn first<T: Message + Default>(body: RecvStream) -> Result<T, Status> {
    let message = Receiver::new(body, REQUEST_LIMIT).next().await?;
    message.ok_or(Status::new(Code::Internal, "grpc: the request has no message"))
}

fn finish<T: Message>(out: Sender<T>, end: Result<(), Status>) {
    let mut out = out;
    let mut trailers = HeaderMap::with_capacity(2);
    put_status(&mut trailers, &end);
    let _ = out.stream.send_trailers(trailers);
}
