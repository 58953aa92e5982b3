//! Node and pod affinity, and the selectors that volumes and storage classes share with them.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{
    label_problems, label_value_problems, qualified_problems, subdomain_problems,
};
use serde_json::Value;

use crate::registry::validate::{label_selector, problems};
use crate::registry::value::{has, int, key, list, map, text, texts};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub(super) fn validate(errs: &mut FieldErrors, path: &Path, affinity: &Value) {
    let node = key(affinity, "nodeAffinity");
    let here = path.child("nodeAffinity");
    if has(node, REQUIRED) {
        node_selector(errs, &here.child(REQUIRED), key(node, REQUIRED));
    }
    for (at, term) in list(node, PREFERRED).iter().enumerate() {
        let path = here.child(PREFERRED).index(at);
        weight(errs, &path, term);
        node_term(errs, &path.child("preference"), key(term, "preference"), Values::Any);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let here = path.child(kind);
        let pod = key(affinity, kind);
        for (at, term) in list(pod, REQUIRED).iter().enumerate() {
            pod_term(errs, &here.child(REQUIRED).index(at), term);
        }
        for (at, term) in list(pod, PREFERRED).iter().enumerate() {
            let path = here.child(PREFERRED).index(at);
            weight(errs, &path, term);
            pod_term(errs, &path.child("podAffinityTerm"), key(term, "podAffinityTerm"));
        }
    }
}

fn weight(errs: &mut FieldErrors, path: &Path, term: &Value) {
    let weight = int(term, "weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errs.invalid(path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`: at least one term.
pub(crate) fn node_selector(errs: &mut FieldErrors, path: &Path, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errs.required(path, "must have at least one node selector term");
        return;
    }
    for (at, term) in terms.iter().enumerate() {
        node_term(errs, &path.index(at), term, Values::Labels);
    }
}

/// What the values of an expression may be: a preference for what no label can be is harmless.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Labels,
    Any,
}

fn node_term(errs: &mut FieldErrors, path: &Path, term: &Value, values_are: Values) {
    for (at, one) in list(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = list(one, "values");
        match text(one, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                    errs.required(path.child("values"), detail);
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let detail =
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errs.forbidden(path.child("values"), detail);
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errs.required(path.child("values"), detail);
                }
            }
            other => errs.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
        let name = text(one, "key");
        problems(errs, &path.child("key"), name, qualified_problems(name));
        for (n, value) in texts(one, "values").enumerate().filter(|_| values_are == Values::Labels)
        {
            problems(errs, &path.child("values").index(n), value, label_value_problems(value));
        }
    }
    for (at, one) in list(term, "matchFields").iter().enumerate() {
        node_field(errs, &path.child("matchFields").index(at), one);
    }
}

fn node_field(errs: &mut FieldErrors, path: &Path, one: &Value) {
    let operator = text(one, "operator");
    if matches!(operator, "In" | "NotIn") {
        if list(one, "values").len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errs.required(path.child("values"), detail);
        }
    } else {
        errs.invalid(path.child("operator"), operator, "not a valid selector operator");
    }
    let field = text(one, "key");
    if field == "metadata.name" {
        for (n, value) in texts(one, "values").enumerate() {
            problems(errs, &path.child("values").index(n), value, subdomain_problems(value));
        }
    } else {
        errs.invalid(path.child("key"), field, "not a valid field selector key");
    }
}

fn pod_term(errs: &mut FieldErrors, path: &Path, term: &Value) {
    label_selector(errs, &path.child("labelSelector"), key(term, "labelSelector"));
    label_selector(errs, &path.child("namespaceSelector"), key(term, "namespaceSelector"));
    for name in texts(term, "namespaces") {
        problems(errs, &path.child("namespace"), name, label_problems(name));
    }
    label_keys(errs, path, term);
    let topology = text(term, "topologyKey");
    if topology.is_empty() {
        errs.required(path.child("topologyKey"), "can not be empty");
    }
    problems(errs, &path.child("topologyKey"), topology, qualified_problems(topology));
}

/// `matchLabelKeys` and `mismatchLabelKeys`: labels of the pod itself that a selector takes in.
fn label_keys(errs: &mut FieldErrors, path: &Path, term: &Value) {
    let selector = key(term, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        if selector.is_null() {
            if !list(term, field).is_empty() {
                let detail = "must not be specified when labelSelector is not set";
                errs.forbidden(path.child(field), detail);
            }
            continue;
        }
        for (at, name) in texts(term, field).enumerate() {
            problems(errs, &path.child(field).index(at), name, qualified_problems(name));
        }
    }
    let mut seen: HashSet<&str> = map(selector, "matchLabels").keys().map(String::as_str).collect();
    for expression in list(selector, "matchExpressions") {
        let name = text(expression, "key");
        let at = texts(term, "matchLabelKeys").position(|wanted| wanted == name);
        if let Some(at) = at.filter(|_| seen.contains(name)) {
            errs.invalid(path.index(at), name, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(name);
    }
    for (at, name) in texts(term, "matchLabelKeys").enumerate() {
        if texts(term, "mismatchLabelKeys").any(|other| other == name) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errs.invalid(path.child("matchLabelKeys").index(at), name, detail);
        }
    }
}

/// `allowedTopologies` of a storage class.
pub(crate) fn topology_selector_terms(errs: &mut FieldErrors, path: &Path, terms: &[Value]) {
    for (at, term) in terms.iter().enumerate() {
        let path = path.index(at).child("matchLabelExpressions");
        let mut keys = HashSet::new();
        for (n, one) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(n);
            let name = text(one, "key");
            if list(one, "values").is_empty() {
                errs.required(path.child("values"), "");
            }
            let mut seen = HashSet::new();
            for (v, value) in texts(one, "values").enumerate() {
                if !seen.insert(value) {
                    errs.duplicate(path.child("values").index(v), value);
                }
            }
            problems(errs, &path.child("key"), name, qualified_problems(name));
            if !keys.insert(name) {
                errs.duplicate(path.child("key"), name);
            }
        }
    }
}
