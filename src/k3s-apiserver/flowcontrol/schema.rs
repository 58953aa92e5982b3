//! FlowSchemas: whose requests, to what, and which of them are one flow. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderValue;
use serde_json::Value;

use crate::registry::Object;
use crate::registry::value::{flag, int, key, list, text, texts};
use crate::request::RequestInfo;
use crate::user::UserInfo;

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

/// One FlowSchema, read.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    pub(super) level: String,
    pub(super) precedence: i64,
    by: By,
    rules: Vec<Value>,
}

impl Schema {
    pub(super) fn read(object: &Object) -> Self {
        let uid = HeaderValue::from_str(text(object, "metadata.uid"));
        Self {
            name: text(object, "metadata.name").to_owned(),
            uid: uid.unwrap_or_else(|_| HeaderValue::from_static("")),
            level: text(object, "spec.priorityLevelConfiguration.name").to_owned(),
            precedence: int(object, "spec.matchingPrecedence").unwrap_or(1000),
            by: match text(object, "spec.distinguisherMethod.type") {
                "ByUser" => By::User,
                "ByNamespace" => By::Namespace,
                _ => By::Nothing,
            },
            rules: list(object, "spec.rules").to_vec(),
        }
    }

    /// Is the request one of this schema's?
    pub(super) fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            list(rule, "subjects").iter().any(|subject| is_subject(subject, user))
                && if info.is_resource {
                    list(rule, "resourceRules").iter().any(|rule| resource_matches(rule, info))
                } else {
                    list(rule, "nonResourceRules").iter().any(|rule| path_matches(rule, info))
                }
        })
    }

    /// The flow of a request, as a number.
    pub(super) fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.by {
            By::Nothing => {}
            By::User => user.name.hash(&mut hasher),
            By::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

fn is_subject(subject: &Value, user: &UserInfo) -> bool {
    match text(subject, "kind") {
        "User" => {
            matches!(text(subject, "user.name"), "*") || text(subject, "user.name") == user.name
        }
        "Group" => {
            let name = text(subject, "group.name");
            name == "*" || user.in_group(name)
        }
        "ServiceAccount" => {
            let (namespace, name) =
                (text(subject, "serviceAccount.namespace"), text(subject, "serviceAccount.name"));
            let Some(account) = user.name.strip_prefix("system:serviceaccount:") else {
                return false;
            };
            account
                .split_once(':')
                .is_some_and(|(own, account)| own == namespace && (name == "*" || account == name))
        }
        _ => false,
    }
}

fn has(rule: &Value, field: &str, value: &str) -> bool {
    texts(rule, field).any(|own| own == "*" || own == value)
}

fn resource_matches(rule: &Value, info: &RequestInfo) -> bool {
    let place = if info.namespace.is_empty() {
        flag(rule, "clusterScope")
    } else {
        has(rule, "namespaces", &info.namespace)
    };
    let resource = texts(rule, "resources").any(|own| match own.split_once('/') {
        Some((resource, sub)) => resource == info.resource && sub == info.subresource,
        None => own == "*" || (info.subresource.is_empty() && own == info.resource),
    });
    place && resource && has(rule, "verbs", info.verb) && has(rule, "apiGroups", &info.group)
}

fn path_matches(rule: &Value, info: &RequestInfo) -> bool {
    let url = key(rule, "nonResourceURLs").as_array().into_iter().flatten();
    let matches = url.filter_map(Value::as_str).any(|own| match own.strip_suffix('*') {
        Some(start) => info.path.starts_with(start),
        None => own == info.path,
    });
    matches && has(rule, "verbs", info.verb)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn subjects_and_rules_choose_requests() {
        let schema = |subject: Value, rules: Value| {
            let mut rule = rules;
            rule["subjects"] = json!([subject]);
            Schema::read(&json!({"metadata": {"name": "s"}, "spec": {"rules": [rule],
                "distinguisherMethod": {"type": "ByNamespace"}}}))
        };
        let user = UserInfo {
            name: "system:serviceaccount:ns:sa".to_owned(),
            groups: vec!["g".to_owned()],
            ..UserInfo::default()
        };
        let info = RequestInfo {
            is_resource: true,
            verb: "list",
            group: "apps".to_owned(),
            resource: "deployments".to_owned(),
            namespace: "ns".to_owned(),
            ..RequestInfo::default()
        };
        let all = json!({"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"],
            "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]});
        let group = json!({"kind": "Group", "group": {"name": "g"}});
        let account = |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": name}});
        let check = |subject: &Value, rules: &Value, want: bool| {
            let found = schema(subject.clone(), rules.clone()).matches(&user, &info);
            assert_eq!(found, want, "{subject} {rules}");
        };
        check(&group, &all, true);
        check(&account("*"), &all, true);
        check(&account("other"), &all, false);
        check(&json!({"kind": "User", "user": {"name": "x"}}), &all, false);
        let scale = json!({"resourceRules": [{"verbs": ["list"], "apiGroups": ["apps"],
            "resources": ["deployments/scale"], "namespaces": ["*"]}]});
        check(&group, &scale, false);
        let cluster = json!({"resourceRules": [{"verbs": ["list"], "apiGroups": ["apps"],
            "resources": ["deployments"], "clusterScope": true}]});
        check(&group, &cluster, false);
        let schema = schema(group, all);
        let other = RequestInfo { namespace: "other".to_owned(), ..info.clone() };
        assert_ne!(schema.flow(&user, &info), schema.flow(&user, &other));
    }
}
