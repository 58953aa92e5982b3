//! The audit log: who asked for what, and what became of it, as far as the policy wants to know.
//!
//! `policy` decides, `event` writes it down as upstream does, `log` keeps the file. Invariant: what
//! is logged is in the file before the client has the answer.

mod event;
mod log;
mod policy;
mod record;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use daemon::ConfigError;

use self::log::Log;
use self::policy::Policy;
use crate::args::Args;

pub use record::Record;

/// The annotations that admission and authorisation add to a request's audit event.
#[derive(Debug, Default)]
pub struct Annotations(Mutex<BTreeMap<String, String>>);

impl Annotations {
    /// Notes something; what was noted first stays.
    pub fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(key.into()).or_insert_with(|| value.into());
    }

    /// Everything that was noted so far.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is logged, and where.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// What the flags say; none without a policy and a log.
    pub fn load(args: &Args) -> anyhow::Result<Option<Arc<Self>>> {
        let (Some(policy), Some(path)) = (&args.audit_policy_file, &args.audit_log_path) else {
            return Ok(None);
        };
        let policy = Policy::load(policy).map_err(|err| ConfigError(format!("{err:#}")))?;
        let log = Log::open(path, args).map_err(|err| ConfigError(format!("{err:#}")))?;
        Ok(Some(Arc::new(Self { policy, log })))
    }
}
