//! Roles and ClusterRoles.

use apimachinery::field::{FieldErrors, Path};

use crate::registry::validate::label_selector;
use crate::registry::value::{has, list, map};
use crate::registry::{Cx, NameRule, Object, Strategy};

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(super) struct Role(pub(super) &'static str);

impl Role {
    fn cluster(&self) -> bool {
        self.0.starts_with("cluster")
    }

    fn check(&self, obj: &Object, errs: &mut FieldErrors) {
        for (n, rule) in list(obj, "rules").iter().enumerate() {
            let path = Path::new("rules").index(n);
            if list(rule, "verbs").is_empty() {
                errs.required(path.child("verbs"), "verbs must contain at least one value");
            }
            if !list(rule, "nonResourceURLs").is_empty() {
                if !self.cluster() {
                    let shown = rule["nonResourceURLs"].clone();
                    let detail = "namespaced rules cannot apply to non-resource URLs";
                    errs.invalid(path.child("nonResourceURLs"), shown, detail);
                }
                let mixed = ["apiGroups", "resources", "resourceNames"]
                    .iter()
                    .any(|field| !list(rule, field).is_empty());
                if mixed {
                    let shown = rule["nonResourceURLs"].clone();
                    let detail =
                        "rules cannot apply to both regular resources and non-resource URLs";
                    errs.invalid(path.child("nonResourceURLs"), shown, detail);
                }
                continue;
            }
            if list(rule, "apiGroups").is_empty() {
                let detail = "resource rules must supply at least one api group";
                errs.required(path.child("apiGroups"), detail);
            }
            if list(rule, "resources").is_empty() {
                let detail = "resource rules must supply at least one resource";
                errs.required(path.child("resources"), detail);
            }
        }
        if self.cluster() && has(obj, "aggregationRule") {
            let selectors = list(obj, "aggregationRule.clusterRoleSelectors");
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            if selectors.is_empty() {
                let detail =
                    "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errs.required(path.clone(), detail);
            }
            for (n, selector) in selectors.iter().enumerate() {
                let path = path.index(n);
                label_selector(errs, &path, selector);
                if map(selector, "matchLabels").is_empty()
                    && list(selector, "matchExpressions").is_empty()
                {
                    errs.invalid(path, selector.clone(), "empty label selector is not allowed");
                }
            }
        }
    }
}

impl Strategy for Role {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        // An empty list reads back as none.
        if list(obj, "rules").is_empty() {
            obj["rules"] = serde_json::Value::Null;
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        self.check(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        self.check(new, errs);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
