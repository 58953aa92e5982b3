//! ValidatingAdmissionPolicies: expressions that refuse, warn or are noted.
//!
//! Invariant: a policy that cannot be evaluated does what its `failurePolicy` says.

use apimachinery::cel::{Opaque, Val, Vars};
use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use crate::auth::attributes::Attributes as Asked;
use crate::expressions::{Params, Scope};
use crate::registry::Object;
use crate::registry::value::{at, has, key, list, text, texts};

const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";

/// Refuses what a policy denies; what it only warns of goes to `warnings`.
pub(super) fn check(
    cx: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    // Whoever made a policy that refuses everything must be able to remove it.
    if cx.group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    for (policy, binding) in bound(cx, [POLICIES, BINDINGS], object, old) {
        bound_policy(cx, &policy, &binding, object, old, warnings)?;
    }
    Ok(())
}

/// The policies that speak of a request, each with every binding that does.
pub(super) fn bound(
    cx: &Attributes<'_>,
    [policies, bindings]: [&str; 2],
    object: Option<&Object>,
    old: Option<&Object>,
) -> Vec<(Object, Object)> {
    let policies = cx.cluster.list(policies, "");
    if policies.is_empty() {
        return Vec::new();
    }
    let bindings: Vec<Object> =
        cx.cluster.list(bindings, "").iter().map(|entry| entry.object()).collect();
    let mut found = Vec::new();
    for entry in policies {
        let own = |binding: &&Object| text(binding, "spec.policyName") == entry.name();
        let bindings: Vec<&Object> = bindings.iter().filter(own).collect();
        if bindings.is_empty() {
            continue;
        }
        let policy = entry.object();
        if !matches(cx, at(&policy, "spec.matchConstraints"), object, old) {
            continue;
        }
        for binding in bindings {
            let narrower = at(binding, "spec.matchResources");
            if narrower.is_null() || matches(cx, narrower, object, old) {
                found.push((policy.clone(), binding.clone()));
            }
        }
    }
    found
}

/// One policy under one binding.
fn bound_policy(
    cx: &Attributes<'_>,
    policy: &Object,
    binding: &Object,
    object: Option<&Object>,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let fails = text(policy, "spec.failurePolicy") != "Ignore";
    let given = match params(cx, policy, binding) {
        Ok(given) => given,
        Err(why) if fails => {
            let why = format!("failed to configure binding: {why}");
            return Err(denied(cx, object, policy, binding, &why, "Invalid"));
        }
        Err(_) => return Ok(()),
    };
    for param in given {
        let found = Evaluation { cx, policy, object, old }.run(param.as_ref(), fails);
        for (message, reason) in found {
            let actions: Vec<&str> = texts(binding, "spec.validationActions").collect();
            if actions.contains(&"Warn") {
                let (policy, binding) =
                    (text(policy, "metadata.name"), text(binding, "metadata.name"));
                warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding \
                     '{binding}': {message}"
                ));
            }
            if actions.contains(&"Deny") {
                return Err(denied(cx, object, policy, binding, &message, &reason));
            }
        }
    }
    Ok(())
}

fn denied(
    cx: &Attributes<'_>,
    object: Option<&Object>,
    policy: &Object,
    binding: &Object,
    message: &str,
    reason: &str,
) -> Status {
    let (policy, binding) = (text(policy, "metadata.name"), text(binding, "metadata.name"));
    let why = format!(
        "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}"
    );
    let mut refusal = cx.forbidden_for(object, &why);
    let (code, reason) = match reason {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    (refusal.code, refusal.reason) = (code, reason.into());
    refusal.details["causes"] = json!([{"message": why}]);
    refusal
}

/// The parameters that a binding names; one `None` for a policy without any.
pub(super) fn params(
    cx: &Attributes<'_>,
    policy: &Object,
    binding: &Object,
) -> Result<Vec<Option<Object>>, String> {
    let kind = at(policy, "spec.paramKind");
    let reference = at(binding, "spec.paramRef");
    if kind.is_null() || reference.is_null() {
        return Ok(vec![None]);
    }
    let version = text(kind, "apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let known = api::resources::by_kind(group, version, text(kind, "kind"));
    let custom = || {
        cx.kinds.custom().into_iter().find(|own| {
            own.group == group && own.version == version && own.kind == text(kind, "kind")
        })
    };
    let (resource, namespaced) = match known {
        Some(known) => {
            let resource = match known.storage_group {
                "" => known.plural.to_owned(),
                group => format!("{}.{group}", known.plural),
            };
            (resource, known.namespaced)
        }
        None => match custom() {
            Some(custom) => (custom.resource.clone(), custom.namespaced),
            None => return Err("failed to find resource referenced by paramKind".to_owned()),
        },
    };
    let namespace = match (namespaced, text(reference, "namespace")) {
        (false, _) => "",
        (true, "") => cx.namespace,
        (true, namespace) => namespace,
    };
    let found: Vec<Option<Object>> = match text(reference, "name") {
        "" => {
            let selector = LabelSelector::from_value(reference.get("selector"))?;
            let all = cx.cluster.list(&resource, namespace).into_iter();
            all.filter(|entry| selector.matches(|name: &str| entry.label(name)))
                .map(|entry| Some(entry.object()))
                .collect()
        }
        name => {
            let one = cx.cluster.get(&resource, namespace, name);
            one.map(|entry| Some(entry.object())).into_iter().collect()
        }
    };
    match (found.is_empty(), text(reference, "parameterNotFoundAction")) {
        (true, "Deny") => {
            Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned())
        }
        _ => Ok(found),
    }
}

/// Does a `MatchResources` speak of this request?
fn matches(
    cx: &Attributes<'_>,
    constraints: &Value,
    object: Option<&Object>,
    old: Option<&Object>,
) -> bool {
    let rules = list(constraints, "resourceRules");
    if !rules.is_empty() && !rules.iter().any(|rule| rule_matches(cx, rule)) {
        return false;
    }
    if list(constraints, "excludeResourceRules").iter().any(|rule| rule_matches(cx, rule)) {
        return false;
    }
    // A missing selector is an empty one here.
    let selector = |name: &str| match key(constraints, name) {
        Value::Null => Ok(LabelSelector::default()),
        given => LabelSelector::from_value(Some(given)),
    };
    let chosen = selector("objectSelector").is_ok_and(|selector| {
        let labels = |of: &Object| selector.matches_labels(of["metadata"]["labels"].as_object());
        [object, old].into_iter().flatten().any(labels)
    });
    let in_namespace = cx.namespace.is_empty()
        || selector("namespaceSelector").is_ok_and(|selector| {
            let namespace = cx.cluster.get("namespaces", "", cx.namespace);
            selector.matches(|name: &str| namespace.as_ref().and_then(|entry| entry.label(name)))
        });
    chosen && in_namespace
}

fn rule_matches(cx: &Attributes<'_>, rule: &Value) -> bool {
    rule_covers(cx, rule, [cx.group, cx.version, cx.resource])
}

/// Does a rule speak of this operation on a resource, which may be another than the request's?
pub(super) fn rule_covers(
    cx: &Attributes<'_>,
    rule: &Value,
    [group, version, plural]: [&str; 3],
) -> bool {
    let any = |field: &str, value: &str| texts(rule, field).any(|own| own == "*" || own == value);
    let resource = texts(rule, "resources").any(|own| match own.split_once('/') {
        Some((resource, sub)) => {
            (resource == "*" || resource == plural) && (sub == "*" || sub == cx.subresource)
        }
        None => cx.subresource.is_empty() && (own == "*" || own == plural),
    });
    let scope = match text(rule, "scope") {
        "Cluster" => cx.namespace.is_empty(),
        "Namespaced" => !cx.namespace.is_empty(),
        _ => true,
    };
    let names: Vec<&str> = texts(rule, "resourceNames").collect();
    any("apiGroups", group)
        && any("apiVersions", version)
        && any("operations", cx.operation.name())
        && resource
        && scope
        && (names.is_empty() || names.contains(&cx.name))
}

/// One evaluation of a policy.
pub(super) struct Evaluation<'a> {
    pub(super) cx: &'a Attributes<'a>,
    pub(super) policy: &'a Object,
    pub(super) object: Option<&'a Object>,
    pub(super) old: Option<&'a Object>,
}

impl Evaluation<'_> {
    /// What the policy has against the request: messages with reasons.
    fn run(&self, param: Option<&Object>, fails: bool) -> Vec<(String, String)> {
        let judged = self.judge(param, |scope, vars| {
            let validations = list(self.policy, "spec.validations").iter();
            validations.filter_map(|one| self.validate(one, scope, vars, fails)).collect()
        });
        match judged {
            Ok(found) => found.unwrap_or_default(),
            Err(why) if fails => vec![(why, "Invalid".to_owned())],
            Err(_) => Vec::new(),
        }
    }

    /// Evaluates in the policy's scope; `None` when its match conditions do not hold.
    pub(super) fn judge<T>(
        &self,
        param: Option<&Object>,
        judge: impl FnOnce(&Scope, &Vars<'_>) -> T,
    ) -> Result<Option<T>, String> {
        let declared = match has(self.policy, "spec.paramKind") {
            true => Params::Declared,
            false => Params::None,
        };
        let mut scope = Scope::admission(declared);
        let authorize = |asked: &[(String, String)]| self.authorize(asked);
        let mut vars = self.vars(param);
        vars.authorize = Some(&authorize);
        // A condition that does not hold decides, whatever became of the others.
        let mut errors = Vec::new();
        for condition in list(self.policy, "spec.matchConditions") {
            let expression = text(condition, "expression");
            match scope.compile(expression).and_then(|program| program.run(&vars)) {
                Ok(Val::Bool(true)) => {}
                Ok(_) => return Ok(None),
                Err(why) => {
                    errors.push(format!("expression '{expression}' resulted in error: {why}"));
                }
            }
        }
        match errors.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            many => return Err(format!("[{}]", many.join(", "))),
        }
        let mut variables: Vec<(String, Val)> = Vec::new();
        for variable in list(self.policy, "spec.variables") {
            let name = text(variable, "name");
            let program = scope.compile(text(variable, "expression"))?;
            scope.declare(name, program.ty.clone());
            // A variable that cannot be made matters to those who name it: they find no such key.
            if let Ok(value) = program.run(&vars) {
                variables.push((name.to_owned(), value));
            }
            let known = variables.iter().map(|(name, value)| (name.as_str(), value.clone()));
            vars.set("variables", Val::object(known));
        }
        Ok(Some(judge(&scope, &vars)))
    }

    /// What one validation has against the request.
    fn validate(
        &self,
        validation: &Value,
        scope: &Scope,
        vars: &Vars<'_>,
        fails: bool,
    ) -> Option<(String, String)> {
        let expression = text(validation, "expression").trim();
        match scope.compile(expression).and_then(|program| program.run(vars)) {
            Ok(Val::Bool(true)) => None,
            Ok(_) => {
                let message = self.message(validation, scope, vars);
                Some((message, text(validation, "reason").to_owned()))
            }
            Err(why) => fails.then(|| {
                let why = format!("expression '{expression}' resulted in error: {why}");
                (why, "Invalid".to_owned())
            }),
        }
    }

    fn message(&self, validation: &Value, scope: &Scope, vars: &Vars<'_>) -> String {
        let expression = text(validation, "messageExpression").trim();
        let made = match expression {
            "" => None,
            expression => scope.compile(expression).and_then(|program| program.run(vars)).ok(),
        };
        let made = made.as_ref().and_then(Val::as_str).map(str::trim).unwrap_or_default();
        if !made.is_empty() && !made.contains('\n') {
            return made.to_owned();
        }
        match text(validation, "message").trim() {
            "" => format!("failed expression: {}", text(validation, "expression").trim()),
            message => message.to_owned(),
        }
    }

    fn vars<'v>(&self, param: Option<&Object>) -> Vars<'v> {
        let cx = self.cx;
        let mut vars = Vars::default();
        let value = |object: Option<&Object>| object.map_or(Val::Null, Val::from_json);
        vars.set("object", value(self.object));
        vars.set("oldObject", value(self.old));
        vars.set("params", value(param));
        let namespace = match cx.namespace {
            "" => None,
            name => cx.cluster.get("namespaces", "", name).map(|entry| entry.object()),
        };
        vars.set("namespaceObject", value(namespace.as_ref()));
        vars.set("variables", Val::object([]));
        let request = json!({
            "kind": {"group": cx.kind_group, "version": cx.kind_version, "kind": cx.kind},
            "resource": {"group": cx.group, "version": cx.version, "resource": cx.resource},
            "subResource": cx.subresource,
            "requestKind": {"group": cx.kind_group, "version": cx.kind_version, "kind": cx.kind},
            "requestResource":
                {"group": cx.group, "version": cx.version, "resource": cx.resource},
            "requestSubResource": cx.subresource,
            "name": cx.name,
            "namespace": cx.namespace,
            "operation": cx.operation.name(),
            "userInfo": {"username": cx.user.name, "uid": cx.user.uid, "groups": cx.user.groups,
                "extra": cx.user.extra},
            "dryRun": cx.dry_run,
        });
        vars.set("request", Val::from_json(&request));
        vars.set("authorizer", Val::Opaque(Opaque::Authorizer(Vec::new()).into()));
        vars
    }

    /// Answers a check of the authorizer, built from the calls that led to it.
    fn authorize(&self, calls: &[(String, String)]) -> bool {
        let cx = self.cx;
        let last = |name: &str| {
            calls.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
        };
        let account = last("serviceAccount").and_then(|account| account.split_once('/'));
        let other = account.map(|(namespace, name)| crate::user::UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            ..Default::default()
        });
        let user = other.as_ref().unwrap_or(cx.user);
        let verb = last("verb").unwrap_or_default();
        let asked = if let Some(path) = last("path") {
            Asked { user: Some(user), verb, path, ..Asked::default() }
        } else if last("requestResource").is_some() {
            Asked {
                user: Some(user),
                verb,
                is_resource: true,
                group: cx.group,
                resource: cx.resource,
                subresource: cx.subresource,
                namespace: cx.namespace,
                name: cx.name,
                ..Asked::default()
            }
        } else {
            let text = |name: &str| last(name).unwrap_or_default();
            Asked {
                user: Some(user),
                verb,
                is_resource: true,
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                ..Asked::default()
            }
        };
        cx.auth.authorizer.authorize(cx.cluster, &asked).is_allowed()
    }
}
