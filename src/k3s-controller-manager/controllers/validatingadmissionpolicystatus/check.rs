//! Which types a policy is about, and what the compiler says of its expressions for each of them.
//!
//! Knows no server. Invariant: the same policy and types give the same warnings, in the same order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use apimachinery::cel::{self, Ty};
use client::null_default;
use serde::{Deserialize, Serialize};

/// More types than that are not looked at.
const TYPES_MAX: usize = 10;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// `spec` of a policy.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Policy {
    param_kind: Option<ParamKind>,
    match_constraints: Option<Constraints>,
    #[serde(deserialize_with = "null_default")]
    validations: Vec<Validation>,
    #[serde(deserialize_with = "null_default")]
    variables: Vec<Variable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ParamKind {
    api_version: String,
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Constraints {
    #[serde(deserialize_with = "null_default")]
    resource_rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    #[serde(deserialize_with = "null_default")]
    api_groups: BTreeSet<String>,
    #[serde(deserialize_with = "null_default")]
    api_versions: BTreeSet<String>,
    #[serde(deserialize_with = "null_default")]
    resources: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Validation {
    expression: String,
    message_expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    expression: String,
}

/// `status.typeChecking.expressionWarnings[]`
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Warning {
    pub field_ref: String,
    pub warning: String,
}

impl Policy {
    /// Groups, versions and resources that rules name; what has a wildcard is not looked at.
    pub(super) fn subjects(&self) -> Vec<(String, String, Vec<String>)> {
        let mut subjects = Vec::new();
        let rules = self.match_constraints.iter().flat_map(|it| &it.resource_rules);
        for rule in rules {
            let mut names = rule.api_groups.iter().chain(&rule.api_versions);
            if names.any(|name| name.contains('*')) {
                continue;
            }
            let plain = |name: &&String| !name.contains(['*', '/']);
            let resources: Vec<String> = rule.resources.iter().filter(plain).cloned().collect();
            for group in &rule.api_groups {
                for version in &rule.api_versions {
                    subjects.push((group.clone(), version.clone(), resources.clone()));
                }
            }
        }
        subjects
    }

    /// The kind of the parameters.
    pub(super) fn params(&self) -> Option<Gvk> {
        let kind = self.param_kind.as_ref()?;
        let (group, version) = kind.api_version.rsplit_once('/').unwrap_or(("", &kind.api_version));
        Some(Gvk { group: group.into(), version: version.into(), kind: kind.kind.clone() })
    }
}

/// The types to check for, each once.
pub(super) fn chosen(mut found: Vec<Gvk>) -> Vec<Gvk> {
    found.truncate(TYPES_MAX);
    found.sort();
    found.dedup();
    found
}

/// What is wrong with a policy's expressions. A kind of parameters whose type is not known makes
/// `params` unknown too.
pub(super) fn warnings(
    policy: &Policy,
    objects: &[(Gvk, Ty)],
    params: Option<&Ty>,
) -> Vec<Warning> {
    let scopes: Vec<_> = objects.iter().map(|(gvk, ty)| (gvk, scope(policy, ty, params))).collect();
    let check = |text: &str, field_ref: String| {
        let told: Vec<String> = scopes
            .iter()
            .filter_map(|(gvk, scope)| {
                let why = cel::compile(text, scope).err()?;
                Some(format!("{gvk}: {why}\n"))
            })
            .collect();
        (!told.is_empty()).then(|| Warning { field_ref, warning: told.join("\n") })
    };
    let mut warnings = Vec::new();
    for (n, validation) in policy.validations.iter().enumerate() {
        let field = |name: &str| format!("spec.validations[{n}].{name}");
        warnings.extend(check(&validation.expression, field("expression")));
        if !validation.message_expression.is_empty() {
            warnings.extend(check(&validation.message_expression, field("messageExpression")));
        }
    }
    warnings
}

/// What the expressions may name when the object is of this type.
fn scope(policy: &Policy, object: &Ty, params: Option<&Ty>) -> BTreeMap<String, Ty> {
    let mut scope = BTreeMap::from(
        [
            ("object", object.clone()),
            ("oldObject", object.clone()),
            ("namespaceObject", namespace()),
            ("request", request()),
            ("authorizer", Ty::AUTHORIZER),
            ("variables", Ty::object([])),
        ]
        .map(|(name, ty)| (name.to_owned(), ty)),
    );
    if let Some(params) = params {
        scope.insert("params".to_owned(), params.clone());
    } else if policy.param_kind.is_some() {
        scope.insert("params".to_owned(), Ty::Dyn);
    }
    // A variable may name those before it; a wrong one is told where it is used.
    let mut own = BTreeMap::new();
    for variable in &policy.variables {
        let ty = cel::compile(&variable.expression, &scope).map_or(Ty::Dyn, |program| program.ty);
        own.insert(cel::escape(&variable.name), ty);
        scope.insert("variables".to_owned(), Ty::Object(std::sync::Arc::new(own.clone())));
    }
    scope
}

fn namespace() -> Ty {
    let texts = || Ty::map(Ty::String);
    let metadata = Ty::object([
        ("name", Ty::String),
        ("generateName", Ty::String),
        ("namespace", Ty::String),
        ("labels", texts()),
        ("annotations", texts()),
        ("uid", Ty::String),
        ("creationTimestamp", Ty::Timestamp),
        ("deletionGracePeriodSeconds", Ty::Int),
        ("deletionTimestamp", Ty::Timestamp),
        ("generation", Ty::Int),
        ("resourceVersion", Ty::String),
        ("finalizers", Ty::list(Ty::String)),
    ]);
    Ty::object([
        ("metadata", metadata),
        ("spec", Ty::object([("finalizers", Ty::list(Ty::String))])),
        ("status", Ty::object([("phase", Ty::String)])),
    ])
}

fn request() -> Ty {
    let of =
        |name| Ty::object([("group", Ty::String), ("version", Ty::String), (name, Ty::String)]);
    let user = Ty::object([
        ("username", Ty::String),
        ("uid", Ty::String),
        ("groups", Ty::list(Ty::String)),
        ("extra", Ty::map(Ty::list(Ty::String))),
    ]);
    Ty::object([
        ("kind", of("kind")),
        ("resource", of("resource")),
        ("subResource", Ty::String),
        ("requestKind", of("kind")),
        ("requestResource", of("resource")),
        ("requestSubResource", Ty::String),
        ("name", Ty::String),
        ("namespace", Ty::String),
        ("operation", Ty::String),
        ("userInfo", user),
        ("dryRun", Ty::Bool),
        ("options", Ty::Dyn),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gvk(kind: &str) -> Gvk {
        Gvk { group: "apps".into(), version: "v1".into(), kind: kind.into() }
    }

    fn check(spec: Value, params: Option<&Ty>, want: &[(&str, &str)]) {
        let policy: Policy = serde_json::from_value(spec.clone()).unwrap();
        let object = Ty::object([("spec", Ty::object([("replicas", Ty::Int)]))]);
        let found = warnings(&policy, &[(gvk("Deployment"), object)], params);
        let found: Vec<(&str, &str)> =
            found.iter().map(|it| (it.field_ref.as_str(), it.warning.as_str())).collect();
        assert_eq!(found, want, "{spec}");
    }

    #[test]
    fn expressions_are_judged_by_the_types_they_are_about() {
        check(json!({"validations": [{"expression": "object.spec.replicas > 1"}]}), None, &[]);
        let wrong = "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'size'\n \
            | object.spec.size > 1\n | ...........^\n";
        check(
            json!({"validations": [
                {"expression": "true", "messageExpression": "object.spec.size > 1"},
            ]}),
            None,
            &[("spec.validations[0].messageExpression", wrong)],
        );
        let operands = "apps/v1, Kind=Deployment: ERROR: <input>:1:13: found no matching overload \
            for '_==_' applied to '(int, string)'\n | variables.n == 'x'\n | ............^\n";
        check(
            json!({
                "variables": [{"name": "n", "expression": "object.spec.replicas"}],
                "validations": [{"expression": "variables.n == 'x'"}],
            }),
            None,
            &[("spec.validations[0].expression", operands)],
        );
        let request = "request.operation == 'CREATE' && !has(request.userInfo.extra)";
        check(json!({"validations": [{"expression": request}]}), None, &[]);
        let with = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "params.data.x == 'y'"}],
        });
        check(with.clone(), None, &[]);
        let map = Ty::object([("data", Ty::map(Ty::String))]);
        check(with, Some(&map), &[]);
    }

    #[test]
    fn wildcards_and_subresources_are_not_looked_at() {
        let check = |groups: &[&str], versions: &[&str], resources: &[&str], want: usize| {
            let rule =
                json!({"apiGroups": groups, "apiVersions": versions, "resources": resources});
            let spec = json!({"matchConstraints": {"resourceRules": [rule]}});
            let policy: Policy = serde_json::from_value(spec).unwrap();
            let found = policy.subjects().into_iter().map(|it| it.2.len()).sum::<usize>();
            assert_eq!(found, want, "{groups:?} {versions:?} {resources:?}");
        };
        check(&["apps"], &["v1"], &["deployments", "deployments/scale", "*"], 1);
        check(&["apps", "batch"], &["v1"], &["jobs"], 2);
        check(&["*"], &["v1"], &["jobs"], 0);
        check(&["apps"], &["*"], &["jobs"], 0);
        assert_eq!(chosen(vec![gvk("B"), gvk("A"), gvk("B")]), [gvk("A"), gvk("B")]);
        assert_eq!(gvk("Pod").to_string(), "apps/v1, Kind=Pod");
    }
}
