//! Why a request was not carried out.

use etcd::Status;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request is at fault; the state is as before.
    #[error(transparent)]
    Refused(#[from] Status),
    /// The disk is full: the batch is rolled back, reads and later writes go on.
    #[error("the disk is full")]
    NoSpace,
    /// The row was compacted between looking it up and reading it.
    #[error("the revision was compacted meanwhile")]
    Gone,
    /// The disk cannot be trusted any more: the process has to end and start over.
    #[error("database failed: {0}")]
    Database(rusqlite::Error),
}

impl Failure {
    /// What the client is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Refused(status) => status.clone(),
            Self::NoSpace => etcd::status::NO_SPACE,
            Self::Gone => etcd::status::COMPACTED,
            Self::Database(err) => {
                Status::with(etcd::Code::Unavailable, format!("etcdserver: database failed: {err}"))
            }
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(err: rusqlite::Error) -> Self {
        match err {
            rusqlite::Error::QueryReturnedNoRows => Self::Gone,
            rusqlite::Error::SqliteFailure(code, _)
                if code.code == rusqlite::ErrorCode::DiskFull =>
            {
                Self::NoSpace
            }
            err => Self::Database(err),
        }
    }
}
