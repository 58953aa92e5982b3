//! What is noted about a request for the audit log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The annotations that admission and authorisation add to a request's audit event.
#[derive(Debug, Default)]
pub struct Annotations(Mutex<BTreeMap<String, String>>);

impl Annotations {
    /// Notes something; what was noted first stays.
    pub fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(key.into()).or_insert_with(|| value.into());
    }

    /// Everything that was noted.
    pub fn take(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
