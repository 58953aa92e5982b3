//! Who may call the kubelet: client certificates and bearer tokens, judged by the API server.
//!
//! Invariant: without a valid identity nothing but the health check answers; without an API server
//! only `system:masters` and the API server's own certificate are let in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::Rest;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::typed::{ACCESS_REVIEWS, TOKEN_REVIEWS};

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const REMEMBERED_MAX: usize = 1024;

/// Somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// The subject of a verified client certificate.
pub(crate) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().ok().map(str::to_owned)
    };
    Some(User {
        name: subject.iter_common_name().next().and_then(text)?,
        groups: subject.iter_organization().filter_map(text).collect(),
    })
}

/// The Node subresource and verb that a request stands for.
pub(crate) fn attributes(method: &http::Method, path: &str) -> (&'static str, &'static str) {
    let verb = match *method {
        http::Method::POST => "create",
        http::Method::PUT => "update",
        http::Method::PATCH => "patch",
        http::Method::DELETE => "delete",
        _ => "get",
    };
    let under = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let resource = if under("/stats") {
        "stats"
    } else if under("/metrics") {
        "metrics"
    } else if under("/logs") {
        "log"
    } else {
        "proxy"
    };
    (verb, resource)
}

/// Decides, and remembers decisions for a while.
pub(crate) struct Auth {
    rest: Option<Rest>,
    node: String,
    decisions: Mutex<HashMap<(User, &'static str, &'static str), (bool, Instant)>>,
}

impl Auth {
    pub(crate) fn new(rest: Option<Rest>, node: String) -> Auth {
        Auth { rest, node, decisions: Mutex::default() }
    }

    /// The user of a bearer token.
    pub(crate) async fn token_user(&self, token: &str) -> Option<User> {
        let rest = self.rest.as_ref()?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token}
        });
        let answer: TokenReview = match rest.create(&TOKEN_REVIEWS, "", &review).await {
            Ok(answer) => answer,
            Err(err) => {
                tracing::warn!(%err, "Token was not reviewed, refusing");
                return None;
            }
        };
        let status = answer.status.filter(|status| status.authenticated == Some(true))?;
        let user = status.user?;
        Some(User { name: user.username?, groups: user.groups.unwrap_or_default() })
    }

    /// Whether the user may do this.
    pub(crate) async fn allows(
        &self,
        user: &User,
        verb: &'static str,
        resource: &'static str,
    ) -> bool {
        let own = matches!(user.name.as_str(), "kube-apiserver" | "system:kube-apiserver");
        if own || user.groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        let key = (user.clone(), verb, resource);
        if let Some(decision) = self.remembered(&key) {
            return decision;
        }
        let Some(rest) = &self.rest else { return false };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name, "groups": user.groups,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes",
                    "subresource": resource, "name": self.node
                }
            }
        });
        let allowed = match rest.create::<SubjectAccessReview>(&ACCESS_REVIEWS, "", &review).await {
            Ok(answer) => answer.status.is_some_and(|status| status.allowed),
            Err(err) => {
                tracing::warn!(%err, user = %user.name, "Access was not reviewed, refusing");
                return false;
            }
        };
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() >= REMEMBERED_MAX {
            decisions.clear();
        }
        decisions.insert(key, (allowed, Instant::now()));
        allowed
    }

    fn remembered(&self, key: &(User, &'static str, &'static str)) -> Option<bool> {
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let (allowed, at) = decisions.get(key)?;
        let life = if *allowed { ALLOWED_FOR } else { DENIED_FOR };
        (at.elapsed() < life).then_some(*allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_node_subresources() {
        for (method, path, expected) in [
            (http::Method::GET, "/containerLogs/a/b/c", ("get", "proxy")),
            (http::Method::POST, "/exec/a/b/c", ("create", "proxy")),
            (http::Method::GET, "/metrics/resource", ("get", "metrics")),
            (http::Method::GET, "/stats/summary", ("get", "stats")),
            (http::Method::GET, "/statsx", ("get", "proxy")),
        ] {
            assert_eq!(attributes(&method, path), expected, "{path}");
        }
    }
}
