//! Questions about users and rights that are asked as objects: access reviews, token reviews, and
//! requests for tokens.
//!
//! Nothing here is stored. Invariant: an answer is the question with a status, and nothing else of
//! it changes.

use apimachinery::field::FieldErrors;
use apimachinery::gotext::quote;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::attributes::Attributes;
use super::authenticator::{Authenticator, Credentials};
use super::authorizer::Authorizer;
use super::objects::{Objects, text, texts};
use super::service_account::{Grant, Reference};
use crate::user::UserInfo;

/// The shortest lifetime of a token that may be asked for, in seconds.
const EXPIRATION_MIN: i64 = 600;
const EXPIRATION_MAX: i64 = 1 << 32;
const EXPIRATION_DEFAULT: i64 = 3600;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// 422 about this group, kind and name.
    Invalid { group: &'static str, kind: &'static str, name: String, errors: FieldErrors },
    /// 400
    BadRequest(String),
    /// 404 about a resource of the core group.
    NotFound { resource: &'static str, name: String },
    /// 409 about a kind of the core group.
    Conflict { resource: String, name: String, why: String },
    /// 500
    Internal(String),
}

/// Answers reviews.
pub struct Reviewer<'a> {
    pub authenticator: &'a Authenticator,
    pub authorizer: &'a Authorizer,
    pub objects: &'a dyn Objects,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The namespace of the URL, if it has one.
    pub namespace: &'a str,
    pub now: Timestamp,
}

impl Reviewer<'_> {
    /// Answers a review of this kind; `None` if the kind is no review.
    pub fn review(&self, kind: &str, mut object: Value) -> Option<Result<Value, Refused>> {
        let status = match kind {
            "SelfSubjectReview" => Ok(json!({"userInfo": show_user(self.user)})),
            "TokenReview" => self.token(&object),
            "SelfSubjectAccessReview" => self.own_access(&object),
            "SubjectAccessReview" => self.access(&object),
            "LocalSubjectAccessReview" => self.local_access(&object),
            "SelfSubjectRulesReview" => self.own_rules(&object),
            _ => return None,
        };
        Some(status.map(|status| {
            if kind == "SelfSubjectReview" {
                object["metadata"] = json!({"creationTimestamp": format_time(self.now)});
            } else if !object.get("metadata").is_some_and(Value::is_object) {
                object["metadata"] = json!({});
            }
            if kind == "LocalSubjectAccessReview" {
                object["metadata"]["namespace"] = json!(self.namespace);
            }
            object["status"] = status;
            object
        }))
    }

    fn token(&self, review: &Value) -> Result<Value, Refused> {
        let token = text(review, &["spec", "token"]);
        if token.is_empty() {
            let why = "token is required for TokenReview in authentication";
            return Err(Refused::BadRequest(why.to_owned()));
        }
        let asked = texts(review.get("spec").and_then(|spec| spec.get("audiences")));
        let audiences =
            if asked.is_empty() { self.authenticator.tokens.audiences.clone() } else { asked };
        let mut headers = http::HeaderMap::new();
        let Ok(value) = http::HeaderValue::from_str(&format!("Bearer {token}")) else {
            return Ok(json!({"error": "invalid bearer token", "user": {}}));
        };
        headers.insert(http::header::AUTHORIZATION, value);
        let credentials = Credentials {
            certificate: None,
            proxy: None,
            headers: &headers,
            audiences: Some(&audiences),
        };
        match self.authenticator.authenticate(self.objects, &credentials, self.now) {
            Err(err) => Ok(json!({"error": err.to_string(), "user": {}})),
            Ok(found) if found.audiences.is_empty() => {
                Err(Refused::Internal("unable to validate the TokenReview".to_owned()))
            }
            Ok(found) => Ok(json!({
                "authenticated": true,
                "user": show_user(&found.user),
                "audiences": found.audiences,
            })),
        }
    }

    fn own_access(&self, review: &Value) -> Result<Value, Refused> {
        check_access(review, false, &mut FieldErrors::default())?;
        Ok(self.decide(self.user, review))
    }

    fn access(&self, review: &Value) -> Result<Value, Refused> {
        check_access(review, true, &mut FieldErrors::default())?;
        Ok(self.decide(&subject(review), review))
    }

    fn local_access(&self, review: &Value) -> Result<Value, Refused> {
        let mut errors = FieldErrors::default();
        let spec = review.get("spec").unwrap_or(&Value::Null);
        let own = text(review, &["metadata", "namespace"]);
        let namespace = if own.is_empty() { self.namespace } else { own };
        if namespace != self.namespace {
            let why = "the namespace of the provided object does not match the namespace sent on \
                       the request";
            return Err(Refused::BadRequest(why.to_owned()));
        }
        if let Some(plain) = spec.get("nonResourceAttributes").filter(|value| !value.is_null()) {
            let why = "disallowed on this kind of request";
            let shown = json!({"Path": text(plain, &["path"]), "Verb": text(plain, &["verb"])});
            errors.invalid("spec.nonResourceAttributes", shown, why);
        } else if spec.get("resourceAttributes").is_some_and(|attributes| !attributes.is_null()) {
            let asked = text(spec, &["resourceAttributes", "namespace"]);
            if asked != namespace {
                let field = "spec.resourceAttributes.namespace";
                errors.invalid(field, asked, "must match metadata.namespace");
            }
        }
        check_access(review, true, &mut errors)?;
        Ok(self.decide(&subject(review), review))
    }

    fn decide(&self, user: &UserInfo, review: &Value) -> Value {
        let spec = review.get("spec").unwrap_or(&Value::Null);
        let is_resource = spec.get("resourceAttributes").is_some_and(|value| !value.is_null());
        let of = if is_resource { "resourceAttributes" } else { "nonResourceAttributes" };
        let part = |key| text(spec, &[of, key]);
        let asked = Attributes {
            user: Some(user),
            verb: part("verb"),
            is_resource,
            group: part("group"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            path: part("path"),
            field_selector: text(spec, &[of, "fieldSelector", "rawSelector"]),
        };
        let decision = self.authorizer.authorize(self.objects, &asked);
        let mut status = json!({"allowed": decision.is_allowed()});
        if !decision.reason().is_empty() {
            status["reason"] = json!(decision.reason());
        }
        status
    }

    fn own_rules(&self, review: &Value) -> Result<Value, Refused> {
        let namespace = text(review, &["spec", "namespace"]);
        if namespace.is_empty() {
            return Err(Refused::BadRequest("no namespace on request".to_owned()));
        }
        let found = self.authorizer.rules_for(self.objects, self.user, namespace);
        let is_plain = |rule: &&super::rbac::Rule| !rule.urls.is_empty();
        let plain: Vec<Value> = found.rules.iter().filter(is_plain).map(|r| r.review()).collect();
        let resources: Vec<Value> =
            found.rules.iter().filter(|rule| !is_plain(rule)).map(|r| r.review()).collect();
        let mut status = json!({
            "resourceRules": resources,
            "nonResourceRules": plain,
            "incomplete": found.incomplete,
        });
        if !found.errors.is_empty() {
            status["evaluationError"] = json!(found.errors.join(", "));
        }
        Ok(status)
    }

    /// Makes a token for a service account (`serviceaccounts/token`). The second value is a warning.
    pub fn request_token(
        &self,
        account: &str,
        mut request: Value,
    ) -> Result<(Value, Option<String>), Refused> {
        let entry = self
            .objects
            .get("serviceaccounts", self.namespace, account)
            .ok_or_else(|| not_found("serviceaccounts", account))?;
        let uid = entry.uid.to_string();
        let spec = self.token_spec(&mut request, account)?;
        let mut grant = Grant {
            namespace: self.namespace.to_owned(),
            account: Reference { name: account.to_owned(), uid: uid.clone() },
            audiences: texts(spec.get("audiences")),
            expiration_seconds: spec
                .get("expirationSeconds")
                .and_then(Value::as_i64)
                .unwrap_or(EXPIRATION_DEFAULT),
            ..Grant::default()
        };
        if let Some(bound) = spec.get("boundObjectRef").filter(|bound| !bound.is_null()) {
            self.bind(&mut grant, bound)?;
        }
        let tokens = &self.authenticator.tokens;
        let mut warning = None;
        let max = tokens.max_expiration;
        if max > 0 && grant.expiration_seconds > max {
            let wanted = grant.expiration_seconds;
            warning = Some(format!(
                "requested expiration of {wanted} seconds shortened to {max} seconds"
            ));
            grant.expiration_seconds = max;
            request["spec"]["expirationSeconds"] = json!(max);
        }
        let (token, until) =
            tokens.issue(&grant, self.now).map_err(|err| Refused::Internal(format!("{err:#}")))?;
        let mut metadata = request["metadata"].as_object().cloned().unwrap_or_default();
        metadata.insert("name".to_owned(), json!(account));
        metadata.insert("namespace".to_owned(), json!(self.namespace));
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(format_time(self.now)));
        request["metadata"] = Value::Object(metadata);
        request["status"] = json!({"token": token, "expirationTimestamp": format_time(until)});
        Ok((request, warning))
    }

    /// Checks a request and fills in its defaults.
    fn token_spec(&self, request: &mut Value, account: &str) -> Result<Value, Refused> {
        let mut errors = FieldErrors::default();
        let name = text(request, &["metadata", "name"]);
        if !name.is_empty() && name != account {
            errors.invalid(
                "metadata.name",
                name,
                "must match the service account name if specified",
            );
        }
        let namespace = text(request, &["metadata", "namespace"]);
        if !namespace.is_empty() && namespace != self.namespace {
            let why = "the namespace of the provided object does not match the namespace sent on \
                       the request";
            return Err(Refused::BadRequest(why.to_owned()));
        }
        if !request.get("spec").is_some_and(Value::is_object) {
            request["spec"] = json!({});
        }
        let spec = &mut request["spec"];
        if texts(spec.get("audiences")).is_empty() {
            spec["audiences"] = json!(self.authenticator.tokens.audiences);
        }
        if spec.get("expirationSeconds").is_none_or(Value::is_null) {
            spec["expirationSeconds"] = json!(EXPIRATION_DEFAULT);
        }
        if spec.get("boundObjectRef").is_none() {
            spec["boundObjectRef"] = Value::Null;
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or_default();
        let field = "spec.expirationSeconds";
        if seconds < EXPIRATION_MIN {
            errors.invalid(field, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > EXPIRATION_MAX {
            errors.invalid(field, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        if errors.is_empty() {
            return Ok(spec.clone());
        }
        let name = if errors.0.iter().any(|error| error.field == "metadata.name") {
            account.to_owned()
        } else {
            String::new()
        };
        Err(Refused::Invalid { group: "authentication.k8s.io", kind: "TokenRequest", name, errors })
    }

    fn bind(&self, grant: &mut Grant, bound: &Value) -> Result<(), Refused> {
        let (version, kind) = (text(bound, &["apiVersion"]), text(bound, &["kind"]));
        let name = text(bound, &["name"]).to_owned();
        let find = |resource: &'static str, namespace: &str| {
            let found = self.objects.get(resource, namespace, &name);
            found.ok_or_else(|| not_found(resource, &name))
        };
        let entry = match (version.contains('/'), kind) {
            (false, "Pod") => find("pods", self.namespace)?,
            (false, "Secret") => find("secrets", self.namespace)?,
            (false, "Node") => find("nodes", "")?,
            _ => {
                let slash = if version.contains('/') { "" } else { "/" };
                return Err(Refused::BadRequest(format!(
                    "cannot bind token to object of type {slash}{version}, Kind={kind}"
                )));
            }
        };
        let reference = Reference { name: name.clone(), uid: entry.uid.to_string() };
        if kind == "Pod" {
            let pod = entry.object();
            let account = &grant.account.name;
            if text(&pod, &["spec", "serviceAccountName"]) != account {
                return Err(Refused::BadRequest(format!(
                    "cannot bind token for serviceaccount {} to pod running with different \
                     serviceaccount name.",
                    quote(account)
                )));
            }
            let node = text(&pod, &["spec", "nodeName"]);
            if !node.is_empty() {
                let found = self.objects.get("nodes", "", node);
                let uid = found.map(|node| node.uid.to_string()).unwrap_or_default();
                grant.node = Some(Reference { name: node.to_owned(), uid });
            }
        }
        let wanted = text(bound, &["uid"]);
        if !wanted.is_empty() && wanted != reference.uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in \
                 record. The object might have been deleted and then recreated"
            );
            return Err(Refused::Conflict { resource: kind.to_owned(), name, why });
        }
        match kind {
            "Pod" => grant.pod = Some(reference),
            "Secret" => grant.secret = Some(reference),
            _ => grant.node = Some(reference),
        }
        Ok(())
    }
}

fn not_found(resource: &'static str, name: &str) -> Refused {
    Refused::NotFound { resource, name: name.to_owned() }
}

fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The user that an access review is about.
fn subject(review: &Value) -> UserInfo {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    UserInfo {
        name: text(spec, &["user"]).to_owned(),
        uid: text(spec, &["uid"]).to_owned(),
        groups: texts(spec.get("groups")),
        extra: extra.map(|(key, values)| (key.clone(), texts(Some(values)))).collect(),
    }
}

fn check_access(review: &Value, about: bool, errors: &mut FieldErrors) -> Result<(), Refused> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let given = |key: &str| spec.get(key).filter(|value| !value.is_null());
    let mut own = FieldErrors::default();
    match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (Some(_), Some(plain)) => own.invalid(
            "spec.nonResourceAttributes",
            plain.clone(),
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => own.invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if about && text(spec, &["user"]).is_empty() && texts(spec.get("groups")).is_empty() {
        own.invalid("spec.user", "", "at least one of user or group must be specified");
    }
    own.0.append(&mut errors.0);
    if own.is_empty() {
        return Ok(());
    }
    let name = String::new();
    Err(Refused::Invalid { group: "authorization.k8s.io", kind: "", name, errors: own })
}

/// A user as reviews show it.
fn show_user(user: &UserInfo) -> Value {
    let mut out = Map::new();
    if !user.name.is_empty() {
        out.insert("username".to_owned(), json!(user.name));
    }
    if !user.uid.is_empty() {
        out.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        out.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        out.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::super::authenticator::FrontProxy;
    use super::super::service_account::tests::{objects, tokens};
    use super::super::users::UserFile;
    use arc_swap::ArcSwap;

    use super::*;

    fn with(check: impl FnOnce(&Reviewer<'_>)) {
        let authenticator = Authenticator {
            tokens: tokens(),
            token_file: UserFile::default(),
            basic_file: ArcSwap::default(),
            bootstrap_tokens: false,
            anonymous: false,
            proxy: FrontProxy::default(),
        };
        let authorizer = Authorizer::new(&["Node".to_owned(), "RBAC".to_owned()]).expect("modes");
        let user = UserInfo {
            name: "root".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..UserInfo::default()
        };
        check(&Reviewer {
            authenticator: &authenticator,
            authorizer: &authorizer,
            objects: &objects(),
            user: &user,
            namespace: "a",
            now: Timestamp::from_second(1_700_000_000).expect("a time"),
        });
    }

    fn status(reviewer: &Reviewer<'_>, kind: &str, spec: Value) -> Value {
        let answer = reviewer.review(kind, json!({"spec": spec})).expect("a review");
        answer.expect("an answer")["status"].clone()
    }

    #[test]
    fn access_is_reviewed_for_whom_it_is_asked() {
        with(|reviewer| {
            let pods = json!({"verb": "get", "resource": "pods"});
            let own =
                status(reviewer, "SelfSubjectAccessReview", json!({"resourceAttributes": pods}));
            assert_eq!(own, json!({"allowed": true}));
            let spec = json!({"user": "alice", "resourceAttributes": pods});
            assert_eq!(status(reviewer, "SubjectAccessReview", spec), json!({"allowed": false}));
            let node = json!({"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes":
                {"verb": "get", "resource": "secrets", "namespace": "x", "name": "y"}});
            assert_eq!(
                status(reviewer, "SubjectAccessReview", node)["reason"],
                "no relationship found between node 'n1' and this object"
            );
        });
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused() {
        with(|reviewer| {
            let refused = |kind: &str, spec: Value| match reviewer
                .review(kind, json!({"spec": spec}))
                .expect("a review")
            {
                Err(Refused::Invalid { errors, .. }) => errors.aggregate(),
                other => panic!("{other:?}"),
            };
            let pods = json!({"verb": "get", "resource": "pods"});
            assert_eq!(
                refused("SubjectAccessReview", json!({"resourceAttributes": pods})),
                "spec.user: Invalid value: \"\": at least one of user or group must be specified"
            );
            assert_eq!(
                refused(
                    "LocalSubjectAccessReview",
                    json!({"user": "u", "resourceAttributes": {"namespace": "zz"}})
                ),
                "spec.resourceAttributes.namespace: Invalid value: \"zz\": must match metadata.namespace"
            );
        });
    }

    #[test]
    fn a_requested_token_passes_its_review() {
        with(|reviewer| {
            let request = json!({"spec": {"audiences": ["x"], "boundObjectRef": {"kind": "Secret", "name": "gone"}}});
            assert_eq!(
                reviewer.request_token("robot", request),
                Err(Refused::NotFound { resource: "secrets", name: "gone".to_owned() })
            );
            let request = json!({"spec": {"audiences": ["x"]}});
            let (answer, _) = reviewer.request_token("robot", request).expect("a token");
            assert_eq!(answer["spec"]["expirationSeconds"], 3600);
            let token = text(&answer, &["status", "token"]);
            let asked = json!({"token": token, "audiences": ["x", "y"]});
            let found = status(reviewer, "TokenReview", asked);
            assert_eq!(found["user"]["username"], "system:serviceaccount:a:robot");
            assert_eq!(found["audiences"], json!(["x"]));
            let error = status(reviewer, "TokenReview", json!({"token": token}));
            assert_eq!(
                error["error"],
                "[invalid bearer token, token audiences [\"x\"] is invalid for the target audiences [\"https://issuer\" \"k3s\"]]"
            );
        });
    }
}
