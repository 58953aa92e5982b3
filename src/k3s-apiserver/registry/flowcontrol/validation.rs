//! What is wrong with FlowSchemas and PriorityLevelConfigurations.
//!
//! Invariant: the objects that the server cannot do without keep the spec that it gives them.

use apimachinery::field::{ErrorKind, FieldErrors, Path, supported_values};
use apimachinery::validation::{label_problems, subdomain_problems};
use serde_json::Value;

use crate::bootstrap::flowcontrol::mandatory_spec;
use crate::registry::Object;
use crate::registry::validate::{one_of, problems, spec};
use crate::registry::value::{at, flag, has, int, key, list, text, texts};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// The hash that deals hands of queues has so many bits.
const HASH_BITS: i64 = 60;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// A schema and its status.
pub(super) fn flow_schema(errs: &mut FieldErrors, obj: &Object) {
    let (path, body) = (spec(), at(obj, "spec"));
    let name = text(obj, "metadata.name");
    let precedence = int(body, "matchingPrecedence").unwrap_or_default();
    let here = path.child("matchingPrecedence");
    if precedence <= 0 {
        errs.invalid(&here, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errs.invalid(&here, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errs.invalid(here, precedence, detail);
    }
    if has(body, "distinguisherMethod") {
        let kind = text(body, "distinguisherMethod.type");
        if !matches!(kind, "ByNamespace" | "ByUser") {
            let path = path.child("distinguisherMethod").child("type");
            let supported = supported_values(&["ByNamespace", "ByUser"]);
            errs.add(ErrorKind::NotSupported, path, &format!("{{\"Type\":{kind:?}}}"), &supported);
        }
    }
    let level = text(body, "priorityLevelConfiguration.name");
    let here = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errs.required(here, "must reference a priority level");
    } else {
        problems(errs, &here, level, subdomain_problems(level));
    }
    for (n, rule) in list(body, "rules").iter().enumerate() {
        flow_rule(errs, &path.child("rules").index(n), rule);
    }
    if mandatory_spec("FlowSchema", name).is_some_and(|wanted| wanted != *body) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        errs.invalid(path, crate::registry::internal::renamed(body), detail);
    }
    status(errs, obj);
}

/// Conditions have a type, each its own.
pub(super) fn status(errs: &mut FieldErrors, obj: &Object) {
    let path = Path::new("status").child("conditions");
    let conditions = list(obj, "status.conditions");
    for (n, condition) in conditions.iter().enumerate() {
        let (path, kind) = (path.index(n).child("type"), text(condition, "type"));
        if conditions[..n].iter().any(|before| text(before, "type") == kind) {
            errs.duplicate(&path, kind);
        }
        if kind.is_empty() {
            errs.required(path, "must not be empty");
        }
    }
}

fn flow_rule(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errs.required(path.child("subjects"), "subjects must contain at least one value");
    }
    for (n, one) in subjects.iter().enumerate() {
        subject(errs, &path.child("subjects").index(n), one);
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errs.required(path, detail);
    }
    for (n, one) in resources.iter().enumerate() {
        resource_rule(errs, &path.child("resourceRules").index(n), one);
    }
    for (n, one) in others.iter().enumerate() {
        non_resource_rule(errs, &path.child("nonResourceRules").index(n), one);
    }
}

fn subject(errs: &mut FieldErrors, path: &Path, subject: &Value) {
    let kind = text(subject, "kind");
    let (own, others) = match kind {
        "ServiceAccount" => ("serviceAccount", [("user", "User"), ("group", "Group")]),
        "User" => ("user", [("serviceAccount", "ServiceAccount"), ("group", "Group")]),
        "Group" => ("group", [("serviceAccount", "ServiceAccount"), ("user", "User")]),
        _ => {
            let valid = &["Group", "ServiceAccount", "User"];
            errs.not_supported(path.child("kind"), kind, valid);
            return;
        }
    };
    let (here, who) = (path.child(own), key(subject, own));
    let name = text(who, "name");
    if who.is_null() {
        errs.required(here, format!("{own} is required when subject kind is '{kind}'"));
    } else {
        let account = own == "serviceAccount";
        if name.is_empty() {
            errs.required(here.child("name"), "");
        } else if account && name != "*" {
            problems(errs, &here.child("name"), name, subdomain_problems(name));
        }
        let namespace = text(who, "namespace");
        if account && namespace.is_empty() {
            errs.required(here.child("namespace"), "must specify namespace for service account");
        } else if account {
            problems(errs, &here.child("namespace"), namespace, label_problems(namespace));
        }
    }
    for (field, of) in others {
        if has(subject, field) {
            let detail = format!("{field} is forbidden when subject kind is not '{of}'");
            errs.forbidden(path.child(field), detail);
        }
    }
}

/// A list that has items, of which `*` is the only one; true when the items are to be looked at.
fn items(
    errs: &mut FieldErrors,
    path: &Path,
    rule: &Value,
    field: &str,
    what: (&str, &str),
) -> bool {
    let items = list(rule, field);
    let any = items.iter().any(|item| item == "*");
    let (missing, others) = what;
    if items.is_empty() {
        errs.required(path.child(field), missing);
    } else if any && items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errs.invalid(path.child(field), items.to_vec(), detail);
    }
    !items.is_empty() && !any
}

fn verbs(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    let what = ("verbs must contain at least one value", "verbs");
    if items(errs, path, rule, "verbs", what)
        && !texts(rule, "verbs").all(|verb| VERBS.contains(&verb))
    {
        errs.not_supported(path.child("verbs"), key(rule, "verbs").clone(), VERBS);
    }
}

fn resource_rule(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    verbs(errs, path, rule);
    let what = ("resource rules must supply at least one api group", "api groups");
    items(errs, path, rule, "apiGroups", what);
    let what = ("resource rules must supply at least one resource", "resources");
    items(errs, path, rule, "resources", what);
    if list(rule, "namespaces").is_empty() && flag(rule, "clusterScope") {
        return;
    }
    let what = (
        "resource rules that are not cluster scoped must supply at least one namespace",
        "namespaces",
    );
    if items(errs, path, rule, "namespaces", what) {
        for (n, namespace) in texts(rule, "namespaces").enumerate() {
            for why in label_problems(namespace) {
                let detail =
                    format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errs.invalid(path.child("namespaces").index(n), namespace, detail);
            }
        }
    }
}

fn non_resource_rule(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    verbs(errs, path, rule);
    let what = ("nonResourceURLs must contain at least one value", "non-resource URLs");
    if items(errs, path, rule, "nonResourceURLs", what) {
        for (n, url) in texts(rule, "nonResourceURLs").enumerate() {
            if let Some(why) = url_problem(url) {
                errs.invalid(path.child("nonResourceURLs").index(n), url, why);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ => match url.matches('*').count() {
            0 => None,
            1 if url.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}

/// A level and its status.
pub(super) fn priority_level(errs: &mut FieldErrors, obj: &Object) {
    let (path, body) = (spec(), at(obj, "spec"));
    let (name, kind) = (text(obj, "metadata.name"), text(body, "type"));
    if (name == "exempt") != (kind == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errs.invalid(path.child("type"), kind, detail);
    }
    match kind {
        "Exempt" => {
            if has(body, "limited") {
                errs.forbidden(path.child("limited"), "must be nil if the type is not Limited");
            }
            let (path, exempt) = (path.child("exempt"), key(body, "exempt"));
            shares(errs, &path, exempt);
            lendable(errs, &path, exempt);
        }
        "Limited" => {
            if has(body, "exempt") {
                errs.forbidden(path.child("exempt"), "must be nil if the type is Limited");
            }
            if has(body, "limited") {
                limited(errs, &path.child("limited"), key(body, "limited"));
            } else {
                errs.required(path.child("limited"), "must not be empty when type is Limited");
            }
        }
        _ => errs.not_supported(path.child("type"), kind, &["Exempt", "Limited"]),
    }
    if let Some(mut wanted) = mandatory_spec("PriorityLevelConfiguration", name) {
        let own = name == "exempt";
        if own {
            wanted["exempt"] = key(body, "exempt").clone();
        }
        if wanted != *body {
            let but = if own { " except the 'spec.exempt' field" } else { "" };
            let detail = format!("spec of '{name}'{but} must equal the fixed value");
            errs.invalid(path, crate::registry::internal::renamed(body), detail);
        }
    }
    status(errs, obj);
}

fn shares(errs: &mut FieldErrors, path: &Path, of: &Value) {
    if let Some(shares) = int(of, "nominalConcurrencyShares").filter(|n| *n < 0) {
        let path = path.child("nominalConcurrencyShares");
        errs.invalid(path, shares, "must be a non-negative integer");
    }
}

fn lendable(errs: &mut FieldErrors, path: &Path, of: &Value) {
    let percent = int(of, "lendablePercent").unwrap_or_default();
    if !(0..=100).contains(&percent) {
        let detail = "must be between 0 and 100, inclusive";
        errs.invalid(path.child("lendablePercent"), percent, detail);
    }
}

fn limited(errs: &mut FieldErrors, path: &Path, limited: &Value) {
    shares(errs, path, limited);
    response(errs, &path.child("limitResponse"), key(limited, "limitResponse"));
    lendable(errs, path, limited);
    if let Some(percent) = int(limited, "borrowingLimitPercent").filter(|n| *n < 0) {
        let path = path.child("borrowingLimitPercent");
        errs.invalid(path, percent, "if specified, must be a non-negative integer");
    }
}

fn response(errs: &mut FieldErrors, path: &Path, response: &Value) {
    let queuing = key(response, "queuing");
    let here = path.child("queuing");
    match text(response, "type") {
        "Reject" if queuing.is_null() => {}
        "Reject" => {
            errs.forbidden(here, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Queue" if queuing.is_null() => {
            errs.required(here, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => self::queuing(errs, &here, queuing),
        _ => one_of(errs, &path.child("type"), key(response, "type"), &["Queue", "Reject"]),
    }
}

fn queuing(errs: &mut FieldErrors, path: &Path, queuing: &Value) {
    let of = |field: &str| int(queuing, field).unwrap_or_default();
    let (length, queues, hand) = (of("queueLengthLimit"), of("queues"), of("handSize"));
    if length <= 0 {
        errs.invalid(path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errs.invalid(path.child("queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errs.invalid(path.child("queues"), queues, detail);
    }
    let path = path.child("handSize");
    if hand <= 0 {
        errs.invalid(path, hand, "must be positive");
    } else if hand > queues {
        errs.invalid(path, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_exceeds_hash(queues, hand) {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        errs.invalid(path, hand, detail);
    }
}

/// Does it take more bits than the hash has to deal such a hand?
fn entropy_exceeds_hash(queues: i64, hand: i64) -> bool {
    let bits: f64 = (0..hand.min(HASH_BITS + 1)).map(|n| ((queues - n) as f64).log2()).sum();
    bits.ceil() > HASH_BITS as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_are_refused_as_upstream_does() {
        let check = |rule: Value, want: &str| {
            let mut errs = FieldErrors::default();
            flow_rule(&mut errs, &Path::new("r"), &rule);
            let found = if errs.is_empty() { String::new() } else { errs.aggregate() };
            assert_eq!(found, want, "{rule}");
        };
        let group = json!([{"kind": "Group", "group": {"name": "g"}}]);
        check(
            json!({"subjects": group, "nonResourceRules": [
            {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/a/*"]}]}),
            "",
        );
        check(
            json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*"},
                "user": {}}], "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["*"],
                "resources": ["x"], "namespaces": ["A"]}]}),
            "[r.subjects[0].serviceAccount.namespace: Required value: must specify namespace for \
             service account, r.subjects[0].user: Forbidden: user is forbidden when subject kind is \
             not 'User', r.resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is \
             present, must not specify other verbs, r.resourceRules[0].namespaces[0]: Invalid \
             value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase \
             RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
             used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')]",
        );
        check(
            json!({"subjects": group, "nonResourceRules": [{"nonResourceURLs": ["x", "/a*b"]}]}),
            "[r.nonResourceRules[0].verbs: Required value: verbs must contain at least one value, \
             r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash, \
             r.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": wildcard can only \
             do suffix matching]",
        );
    }

    #[test]
    fn a_hand_needs_bits() {
        assert!(!entropy_exceeds_hash(64, 8));
        assert!(entropy_exceeds_hash(512, 7));
    }
}
