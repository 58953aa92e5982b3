//! The client: any number of calls and watches at once over one HTTP/2 connection that is made
//! when needed and made again when it breaks.
//!
//! Invariant: a write is sent at most once. A read whose connection broke is sent again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::endpoint::{Endpoint, InvalidEndpoint};
use crate::etcdserverpb::*;
use crate::grpc::{self, Receiver, broken, status_of};
use crate::status::{Code, Status};
use crate::watch::Watch;
use crate::{frame, grpc::Sender};

/// How long a call waits for a server that does not accept connections.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// Answers may be as large as a list of everything.
const RESPONSE_LIMIT: usize = i32::MAX as usize;

/// A handle to one server; clones share the connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    current: Mutex<Option<SendRequest<Bytes>>>,
    /// Held while dialling; owns the tasks that move the bytes of connections.
    drivers: tokio::sync::Mutex<JoinSet<()>>,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident($path:literal, $request:ty) -> $response:ty, $retry:expr;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, request: $request) -> Result<$response, Status> {
            self.unary($path, &request, $retry).await
        })*
    };
}

impl Client {
    /// Does not wait for the server: the first call does.
    pub fn connect(endpoint: &str) -> Result<Self, InvalidEndpoint> {
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint: Endpoint::parse(endpoint)?,
                current: Mutex::new(None),
                drivers: tokio::sync::Mutex::new(JoinSet::new()),
            }),
        })
    }

    unary! {
        range("/etcdserverpb.KV/Range", RangeRequest) -> RangeResponse, Retry::Once;
        put("/etcdserverpb.KV/Put", PutRequest) -> PutResponse, Retry::Never;
        delete_range("/etcdserverpb.KV/DeleteRange", DeleteRangeRequest) -> DeleteRangeResponse, Retry::Never;
        txn("/etcdserverpb.KV/Txn", TxnRequest) -> TxnResponse, Retry::Never;
        compact("/etcdserverpb.KV/Compact", CompactionRequest) -> CompactionResponse, Retry::Never;
        lease_grant("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest) -> LeaseGrantResponse, Retry::Never;
        lease_revoke("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest) -> LeaseRevokeResponse, Retry::Never;
        lease_time_to_live("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse, Retry::Once;
        lease_leases("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest) -> LeaseLeasesResponse, Retry::Once;
        status("/etcdserverpb.Maintenance/Status", StatusRequest) -> StatusResponse, Retry::Once;
        defragment("/etcdserverpb.Maintenance/Defragment", DefragmentRequest) -> DefragmentResponse, Retry::Never;
        hash_kv("/etcdserverpb.Maintenance/HashKV", HashKvRequest) -> HashKvResponse, Retry::Once;
        alarm("/etcdserverpb.Maintenance/Alarm", AlarmRequest) -> AlarmResponse, Retry::Never;
        member_list("/etcdserverpb.Cluster/MemberList", MemberListRequest) -> MemberListResponse, Retry::Once;
    }

    /// One keep-alive of a lease, on a stream of its own. `ttl` 0: the lease is gone.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        self.unary("/etcdserverpb.Lease/LeaseKeepAlive", &LeaseKeepAliveRequest { id }, Retry::Once)
            .await
    }

    /// Watches a key or a range; returns when the server has confirmed the watch.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch, Status> {
        Watch::create(self.clone(), request).await
    }

    /// A bidirectional stream that begins with `first`.
    pub(crate) async fn stream<Q: Message, A: Message + Default>(
        &self,
        path: &'static str,
        first: &Q,
    ) -> Result<(Sender<Q>, Receiver<A>), Status> {
        let mut connection = self.connection().await?;
        let (response, mut body) =
            connection.send_request(self.request(path), false).map_err(|err| broken(&err))?;
        body.send_data(frame::encode(first), false).map_err(|err| broken(&err))?;
        let body_in = accepted(response.await.map_err(|err| broken(&err))?)?;
        Ok((Sender::new(body), Receiver::new(body_in, RESPONSE_LIMIT)))
    }

    async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &'static str,
        request: &Q,
        retry: Retry,
    ) -> Result<A, Status> {
        let data = frame::encode(request);
        let mut again = true;
        loop {
            let mut connection = self.connection().await?;
            match self.attempt(&mut connection, path, data.clone()).await {
                Ok(answer) => return answer,
                Err(err) if again && (retry == Retry::Once || never_sent(&err)) => again = false,
                Err(err) => return Err(broken(&err)),
            }
        }
    }

    /// The outer error is the connection's, the inner one the server's.
    async fn attempt<A: Message + Default>(
        &self,
        connection: &mut SendRequest<Bytes>,
        path: &'static str,
        data: Bytes,
    ) -> Result<Result<A, Status>, h2::Error> {
        let (response, mut body) = connection.send_request(self.request(path), false)?;
        body.send_data(data, true)?;
        let mut receiver = match accepted(response.await?) {
            Ok(body) => Receiver::<A>::new(body, RESPONSE_LIMIT),
            Err(status) => return Ok(Err(status)),
        };
        let message = match receiver.next().await {
            Ok(message) => message,
            Err(status) => return Ok(Err(status)),
        };
        Ok(receiver.status().await.and_then(|()| {
            message.ok_or(Status::new(Code::Internal, "grpc: the answer has no message"))
        }))
    }

    fn request(&self, path: &'static str) -> Request<()> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.shared.endpoint.authority());
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
        request.headers_mut().insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        request
    }

    /// A connection with room for one more stream.
    async fn connection(&self) -> Result<SendRequest<Bytes>, Status> {
        if let Some(connection) = self.current()
            && let Ok(connection) = connection.ready().await
        {
            return Ok(connection);
        }
        let mut drivers = self.shared.drivers.lock().await;
        if let Some(connection) = self.current()
            && let Ok(connection) = connection.ready().await
        {
            return Ok(connection);
        }
        while drivers.try_join_next().is_some() {}
        let connection = self.dial(&mut drivers).await?;
        *self.shared.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(connection.clone());
        connection.ready().await.map_err(|err| broken(&err))
    }

    fn current(&self) -> Option<SendRequest<Bytes>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn dial(&self, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>, Status> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = RETRY_MIN;
        loop {
            let why = match timeout(PATIENCE, self.shared.endpoint.dial()).await {
                Ok(Ok(io)) => {
                    let handshake = h2::client::Builder::new()
                        .initial_window_size(grpc::STREAM_WINDOW)
                        .initial_connection_window_size(grpc::CONNECTION_WINDOW)
                        .max_frame_size(grpc::FRAME_SIZE)
                        .enable_push(false)
                        .handshake(io)
                        .await;
                    match handshake {
                        Ok((sender, connection)) => {
                            drivers.spawn(async move {
                                let _ = connection.await;
                            });
                            return Ok(sender);
                        }
                        Err(err) => err.to_string(),
                    }
                }
                Ok(Err(err)) => err.to_string(),
                Err(_) => "timed out".to_owned(),
            };
            if Instant::now() + pause > deadline {
                let endpoint = &self.shared.endpoint;
                return Err(Status::unavailable(format!("dial {endpoint}: {why}")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// Sending twice is harmless.
    Once,
    Never,
}

/// The server has surely not seen the request.
fn never_sent(err: &h2::Error) -> bool {
    err.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn accepted(response: http::Response<RecvStream>) -> Result<RecvStream, Status> {
    if let Some(Err(status)) = status_of(response.headers()) {
        return Err(status);
    }
    if response.status() != http::StatusCode::OK {
        let status = response.status();
        return Err(Status::unavailable(format!("grpc: the server answered HTTP {status}")));
    }
    Ok(response.into_body())
}
