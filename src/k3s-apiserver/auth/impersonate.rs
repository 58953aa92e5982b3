//! `Impersonate-*` headers: acting as somebody else, where one may.
//!
//! Invariant: every part of the wanted identity is authorised for the real user before it is taken.

use http::HeaderMap;

use super::attributes::Attributes;
use super::authorizer::Authorizer;
use super::objects::Objects;
use super::service_account::account_user;
use crate::user::UserInfo;

const EXTRA: &str = "impersonate-extra-";

/// Why somebody cannot be impersonated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 500: the headers make no sense together.
    Malformed(String),
    /// 403 about this group, resource and name.
    Forbidden { group: &'static str, resource: String, name: String, why: String },
}

/// The user that the headers ask for; `None` if they ask for nobody.
pub fn impersonate(
    authorizer: &Authorizer,
    objects: &dyn Objects,
    real: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, Refused> {
    let Some(wanted) = read(headers)? else { return Ok(None) };
    let account =
        wanted.name.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'));
    let check = |group: &'static str, resource, subresource, namespace, name| {
        let asked = Attributes {
            user: Some(real),
            verb: "impersonate",
            is_resource: true,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        let decision = authorizer.authorize(objects, &asked);
        if decision.is_allowed() {
            return Ok(());
        }
        let why = asked.refusal(decision.reason());
        let (resource, name) = (resource.to_owned(), name.to_owned());
        Err(Refused::Forbidden { group, resource, name, why })
    };
    match account {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    Ok(Some(with_groups(wanted)))
}

/// Adds the groups that come with the user by nature.
fn with_groups(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, name)) =
            user.name.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'))
    {
        user.groups = account_user(namespace, name).groups;
    }
    let (authenticated, unauthenticated) = ("system:authenticated", "system:unauthenticated");
    if user.name == "system:anonymous" {
        if !user.in_group(unauthenticated) {
            user.groups.push(unauthenticated.to_owned());
        }
    } else if !user.in_group(authenticated) && !user.in_group(unauthenticated) {
        user.groups.push(authenticated.to_owned());
    }
    user
}

fn read(headers: &HeaderMap) -> Result<Option<UserInfo>, Refused> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut user = UserInfo {
        name: one("impersonate-user"),
        uid: one("impersonate-uid"),
        groups: headers.get_all("impersonate-group").iter().map(text).collect(),
        ..UserInfo::default()
    };
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            user.extra.entry(unescape(key)).or_default().push(text(value));
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.groups.is_empty() && user.extra.is_empty() && user.uid.is_empty() {
        return Ok(None);
    }
    let mut asked = user.groups;
    asked.extend(user.extra.into_keys());
    asked.extend((!user.uid.is_empty()).then_some(user.uid));
    let why = format!("requested {asked:?} without impersonating a user");
    Err(Refused::Malformed(why))
}

/// Percent-decoding of a header's key; what is no escape stays.
pub(super) fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.filter(|_| byte == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::*;
    use serde_json::json;

    fn act(headers: &[(&'static str, &str)]) -> Result<Option<UserInfo>, Refused> {
        let objects = Fake::default()
            .with(
                "clusterroles.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "actor"}, "rules": [
                    {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"]},
                    {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
                    {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]},
                ]}),
            )
            .with(
                "clusterrolebindings.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "actor"},
                    "subjects": [{"kind": "User", "name": "alice"}]}),
            );
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        let real = UserInfo { name: "alice".to_owned(), ..UserInfo::default() };
        let authorizer = Authorizer::new(&["RBAC".to_owned()]).expect("modes");
        impersonate(&authorizer, &objects, &real, &map)
    }

    #[test]
    fn one_becomes_whom_one_may() {
        assert_eq!(act(&[]), Ok(None));
        let bob = act(&[("impersonate-user", "bob"), ("impersonate-extra-scopes", "x")]);
        let bob = bob.expect("allowed").expect("bob");
        assert_eq!(
            (bob.name.as_str(), bob.groups.as_slice()),
            ("bob", &["system:authenticated".to_owned()][..])
        );
        assert_eq!(bob.extra["scopes"], ["x"]);
        let robot = act(&[("impersonate-user", "system:serviceaccount:a:robot")]);
        let robot = robot.expect("allowed").expect("robot");
        assert!(robot.in_group("system:serviceaccounts:a"));
    }

    #[test]
    fn every_part_is_checked() {
        let why = |headers: &[(&'static str, &str)]| match act(headers) {
            Err(Refused::Forbidden { resource, why, .. }) => format!("{resource}: {why}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            why(&[("impersonate-user", "eve")]),
            "users: User \"alice\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
        assert_eq!(
            why(&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")]),
            "groups: User \"alice\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
        assert!(matches!(act(&[("impersonate-group", "g")]), Err(Refused::Malformed(_))));
    }
}
