//! The core group, `v1`.

mod configmap;
mod endpoints;
pub(crate) mod event;
pub(crate) mod limitrange;
mod namespace;
mod node;
pub(crate) mod persistentvolume;
pub(crate) mod persistentvolumeclaim;
mod pod;
pub mod pod_binding;
mod pod_status;
mod pod_table;
mod pod_update;
mod pod_validation;
pub(crate) mod pod_warnings;
pub(crate) mod podspec;
pub(crate) mod podspec_defaults;
pub(crate) mod podtemplate;
mod replicationcontroller;
pub(crate) mod resourcequota;
pub(crate) mod resources;
mod secret;
mod service;
pub(crate) mod service_alloc;
mod service_table;
mod service_validation;
mod serviceaccount;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &configmap::ConfigMap,
    &endpoints::Endpoints,
    &event::Event("events"),
    &limitrange::LimitRange,
    &namespace::Namespace,
    &node::Node,
    &persistentvolume::PersistentVolume,
    &persistentvolumeclaim::PersistentVolumeClaim,
    &pod::Pod,
    &podtemplate::PodTemplate,
    &replicationcontroller::ReplicationController,
    &resourcequota::ResourceQuota,
    &secret::Secret,
    &service::Service,
    &serviceaccount::ServiceAccount,
];
