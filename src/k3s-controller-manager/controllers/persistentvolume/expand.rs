//! Claims that ask for more than their volume has: nothing here makes volumes larger, so the claim is
//! told that somebody else has to.
//!
//! Invariant: a claim is told once for each change of what it asks for.

use client::{Event, EventType, ObjectReference};

use crate::{Cx, Running, amounts::Amount, caches::CLAIMS, types::storage::Claim};

pub(crate) fn start_expansion(cx: &Cx) -> Running {
    let recorder = cx.recorder.named("volume_expand");
    cx.caches.claims.on_event(move |event| {
        let Event::Updated { old, new } = event else { return };
        if wants_more(old, new) {
            let about = ObjectReference::new(&CLAIMS, &new.metadata);
            let message = "waiting for an external controller to expand this PVC";
            recorder.event(&about, EventType::Normal, "ExternalExpanding", message);
        }
    });
    Box::pin(async {})
}

/// Whether the claim has just asked for more than it has.
fn wants_more(old: &Claim, new: &Claim) -> bool {
    let size = |claim: &Claim| claim.spec.resources.requests.get("storage").copied();
    let has = new.status.capacity.get("storage").copied().unwrap_or(Amount::ZERO);
    new.status.phase == "Bound" && size(old) != size(new) && size(new).is_some_and(|it| it > has)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_new_wish_for_more_is_told() {
        let claim = |wants: &str, phase: &str| -> Claim {
            serde_json::from_value(json!({
                "spec": {"resources": {"requests": {"storage": wants}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}},
            }))
            .unwrap()
        };
        let check = |old: &str, new: &str, phase: &str, want: bool| {
            assert_eq!(wants_more(&claim(old, phase), &claim(new, phase)), want, "{old} {new}");
        };
        check("1Gi", "2Gi", "Bound", true);
        check("2Gi", "2Gi", "Bound", false);
        check("2Gi", "1Gi", "Bound", false);
        check("1Gi", "2Gi", "Pending", false);
    }
}
