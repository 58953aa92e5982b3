//! `k8s-openapi` objects as the reflectors want them.

use std::ops::Deref;

use client::{HasMeta, Meta, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

pub(crate) static PODS: Resource = Resource::namespaced("", "v1", "pods", "Pod");
pub(crate) static NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");
pub(crate) static SERVICES: Resource = Resource::namespaced("", "v1", "services", "Service");
pub(crate) static CONFIG_MAPS: Resource = Resource::namespaced("", "v1", "configmaps", "ConfigMap");
pub(crate) static SECRETS: Resource = Resource::namespaced("", "v1", "secrets", "Secret");
pub(crate) static SERVICE_ACCOUNTS: Resource =
    Resource::namespaced("", "v1", "serviceaccounts", "ServiceAccount");
pub(crate) static CLAIMS: Resource =
    Resource::namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
pub(crate) static PERSISTENT_VOLUMES: Resource =
    Resource::cluster("", "v1", "persistentvolumes", "PersistentVolume");
pub(crate) static RESOURCE_CLAIMS: Resource =
    Resource::namespaced("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim");
pub(crate) static LEASES: Resource =
    Resource::namespaced("coordination.k8s.io", "v1", "leases", "Lease");
pub(crate) static ACCESS_REVIEWS: Resource =
    Resource::cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview");
pub(crate) static TOKEN_REVIEWS: Resource =
    Resource::cluster("authentication.k8s.io", "v1", "tokenreviews", "TokenReview");

/// An object with the metadata that `client` looks at. Derefs to the object.
#[derive(Debug)]
pub(crate) struct Typed<T> {
    pub(crate) object: std::sync::Arc<T>,
    meta: Meta,
}

impl<T> Deref for Typed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> HasMeta for Typed<T> {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl<'de, T> Deserialize<'de> for Typed<T>
where
    T: Deserialize<'de> + k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = T::deserialize(deserializer)?;
        let meta = meta_of(object.metadata());
        Ok(Typed { object: std::sync::Arc::new(object), meta })
    }
}

fn meta_of(meta: &ObjectMeta) -> Meta {
    Meta {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        deletion_timestamp: meta.deletion_timestamp.clone(),
        ..Default::default()
    }
}
