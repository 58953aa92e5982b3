//! The one thread that writes: takes what is queued, carries it out in memory, commits it with
//! one sync of the disk, then answers.
//!
//! Invariant: nobody hears of a change (answer, watch, read) before it is on the disk. A batch
//! that could not be committed has not happened at all.

use std::sync::Arc;

use bytes::Bytes;
use etcd::Status;
use etcd::etcdserverpb::{Request, Response};
use etcd::status::{COMPACTED, FUTURE_REVISION};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::apply::{Apply, Batch, Values};
use crate::database::Database;
use crate::failure::Failure;
use crate::index::{Garbage, Id};
use crate::lessor::Lease;
use crate::shared::{Shared, lock, read, write};

/// Jobs that share one commit.
const BATCH_MAX: usize = 512;
/// Rows that compaction deletes beside a batch, and by itself when nothing else is to do.
const COMPACT_BESIDE: usize = 128;
const COMPACT_ALONE: usize = 1000;

/// What the writer can do.
pub(crate) enum Command {
    /// A well-formed Put, DeleteRange or Txn.
    Op(Request),
    Compact {
        revision: i64,
        /// Answer when the rows are deleted.
        physical: bool,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    Revoke(i64),
    /// Revoke, unless somebody kept the lease alive meanwhile.
    Expire(i64),
    Vacuum,
}

pub(crate) enum Reply {
    Op(Response),
    Granted { id: i64, ttl: i64 },
    Done,
}

/// The store's revision after the command, and its result.
pub(crate) type Answer = Result<(i64, Reply), Status>;

pub(crate) struct Job {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Answer>,
}

pub(crate) struct Writer {
    database: Database,
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    /// Compactions whose rows are still being deleted.
    compacting: Vec<(i64, oneshot::Sender<Answer>)>,
}

/// What one batch has done so far.
struct Progress {
    batch: Batch,
    begun: bool,
    compacted: Option<i64>,
    garbage: Vec<Garbage>,
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    compactions: Vec<(i64, oneshot::Sender<Answer>)>,
}

impl Writer {
    pub(crate) fn new(database: Database, shared: Arc<Shared>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { database, shared, jobs, compacting: Vec::new() }
    }

    /// Works until all senders of jobs are gone, then closes the database.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let served = self.serve();
        let closed = self.database.close();
        served?;
        closed
    }

    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            let job = match self.jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) if self.has_garbage() => {
                    if self.batch(None)? {
                        continue;
                    }
                    // The disk is full: wait for somebody to try something.
                    let Some(job) = self.jobs.blocking_recv() else { return Ok(()) };
                    job
                }
                Err(TryRecvError::Empty) => {
                    if self.database.wants_checkpoint(true) {
                        self.database.checkpoint()?;
                    }
                    let Some(job) = self.jobs.blocking_recv() else { return Ok(()) };
                    job
                }
            };
            self.batch(Some(job))?;
            if self.database.wants_checkpoint(false) {
                self.database.checkpoint()?;
            }
        }
    }

    fn has_garbage(&self) -> bool {
        let state = read(&self.shared.state);
        state.index.has_garbage(state.compacted)
    }

    /// Carries out `first` and whatever else is queued. False when the disk was full.
    fn batch(&mut self, first: Option<Job>) -> Result<bool, Failure> {
        let mut progress = Progress {
            batch: Batch::new(self.shared.revision()),
            begun: false,
            compacted: None,
            garbage: Vec::new(),
            answers: Vec::new(),
            compactions: Vec::new(),
        };
        let room = if first.is_some() { COMPACT_BESIDE } else { COMPACT_ALONE };
        let done = self.fill(&mut progress, first).and_then(|()| {
            self.collect_garbage(&mut progress, room)?;
            if progress.begun { self.database.commit() } else { Ok(()) }
        });
        match done {
            Ok(()) => {
                if progress.begun && self.shared.set_full(false) {
                    info!("Disk has room again");
                }
                self.publish(progress);
                Ok(true)
            }
            Err(failure) => {
                self.give_up(progress, &failure);
                match failure {
                    Failure::NoSpace | Failure::Refused(_) => Ok(false),
                    failure => Err(failure),
                }
            }
        }
    }

    /// An error is the batch's; what a single job is refused for goes to its answer.
    fn fill(&mut self, progress: &mut Progress, first: Option<Job>) -> Result<(), Failure> {
        let mut next = first;
        while let Some(job) = next {
            match self.execute(&job.command, progress) {
                Ok(Some(reply)) => {
                    progress.answers.push((job.reply, Ok((progress.batch.revision, reply))));
                }
                Ok(None) => progress.compactions.push((progress.batch.revision, job.reply)),
                Err(Failure::Refused(status)) => progress.answers.push((job.reply, Err(status))),
                Err(failure) => {
                    progress.answers.push((job.reply, Err(failure.status())));
                    return Err(failure);
                }
            }
            if matches!(job.command, Command::Vacuum) || progress.answers.len() >= BATCH_MAX {
                break;
            }
            next = self.jobs.try_recv().ok();
        }
        Ok(())
    }

    /// `None`: the answer has to wait for the compaction.
    fn execute(
        &mut self,
        command: &Command,
        progress: &mut Progress,
    ) -> Result<Option<Reply>, Failure> {
        let reply = match command {
            Command::Op(request) => {
                let response = self.apply(progress, |apply| apply.request(request))?;
                Reply::Op(response)
            }
            Command::Grant { id, ttl } => {
                let lease = Lease::new(*id, *ttl, Instant::now());
                let ttl = lease.ttl;
                self.apply(progress, |apply| apply.grant(lease.clone()))?;
                self.begin(progress)?;
                self.database.insert_lease(&lease)?;
                Reply::Granted { id: *id, ttl }
            }
            Command::Expire(id)
                if !read(&self.shared.state).lessor.is_expired(*id, Instant::now()) =>
            {
                Reply::Done
            }
            Command::Revoke(id) | Command::Expire(id) => {
                self.apply(progress, |apply| apply.revoke(*id))?;
                self.begin(progress)?;
                self.database.delete_lease(*id)?;
                Reply::Done
            }
            Command::Compact { revision, physical } => {
                let newest = progress.batch.revision;
                let compacted = progress.compacted.unwrap_or(read(&self.shared.state).compacted);
                if *revision <= compacted {
                    return Err(COMPACTED.into());
                }
                if *revision > newest {
                    return Err(FUTURE_REVISION.into());
                }
                self.begin(progress)?;
                self.database.set_compacted(*revision)?;
                progress.compacted = Some(*revision);
                if *physical {
                    return Ok(None);
                }
                Reply::Done
            }
            Command::Vacuum => {
                if progress.begun {
                    self.database.commit()?;
                    progress.begun = false;
                }
                self.database.vacuum()?;
                Reply::Done
            }
        };
        Ok(Some(reply))
    }

    /// Carries out one request in memory and writes its changes.
    fn apply<T>(
        &mut self,
        progress: &mut Progress,
        request: impl FnOnce(&mut Apply<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let with_prev = lock(&self.shared.hub).wants_prev();
        let first = progress.batch.changes.len();
        let values = Newest { shared: &self.shared, database: &self.database };
        let result = {
            let mut state = write(&self.shared.state);
            Apply::run(&mut state, &values, &mut progress.batch, with_prev, request)
        }?;
        if progress.batch.changes.len() > first {
            self.begin(progress)?;
            for change in &progress.batch.changes[first..] {
                self.database.insert(change)?;
            }
        }
        Ok(result)
    }

    fn begin(&self, progress: &mut Progress) -> Result<(), Failure> {
        if !progress.begun {
            self.database.begin()?;
            progress.begun = true;
        }
        Ok(())
    }

    /// Deletes a few rows of what earlier compactions left.
    fn collect_garbage(&mut self, progress: &mut Progress, limit: usize) -> Result<(), Failure> {
        progress.garbage = {
            let mut state = write(&self.shared.state);
            let compacted = state.compacted;
            state.index.compact(compacted, limit)
        };
        if progress.garbage.is_empty() {
            return Ok(());
        }
        self.begin(progress)?;
        self.database.forget(&progress.garbage)
    }

    fn publish(&mut self, progress: Progress) {
        let revision = progress.batch.revision;
        let has_garbage = {
            let mut state = write(&self.shared.state);
            state.revision = revision;
            if let Some(compacted) = progress.compacted {
                state.compacted = compacted;
            }
            state.index.has_garbage(state.compacted)
        };
        if !progress.batch.changes.is_empty() {
            lock(&self.shared.hub).publish(progress.batch.changes, revision);
        }
        // A receiver that is gone has lost its connection.
        for (reply, answer) in progress.answers {
            let _ = reply.send(answer);
        }
        self.compacting.extend(progress.compactions);
        if !has_garbage {
            for (revision, reply) in self.compacting.drain(..) {
                let _ = reply.send(Ok((revision, Reply::Done)));
            }
        }
    }

    /// Nothing of the batch has happened.
    fn give_up(&mut self, progress: Progress, failure: &Failure) {
        let status = match failure {
            // A row that the index knows is missing: the file was changed behind our back.
            Failure::Gone => etcd::status::CORRUPT,
            failure => failure.status(),
        };
        {
            let mut state = write(&self.shared.state);
            progress.batch.roll_back(&mut state);
            state.index.restore(progress.garbage);
        }
        if let Err(err) = self.database.roll_back() {
            error!(%err, "Failed to roll back");
        }
        if matches!(failure, Failure::NoSpace) && self.shared.set_full(true) {
            warn!("Disk is full, refusing writes until there is room");
        }
        let waiting = progress.compactions.into_iter().map(|(_, reply)| reply);
        for reply in progress.answers.into_iter().map(|(reply, _)| reply).chain(waiting) {
            let _ = reply.send(Err(status.clone()));
        }
    }
}

/// Committed values: recent ones from memory, others from the disk.
struct Newest<'a> {
    shared: &'a Shared,
    database: &'a Database,
}

impl Values for Newest<'_> {
    fn value(&self, id: Id) -> Result<Bytes, Failure> {
        let recent = lock(&self.shared.hub).value(id);
        recent.map_or_else(|| self.database.value(id), Ok)
    }
}
