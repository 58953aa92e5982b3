//! Admission: what the cluster's policy adds to an object or has against it, between decoding and
//! storage.
//!
//! Generic verbs call `mutate` before validation and `validate` after it. `Attributes` is upstream's
//! `admission.Attributes`.

mod certificates;
mod limitranger;
mod mutations;
mod namespace_lifecycle;
mod node_restriction;
mod pod_defaults;
mod pod_security;
mod policies;
mod quota;
mod serviceaccount;
mod storage;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::kinds::Kinds;
use crate::registry::field::FieldErrors;
use crate::registry::value::text;
use crate::registry::{Object, field};
use crate::storage::entry::Entry;
use crate::user::UserInfo;

/// What kind of request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// The request as admission sees it.
pub struct Attributes<'a> {
    pub operation: Operation,
    /// Group, version, resource and kind of the request's URL.
    pub group: &'a str,
    pub version: &'a str,
    /// Plural, without group: `pods`.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub kind: &'a str,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Empty when the name is still to be generated.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub cluster: &'a Cluster,
    /// For policies that ask what the user may do, and for parameters of custom kinds.
    pub auth: &'a Auth,
    pub kinds: &'a Kinds,
    pub now: Timestamp,
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// `pods` or `deployments.apps`, as `Cluster::get` and `Strategy::resource` name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// 403 about the object of the URL.
    pub fn forbidden(&self, detail: &str) -> Refusal {
        self.forbidden_for(None, detail)
    }

    /// 403 about an object that may not have its final name yet.
    pub fn forbidden_for(&self, object: Option<&Object>, detail: &str) -> Refusal {
        let named = |path: &str| object.map(|object| text(object, path)).filter(|n| !n.is_empty());
        let name = Some(self.name)
            .filter(|name| !name.is_empty())
            .or_else(|| named("metadata.name"))
            .or_else(|| named("metadata.generateName"))
            .unwrap_or_default();
        Refusal {
            code: 403,
            reason: "Forbidden",
            message: format!("{} {name:?} is forbidden: {detail}", self.group_resource()),
            causes: Vec::new(),
            details: about(self.group, self.resource, name),
        }
    }
}

fn about(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({"kind": kind});
    for (field, value) in [("group", group), ("name", name)] {
        if !value.is_empty() {
            details[field] = json!(value);
        }
    }
    details
}

/// A refusal: HTTP code, reason and the texts of the Status.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    /// The whole message of the Status.
    pub message: String,
    pub causes: Vec<field::FieldError>,
    /// `details` of the Status, without causes.
    pub details: Value,
}

impl Refusal {
    /// 422, as validation answers.
    fn invalid(kind: &str, name: &str, errs: FieldErrors) -> Self {
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{kind} {name:?} is invalid: {}", errs.aggregate()),
            causes: errs.0,
            details: about("", kind, name),
        }
    }
}

/// Lets plugins change the object; `warnings` become `Warning` headers.
pub async fn mutate(
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    _warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let cx = attributes;
    namespace_lifecycle::check(cx, Some(object))?;
    let create = cx.operation == Operation::Create && cx.subresource.is_empty();
    match (cx.group, cx.resource) {
        ("", "pods") if create => {
            limitranger::mutate(cx, object);
            serviceaccount::mutate(cx, object)?;
            node_restriction::check(cx, Some(object), old)?;
            pod_defaults::priority(cx, object)?;
            pod_defaults::toleration_seconds(object);
            pod_defaults::runtime_class(cx, object)?;
        }
        ("", "pods") if cx.operation == Operation::Update && cx.subresource.is_empty() => {
            node_restriction::check(cx, Some(object), old)?;
            pod_defaults::toleration_seconds(object);
        }
        ("", "nodes") if create => {
            node_restriction::check(cx, Some(object), old)?;
            pod_defaults::taint_new_node(object);
        }
        ("", "persistentvolumeclaims") if create => {
            storage::default_storage_class(cx, object);
            storage::protect(cx.resource, object);
        }
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattributesclasses") if create => {
            storage::protect(cx.resource, object);
        }
        ("certificates.k8s.io", "certificatesigningrequests") if create => {
            certificates::subject(cx, object)?;
        }
        ("networking.k8s.io", "ingresses") if create => {
            storage::default_ingress_class(cx, object)?;
        }
        _ => node_restriction::check(cx, Some(object), old)?,
    }
    mutations::mutate(cx, object, old)
}

/// Lets plugins refuse the request. A DELETE has only `old`.
pub async fn validate(
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let cx = attributes;
    if cx.operation == Operation::Delete {
        namespace_lifecycle::check(cx, None)?;
        node_restriction::check(cx, None, old)?;
        return policies::check(cx, None, old, warnings);
    }
    let Some(object) = object else { return Ok(()) };
    let create = cx.operation == Operation::Create && cx.subresource.is_empty();
    if create && cx.group.is_empty() {
        match cx.resource {
            "pods" => {
                limitranger::validate(cx, object)?;
                serviceaccount::validate(cx, object)?;
            }
            "persistentvolumeclaims" => limitranger::validate(cx, object)?,
            _ => {}
        }
    }
    if !cx.namespace.is_empty() {
        pod_security::check(cx, object, old, warnings)?;
    }
    match (cx.group, cx.resource, cx.operation, old) {
        ("scheduling.k8s.io", "priorityclasses", ..) => {
            pod_defaults::one_default_class(cx, object)?
        }
        ("", "persistentvolumeclaims", Operation::Update, Some(old))
            if cx.subresource.is_empty() =>
        {
            storage::resize(cx, object, old)?;
        }
        _ => {}
    }
    policies::check(cx, Some(object), old, warnings)?;
    charges(cx, object, old).map(|_quotas| ())
}

/// The quotas that a new or changed object uses, as they are and as they should be stored; refuses
/// what exceeds them.
pub fn charges(
    cx: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<Vec<(Arc<Entry>, Object)>, Refusal> {
    let reviewed = matches!(cx.group, "authorization.k8s.io" | "authentication.k8s.io");
    let counted = cx.subresource.is_empty() && !cx.namespace.is_empty() && !reviewed;
    if counted && matches!(cx.operation, Operation::Create | Operation::Update) {
        quota::charges(cx, object, old)
    } else {
        Ok(Vec::new())
    }
}
