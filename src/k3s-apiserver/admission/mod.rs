//! Admission: what the cluster's policy adds to an object or has against it, between decoding and
//! storage.
//!
//! Generic verbs call `mutate` before validation and `validate` after it. `Attributes` is upstream's
//! `admission.Attributes`.

use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::registry::Object;
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
}

/// A refusal: HTTP code, reason and the text after `… is forbidden: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    /// The whole message of the Status.
    pub message: String,
    pub causes: Vec<crate::registry::field::FieldError>,
}

/// Lets plugins change the object; `warnings` become `Warning` headers.
pub async fn mutate(
    _attributes: &Attributes<'_>,
    _object: &mut Object,
    _old: Option<&Object>,
    _warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    Ok(())
}

/// Lets plugins refuse the request. A DELETE has only `old`.
pub async fn validate(
    _attributes: &Attributes<'_>,
    _object: Option<&Object>,
    _old: Option<&Object>,
    _warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    Ok(())
}
