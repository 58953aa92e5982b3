//! Who is asked about a request, and about which kind of it: selectors, rules, match conditions.
//!
//! The order is upstream's, since it decides which error a client sees.

use apimachinery::selector::LabelSelector;
use apimachinery::status::{About, Status};

use super::super::policies::{Evaluation, rule_covers};
use super::super::{Attributes, Operation};
use super::hook::Hook;
use super::review::Invocation;
use crate::registry::Object;

/// What this webhook is asked about, if anything.
pub(super) fn invocation(
    cx: &Attributes<'_>,
    hook: &Hook,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<Option<Invocation>, Status> {
    // A selector that fails matters to those only whom the rules speak of.
    let in_namespace = in_namespace(cx, &hook.namespaces, object);
    if in_namespace.as_ref().is_ok_and(|inside| !inside) {
        return Ok(None);
    }
    let chosen = match &hook.objects {
        Ok(selector) => Ok(chosen(selector, object, old)),
        Err(why) => Err(Status::internal(why.clone())),
    };
    if chosen.as_ref().is_ok_and(|chosen| !chosen) {
        return Ok(None);
    }
    let Some(found) = by_rules(cx, hook) else { return Ok(None) };
    in_namespace?;
    chosen?;
    if hook.conditions.is_null() {
        return Ok(Some(found));
    }
    let evaluation = Evaluation { cx, policy: &hook.conditions, object, old };
    match evaluation.judge(None, |_, _| ()) {
        Ok(held) => Ok(held.map(|()| found)),
        Err(why) if hook.fails => Err(cx.forbidden_for(object, &why)),
        Err(_) => Ok(None),
    }
}

/// The first rule that speaks of the request; with `Equivalent`, of another version of it.
fn by_rules(cx: &Attributes<'_>, hook: &Hook) -> Option<Invocation> {
    let own = [cx.group, cx.version, cx.resource];
    if hook.rules.iter().any(|rule| rule_covers(cx, rule, own)) {
        return Some(Invocation {
            group: cx.group.to_owned(),
            version: cx.version.to_owned(),
            resource: cx.resource.to_owned(),
            kind: [cx.kind_group, cx.kind_version, cx.kind].map(str::to_owned),
        });
    }
    if !hook.equivalent {
        return None;
    }
    let kind = cx.kinds.get(cx.group, cx.version, cx.resource)?;
    let mut others = cx.kinds.versions(&kind.resource);
    others.retain(|other| (other.group.as_str(), other.version.as_str()) != (cx.group, cx.version));
    others.sort_by(|a, b| (&a.group, &a.version).cmp(&(&b.group, &b.version)));
    for rule in &hook.rules {
        for other in &others {
            if rule_covers(cx, rule, [&other.group, &other.version, &other.plural]) {
                // A subresource with a body of its own has the same in every version.
                let same = kind.kind == cx.kind;
                let kind = match same {
                    true => [other.group.as_str(), &other.version, &other.kind],
                    false => [cx.kind_group, cx.kind_version, cx.kind],
                };
                return Some(Invocation {
                    group: other.group.clone(),
                    version: other.version.clone(),
                    resource: other.plural.clone(),
                    kind: kind.map(str::to_owned),
                });
            }
        }
    }
    None
}

fn chosen(selector: &LabelSelector, object: Option<&Object>, old: Option<&Object>) -> bool {
    let labels = |of: &Object| selector.matches_labels(of["metadata"]["labels"].as_object());
    selector.is_everything() || [object, old].into_iter().flatten().any(labels)
}

/// Is the request in a namespace of the selector, or in none?
fn in_namespace(
    cx: &Attributes<'_>,
    selector: &Result<LabelSelector, String>,
    object: Option<&Object>,
) -> Result<bool, Status> {
    let is_namespace = cx.group.is_empty() && cx.resource == "namespaces";
    if cx.namespace.is_empty() && !is_namespace {
        return Ok(true);
    }
    let selector = selector.as_ref().map_err(|why| Status::internal(why.clone()))?;
    if selector.is_everything() {
        return Ok(true);
    }
    let written = matches!(cx.operation, Operation::Create | Operation::Update);
    if let (true, true, Some(object)) = (is_namespace, written && cx.subresource.is_empty(), object)
    {
        return Ok(selector.matches_labels(object["metadata"]["labels"].as_object()));
    }
    let name = if is_namespace { cx.name } else { cx.namespace };
    match cx.cluster.get("namespaces", "", name) {
        Some(namespace) => Ok(selector.matches(|label: &str| namespace.label(label))),
        None => Err(Status::not_found(About { group: "", resource: "namespaces", name })),
    }
}
