//! Kinds that are stored faithfully while nothing acts on them yet.
//!
//! Invariant: whoever relies on one finds a line in the log; the answer to the client stays
//! upstream's.

use tracing::warn;

/// Kind, and what does not happen.
const INERT: &[(&str, &str)] =
    &[("NetworkPolicy", "it is not enforced"), ("ResourceClaim", "no driver allocates it")];

/// Says so when an object of this kind was created.
pub(super) fn tell(kind: &str, name: &str) {
    if let Some((_, missing)) = INERT.iter().find(|(inert, _)| *inert == kind) {
        warn!(kind, name, missing, "Stored an object that nothing acts on yet");
    }
}
