//! Rolling back as clients asked for it before they did it themselves: an annotation names the
//! revision, the controller puts its template back and removes the annotation.
//!
//! Invariant: whatever comes of it, the annotation is gone afterwards.

use anyhow::{Context, Result};
use client::{EventType, ObjectReference, Patch};
use serde_json::{Value, json};

use super::{NAME, NOT_COPIED, Sets, revision, without_hash};
use crate::{Cx, caches::DEPLOYMENTS, types::apps::Deployment};

/// The annotation with the revision to return to; zero is the last one.
pub(super) const TO: &str = "deprecated.deployment.rollback.to";

/// What a rollback comes to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused { reason: &'static str, message: String },
    Done { template: Value, annotations: Value, message: String },
}

/// The revision that is asked for.
pub(super) fn wanted(d: &Deployment) -> Option<i64> {
    d.metadata.annotation(TO)?.parse().ok()
}

/// Performs it, with upstream's events.
pub(super) async fn perform(
    cx: &Cx,
    d: &Deployment,
    template: &Value,
    sets: &Sets,
    to: i64,
) -> Result<()> {
    let mut body = json!({"metadata": {"annotations": {TO: null}}});
    let (kind, reason, message) = match plan(d, template, sets, to) {
        Outcome::Refused { reason, message } => (EventType::Warning, reason, message),
        Outcome::Done { template: other, annotations, message } => {
            body["metadata"]["resourceVersion"] = json!(d.metadata.resource_version);
            body["metadata"]["annotations"] = annotations;
            // A merge would keep what only the present template has.
            body["spec"]["template"] = replacement(template, &other);
            (EventType::Normal, "DeploymentRollback", message)
        }
    };
    let key = d.metadata.key();
    let updated: Deployment = cx
        .rest
        .patch(&DEPLOYMENTS, &key, "", Patch::Merge, &body)
        .await
        .with_context(|| format!("rolling back {key}"))?;
    cx.caches.deployments.observe(updated);
    let about = ObjectReference::new(&DEPLOYMENTS, &d.metadata);
    cx.recorder.named(NAME).event(&about, kind, reason, message);
    Ok(())
}

fn plan(d: &Deployment, template: &Value, sets: &Sets, to: i64) -> Outcome {
    const NOT_FOUND: &str = "DeploymentRollbackRevisionNotFound";
    let mut known: Vec<i64> = sets.all().map(|set| revision(set)).collect();
    known.sort_unstable_by(|a, b| b.cmp(a));
    let last = known.get(1).copied().unwrap_or(0);
    let to = if to == 0 { last } else { to };
    if to == 0 {
        let message = "Unable to find last revision.".into();
        return Outcome::Refused { reason: NOT_FOUND, message };
    }
    let Some(set) = sets.all().find(|set| revision(set) == to) else {
        let message = "Unable to find the revision to rollback to.".into();
        return Outcome::Refused { reason: NOT_FOUND, message };
    };
    let raw = set.spec.template.as_ref();
    let other: Value = raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let other = without_hash(&other);
    let name = &d.metadata.name;
    if other == without_hash(template) {
        let message = format!(
            "The rollback revision contains the same template as current deployment {name:?}"
        );
        return Outcome::Refused { reason: "DeploymentRollbackTemplateUnchanged", message };
    }
    let mut annotations = json!({TO: null});
    let copied = |name: &&String| !NOT_COPIED.contains(&name.as_str());
    for name in d.metadata.annotations.keys().filter(copied) {
        annotations[name] = Value::Null;
    }
    for (name, value) in set.metadata.annotations.iter().filter(|(name, _)| copied(name)) {
        annotations[name] = json!(value);
    }
    let message = format!("Rolled back deployment {name:?} to revision {to}");
    Outcome::Done { template: other, annotations, message }
}

/// The merge patch that turns one template into the other.
fn replacement(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = serde_json::Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        let before = from.get(name).unwrap_or(&Value::Null);
        if before != value {
            patch.insert(name.clone(), replacement(before, value));
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{HASH, REVISION},
        *,
    };
    use crate::types::apps::ReplicaSet;

    fn set(number: &str, image: &str) -> Arc<ReplicaSet> {
        let template = json!({"metadata": {"labels": {"app": "a", HASH: number}}, "image": image});
        let mut set: ReplicaSet =
            serde_json::from_value(json!({"spec": {"template": template}})).unwrap();
        set.metadata.annotations.insert(REVISION.into(), number.into());
        set.metadata.annotations.insert("note".into(), image.into());
        Arc::new(set)
    }

    #[test]
    fn rollbacks_find_their_revision_or_say_why_not() {
        let sets = Sets { new: Some(set("3", "c")), old: vec![set("1", "a"), set("2", "b")] };
        let now = json!({"metadata": {"labels": {"app": "a"}}, "image": "c"});
        let check = |sets: &Sets, to, want: &str, image: Option<&str>| {
            let mut d = Deployment::default();
            d.metadata.name = "web".into();
            d.metadata.annotations.insert("mine".into(), "x".into());
            let (found, went) = match plan(&d, &now, sets, to) {
                Outcome::Refused { message, .. } => (message, None),
                Outcome::Done { template, annotations, message } => {
                    assert_eq!(annotations["mine"], Value::Null);
                    assert_eq!(annotations["note"], template["image"]);
                    (message, template["image"].as_str().map(str::to_owned))
                }
            };
            assert_eq!((found.as_str(), went.as_deref()), (want, image));
        };
        check(&sets, 0, "Rolled back deployment \"web\" to revision 2", Some("b"));
        check(&sets, 1, "Rolled back deployment \"web\" to revision 1", Some("a"));
        let same = "The rollback revision contains the same template as current deployment \"web\"";
        check(&sets, 3, same, None);
        check(&sets, 7, "Unable to find the revision to rollback to.", None);
        let alone = Sets { new: sets.new.clone(), old: Vec::new() };
        check(&alone, 0, "Unable to find last revision.", None);
    }

    #[test]
    fn a_template_is_replaced_not_merged() {
        let check = |from: Value, to: Value, want: Value| {
            assert_eq!(replacement(&from, &to), want);
        };
        check(
            json!({"a": 1, "b": {"c": 1}}),
            json!({"b": {"d": 2}}),
            json!({"a": null, "b": {"c": null, "d": 2}}),
        );
        check(json!({"a": [1]}), json!({"a": [2]}), json!({"a": [2]}));
        check(json!({"a": 1}), json!({"a": 1}), json!({}));
    }
}
