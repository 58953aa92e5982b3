//! The etcd services over the store: checks a request, hands it to the writer or reads, and
//! opens the answer with the header.

use std::sync::Arc;
use std::time::Duration;

use etcd::etcdserverpb::*;
use etcd::server::{Receiver, Sender, Service};
use etcd::status::{LEASE_TTL_TOO_LARGE, STOPPED};
use etcd::{Code, Status};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check;
use crate::failure::Failure;
use crate::lessor::TTL_MAX;
use crate::shared::{Shared, read, write};
use crate::watch::WatchStream;
use crate::writer::{Answer, Command, Job, Reply};

/// Clients choose what they use by this; it names the API level, not a program.
const VERSION: &str = "3.5.21";
/// Leases that are ended in one go.
const EXPIRE_MAX: usize = 64;
/// How long a failed expiry waits for the disk.
const EXPIRE_RETRY: Duration = Duration::from_secs(1);

/// The store as its clients see it.
pub(crate) struct Store {
    pub(crate) shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    /// A lease may now be the next to expire.
    leases: Notify,
    pub(crate) progress_interval: Duration,
    pub(crate) stop: CancellationToken,
}

impl Store {
    pub(crate) fn new(
        shared: Arc<Shared>,
        jobs: mpsc::Sender<Job>,
        progress_interval: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self { shared, jobs, leases: Notify::new(), progress_interval, stop }
    }

    /// Waits for the writer's answer.
    pub(crate) async fn submit(&self, command: Command) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { command, reply }).await.map_err(|_| STOPPED)?;
        answer.await.map_err(|_| STOPPED)?
    }

    async fn op(&self, request: Request) -> Result<Response, Status> {
        match self.submit(Command::Op(request)).await? {
            (_, Reply::Op(response)) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    /// Completes the header that the operation has opened with its revision.
    fn header(&self, opened: Option<ResponseHeader>) -> Option<ResponseHeader> {
        self.shared.header(opened.map_or(0, |header| header.revision))
    }

    /// Ends leases when their time is over, until `stop`.
    pub(crate) async fn expire_leases(&self) {
        loop {
            let (next, expired) = {
                let state = read(&self.shared.state);
                (state.lessor.next_expiry(), state.lessor.expired(Instant::now(), EXPIRE_MAX))
            };
            let mut failed = false;
            for id in expired {
                failed |= self.submit(Command::Expire(id)).await.is_err();
            }
            let until = match (failed, next) {
                (true, _) => Instant::now() + EXPIRE_RETRY,
                (false, Some(next)) => next,
                // Nothing to wait for but a new lease; the date is never reached.
                (false, None) => Instant::now() + Duration::from_secs(TTL_MAX as u64),
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.leases.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

impl Service for Store {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        check::range(&request)?;
        self.shared.range(&request).await
    }

    async fn put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        check::put(&request)?;
        check::size(&request)?;
        match self.op(Request::Put(request)).await? {
            Response::Put(answer) => {
                Ok(PutResponse { header: self.header(answer.header), ..answer })
            }
            _ => Err(mismatch()),
        }
    }

    async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        check::delete_range(&request)?;
        match self.op(Request::DeleteRange(request)).await? {
            Response::DeleteRange(answer) => {
                Ok(DeleteRangeResponse { header: self.header(answer.header), ..answer })
            }
            _ => Err(mismatch()),
        }
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        check::txn(&request)?;
        check::size(&request)?;
        match self.op(Request::Txn(request)).await? {
            Response::Txn(answer) => {
                Ok(TxnResponse { header: self.header(answer.header), ..answer })
            }
            _ => Err(mismatch()),
        }
    }

    async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Status> {
        let CompactionRequest { revision, physical } = request;
        let (revision, _) = self.submit(Command::Compact { revision, physical }).await?;
        Ok(CompactionResponse { header: self.shared.header(revision) })
    }

    async fn watch(
        &self,
        requests: Receiver<WatchRequest>,
        responses: &mut Sender<WatchResponse>,
    ) -> Result<(), Status> {
        WatchStream::new(self, responses).run(requests).await
    }

    async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        if request.ttl > TTL_MAX {
            return Err(LEASE_TTL_TOO_LARGE);
        }
        let id = match request.id {
            0 => self.free_lease_id(),
            id => id,
        };
        match self.submit(Command::Grant { id, ttl: request.ttl }).await? {
            (revision, Reply::Granted { id, ttl }) => {
                self.leases.notify_one();
                let header = self.shared.header(revision);
                Ok(LeaseGrantResponse { header, id, ttl, error: String::new() })
            }
            _ => Err(mismatch()),
        }
    }

    async fn lease_revoke(
        &self,
        request: LeaseRevokeRequest,
    ) -> Result<LeaseRevokeResponse, Status> {
        let (revision, _) = self.submit(Command::Revoke(request.id)).await?;
        Ok(LeaseRevokeResponse { header: self.shared.header(revision) })
    }

    async fn lease_keep_alive(
        &self,
        mut requests: Receiver<LeaseKeepAliveRequest>,
        responses: &mut Sender<LeaseKeepAliveResponse>,
    ) -> Result<(), Status> {
        loop {
            let request = tokio::select! {
                () = self.stop.cancelled() => return Err(STOPPED),
                request = requests.next() => request?,
            };
            let Some(LeaseKeepAliveRequest { id }) = request else { return Ok(()) };
            let (revision, kept) = {
                let mut state = write(&self.shared.state);
                (state.revision, state.lessor.keep_alive(id, Instant::now()))
            };
            let header = self.shared.header(revision);
            let ttl = kept.unwrap_or(0);
            responses.send(&LeaseKeepAliveResponse { header, id, ttl }).await?;
        }
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        let state = read(&self.shared.state);
        let header = self.shared.header(state.revision);
        let id = request.id;
        let Some(lease) = state.lessor.get(id) else {
            return Ok(LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() });
        };
        let keys = if request.keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
        let ttl = lease.remaining(Instant::now());
        Ok(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: lease.ttl, keys })
    }

    async fn lease_leases(&self, _: LeaseLeasesRequest) -> Result<LeaseLeasesResponse, Status> {
        let state = read(&self.shared.state);
        let leases = state.lessor.ids().map(|id| LeaseStatus { id }).collect();
        Ok(LeaseLeasesResponse { header: self.shared.header(state.revision), leases })
    }

    async fn alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        if request.action != AlarmAction::Get as i32 {
            return Err(Status::new(
                Code::Unimplemented,
                "k3s-store raises and clears its alarms by itself",
            ));
        }
        let mut alarms = Vec::new();
        if self.shared.is_full() {
            let member_id = self.shared.identity.member_id;
            alarms.push(AlarmMember { member_id, alarm: AlarmType::NoSpace as i32 });
        }
        Ok(AlarmResponse { header: self.shared.header(self.shared.revision()), alarms })
    }

    async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Status> {
        let size = self.shared.blocking(|reader| reader.size()).await;
        let (db_size, db_size_in_use) = size.map_err(|failure: Failure| failure.status())?;
        let revision = self.shared.revision();
        let index = u64::try_from(revision).unwrap_or(0);
        Ok(StatusResponse {
            header: self.shared.header(revision),
            version: VERSION.to_owned(),
            db_size,
            leader: self.shared.identity.member_id,
            raft_index: index,
            raft_term: 1,
            raft_applied_index: index,
            errors: match self.shared.is_full() {
                true => vec![etcd::status::NO_SPACE.message.into_owned()],
                false => Vec::new(),
            },
            db_size_in_use,
            is_learner: false,
        })
    }

    async fn defragment(&self, _: DefragmentRequest) -> Result<DefragmentResponse, Status> {
        let (revision, _) = self.submit(Command::Vacuum).await?;
        Ok(DefragmentResponse { header: self.shared.header(revision) })
    }

    async fn member_list(&self, _: MemberListRequest) -> Result<MemberListResponse, Status> {
        let member = Member {
            id: self.shared.identity.member_id,
            name: "k3s-store".to_owned(),
            ..Default::default()
        };
        let header = self.shared.header(self.shared.revision());
        Ok(MemberListResponse { header, members: vec![member] })
    }
}

impl Store {
    /// Positive, and not in use.
    fn free_lease_id(&self) -> i64 {
        let state = read(&self.shared.state);
        loop {
            let id = i64::try_from(random() >> 1).unwrap_or(0);
            if id != 0 && state.lessor.get(id).is_none() {
                return id;
            }
        }
    }
}

/// Differs between processes and calls; nobody has to be unable to guess it.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

fn mismatch() -> Status {
    Status::new(Code::Internal, "k3s-store: the answer is of another kind than the request")
}
