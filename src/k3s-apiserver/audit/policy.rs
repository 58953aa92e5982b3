//! The audit policy: at which level and in which stages a request is logged. Pure.
//!
//! Invariant: the first rule that speaks of a request decides.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::registry::value::{flag, has, list, text, texts};
use crate::request::RequestInfo;
use crate::user::UserInfo;

/// How much of a request is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn read(name: &str) -> Option<Self> {
        let all = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];
        all.into_iter().find(|level| level.name() == name)
    }
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// What the policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) level: Level,
    pub(super) omitted: Vec<String>,
    pub(super) omit_managed_fields: bool,
}

/// An `audit.k8s.io` Policy.
#[derive(Debug)]
pub(super) struct Policy(Value);

impl Policy {
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("use the audit policy {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let policy = match apimachinery::yaml::parse(bytes) {
            Ok(parsed) => parsed.value,
            Err(why) => bail!("{why}"),
        };
        let version = text(&policy, "apiVersion");
        ensure!(
            version == "audit.k8s.io/v1" && text(&policy, "kind") == "Policy",
            "it must be a Policy of audit.k8s.io/v1, not {:?} of {version:?}",
            text(&policy, "kind")
        );
        let rules = list(&policy, "rules");
        ensure!(!rules.is_empty(), "it has no rules");
        for (n, rule) in rules.iter().enumerate() {
            let level = text(rule, "level");
            ensure!(Level::read(level).is_some(), "rules[{n}].level: {level:?} is no level");
            let both =
                !list(rule, "resources").is_empty() && !list(rule, "nonResourceURLs").is_empty();
            ensure!(!both, "rules[{n}] speaks of both resources and nonResourceURLs");
            for stage in texts(rule, "omitStages") {
                ensure!(STAGES.contains(&stage), "rules[{n}].omitStages: {stage:?} is no stage");
            }
        }
        for stage in texts(&policy, "omitStages") {
            ensure!(STAGES.contains(&stage), "omitStages: {stage:?} is no stage");
        }
        Ok(Self(policy))
    }

    /// What becomes of a request.
    pub(super) fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Decision {
        let rules = list(&self.0, "rules");
        let Some(rule) = rules.iter().find(|rule| matches(rule, user, info)) else {
            return Decision {
                level: Level::None,
                omitted: Vec::new(),
                omit_managed_fields: false,
            };
        };
        let all = texts(&self.0, "omitStages").chain(texts(rule, "omitStages"));
        Decision {
            level: Level::read(text(rule, "level")).unwrap_or(Level::None),
            omitted: all.map(str::to_owned).collect(),
            omit_managed_fields: match has(rule, "omitManagedFields") {
                true => flag(rule, "omitManagedFields"),
                false => flag(&self.0, "omitManagedFields"),
            },
        }
    }
}

fn matches(rule: &Value, user: &UserInfo, info: &RequestInfo) -> bool {
    let any = |field: &str, value: &str| {
        list(rule, field).is_empty() || texts(rule, field).any(|own| own == value)
    };
    let grouped = list(rule, "userGroups").is_empty()
        || texts(rule, "userGroups").any(|group| user.in_group(group));
    if !any("users", &user.name) || !grouped || !any("verbs", info.verb) {
        return false;
    }
    let (resources, urls) = (list(rule, "resources"), list(rule, "nonResourceURLs"));
    if !resources.is_empty() || !list(rule, "namespaces").is_empty() {
        return info.is_resource && matches_resource(rule, resources, info);
    }
    if !urls.is_empty() {
        let matches = texts(rule, "nonResourceURLs").any(|url| match url.strip_suffix('*') {
            Some(start) => info.path.starts_with(start),
            None => url == info.path,
        });
        return !info.is_resource && matches;
    }
    true
}

fn matches_resource(rule: &Value, resources: &[Value], info: &RequestInfo) -> bool {
    let namespaces = list(rule, "namespaces");
    if !namespaces.is_empty() && !texts(rule, "namespaces").any(|own| own == info.namespace) {
        return false;
    }
    let combined = match info.subresource.as_str() {
        "" => info.resource.clone(),
        sub => format!("{}/{sub}", info.resource),
    };
    resources.is_empty()
        || resources.iter().filter(|of| text(of, "group") == info.group).any(|of| {
            if list(of, "resources").is_empty() {
                return true;
            }
            let names = list(of, "resourceNames");
            let named = names.is_empty() || texts(of, "resourceNames").any(|own| own == info.name);
            named
                && texts(of, "resources").any(|own| {
                    own == combined
                        || own == "*"
                        || own
                            .strip_prefix("*/")
                            .is_some_and(|sub| !sub.is_empty() && sub == info.subresource)
                        || own.strip_suffix("/*").is_some_and(|resource| resource == info.resource)
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: [system:kube-proxy]
    verbs: [watch]
  - level: RequestResponse
    omitStages: [ResponseStarted]
    resources: [{ group: "", resources: ["pods/*", secrets] }]
    namespaces: [ns]
  - level: None
    nonResourceURLs: ["/healthz*"]
  - level: Metadata
    userGroups: [watched]
"#;

    #[test]
    fn the_first_rule_that_speaks_of_a_request_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let check = |user: &str, info: RequestInfo, level: Level, omitted: &[&str]| {
            let groups = vec!["watched".to_owned()];
            let user = UserInfo { name: user.to_owned(), groups, ..UserInfo::default() };
            let decision = policy.decide(&user, &info);
            assert_eq!(
                (decision.level, decision.omitted.len()),
                (level, omitted.len()),
                "{info:?}"
            );
        };
        let pods = |sub: &str, namespace: &str| RequestInfo {
            is_resource: true,
            verb: "watch",
            resource: "pods".to_owned(),
            subresource: sub.to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        let both = ["RequestReceived", "ResponseStarted"];
        check("system:kube-proxy", pods("", "ns"), Level::None, &both[..1]);
        check("a", pods("exec", "ns"), Level::RequestResponse, &both);
        check("a", pods("exec", "other"), Level::Metadata, &both[..1]);
        let health = RequestInfo { path: "/healthz/x".to_owned(), ..RequestInfo::default() };
        check("a", health, Level::None, &both[..1]);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let check = |policy: &str, want: &str| {
            let err = Policy::parse(policy.as_bytes()).unwrap_err().to_string();
            assert!(err.contains(want), "{err}");
        };
        check("kind: Policy", "audit.k8s.io/v1");
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        check(head, "no rules");
        check(&format!("{head}rules: [{{level: All}}]"), "rules[0].level");
        check(&format!("{head}omitStages: [X]\nrules: [{{level: None}}]"), "no stage");
    }
}
