//! `events.k8s.io/v1`: the same events as the core group's, with other names for some fields.

use super::Strategy;
use super::core::event::Event;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&Event("events.events.k8s.io")];
