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
mod webhooks;

use std::sync::Arc;

use apimachinery::status::{About, Status};
use jiff::Timestamp;
use serde_json::Value;

use crate::api_server::ApiServer;
use crate::audit::Annotations;
use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::kinds::Kinds;
use crate::registry::Object;
use crate::registry::value::text;
use crate::storage::entry::Entry;
use crate::user::UserInfo;

use self::mutations::Round;
use self::webhooks::Rounds;
pub use self::webhooks::Webhooks;

/// What kind of request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules and reviews write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
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
    /// Of the object that is sent: a subresource may have its own.
    pub kind_group: &'a str,
    pub kind_version: &'a str,
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
    pub field_manager: &'a str,
    pub field_validation: &'a str,
    /// The body of a DELETE.
    pub delete_options: Option<&'a Value>,
    /// For what is outside: webhooks.
    pub server: &'a ApiServer,
    pub annotations: &'a Annotations,
}

impl Attributes<'_> {
    /// `pods` or `deployments.apps`, as `Cluster::get` and `Strategy::resource` name it.
    pub fn group_resource(&self) -> String {
        apimachinery::meta::group_resource(self.group, self.resource)
    }

    /// 403 about the object of the URL.
    pub fn forbidden(&self, detail: &str) -> Status {
        self.forbidden_for(None, detail)
    }

    /// 403 about an object that may not have its final name yet.
    pub fn forbidden_for(&self, object: Option<&Object>, detail: &str) -> Status {
        let named = |path: &str| object.map(|object| text(object, path)).filter(|n| !n.is_empty());
        let name = Some(self.name)
            .filter(|name| !name.is_empty())
            .or_else(|| named("metadata.name"))
            .or_else(|| named("metadata.generateName"))
            .unwrap_or_default();
        let (group, resource) = (self.group, self.resource);
        Status::forbidden(About { group, resource, name }, detail)
    }
}

/// Lets plugins change the object; `warnings` become `Warning` headers. When a webhook changed it,
/// everybody is asked once more: what came before has not seen that.
pub async fn mutate(
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let cx = attributes;
    let mut rounds = Rounds::default();
    ours(cx, object, old)?;
    mutations::mutate(cx, object, old, Round::First)?;
    webhooks::mutate(cx, Some(object), old, &mut rounds, warnings).await?;
    if rounds.again() {
        ours(cx, object, old)?;
        mutations::mutate(cx, object, old, Round::Again)?;
        webhooks::mutate(cx, Some(object), old, &mut rounds, warnings).await?;
    }
    Ok(())
}

/// The plugins that are part of this server.
fn ours(cx: &Attributes<'_>, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
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
    Ok(())
}

/// Lets policies and webhooks judge the object of a request that stores none itself: a binding, an
/// eviction, a connection.
pub async fn review(
    cx: &Attributes<'_>,
    object: &mut Object,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let mut rounds = Rounds::default();
    webhooks::mutate(cx, Some(object), None, &mut rounds, warnings).await?;
    if rounds.again() {
        webhooks::mutate(cx, Some(object), None, &mut rounds, warnings).await?;
    }
    policies::check(cx, Some(object), None, warnings)?;
    webhooks::validate(cx, Some(object), None, warnings).await
}

/// Lets plugins refuse the request. A DELETE has only `old`.
pub async fn validate(
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let cx = attributes;
    if cx.operation == Operation::Delete {
        namespace_lifecycle::check(cx, None)?;
        node_restriction::check(cx, None, old)?;
        webhooks::mutate(cx, None, old, &mut Rounds::default(), warnings).await?;
        policies::check(cx, None, old, warnings)?;
        return webhooks::validate(cx, None, old, warnings).await;
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
    webhooks::validate(cx, Some(object), old, warnings).await?;
    charges(cx, object, old).map(|_quotas| ())
}

/// The quotas that a new or changed object uses, as they are and as they should be stored; refuses
/// what exceeds them.
pub fn charges(
    cx: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<Vec<(Arc<Entry>, Object)>, Status> {
    let reviewed = matches!(cx.group, "authorization.k8s.io" | "authentication.k8s.io");
    let counted = cx.subresource.is_empty() && !cx.namespace.is_empty() && !reviewed;
    if counted && matches!(cx.operation, Operation::Create | Operation::Update) {
        quota::charges(cx, object, old)
    } else {
        Ok(Vec::new())
    }
}
