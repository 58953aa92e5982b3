//! The table of controllers, in upstream's names.

mod addon;
pub(crate) mod attachdetach;
mod bootstrap_signer;
mod certificates;
mod clusterrole_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod dns;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod garbagecollector;
mod horizontalpodautoscaler;
mod job;
mod local_path;
mod namespace;
mod node_ttl;
mod nodeipam;
mod nodelifecycle;
mod persistentvolume;
mod podgc;
mod replicaset;
pub(crate) mod resourceclaim;
mod resourcequota;
mod root_ca;
mod serviceaccount;
mod servicecidrs;
mod servicelb;
mod statefulset;
mod token_cleaner;
mod tokens;
mod ttl;
mod validatingadmissionpolicystatus;

pub(crate) use certificates::SigningRequest;
pub(crate) use resourcequota::Quota;
pub(crate) use token_cleaner::BootstrapToken;
pub(crate) use tokens::TokenSecret;
pub(crate) use validatingadmissionpolicystatus::AdmissionPolicy;

use crate::Controller;

/// Every controller of this process.
pub(crate) static CONTROLLERS: &[Controller] = &[
    Controller { name: "namespace-controller", start: namespace::start },
    Controller { name: "serviceaccount-controller", start: serviceaccount::start },
    Controller { name: "root-ca-certificate-publisher-controller", start: root_ca::start },
    Controller {
        name: "clusterrole-aggregation-controller",
        start: clusterrole_aggregation::start,
    },
    Controller { name: "replicaset-controller", start: replicaset::start },
    Controller { name: "replicationcontroller-controller", start: replicaset::start_replication },
    Controller { name: "deployment-controller", start: deployment::start },
    Controller { name: "endpointslice-controller", start: endpointslice::start },
    Controller {
        name: "endpointslice-mirroring-controller",
        start: endpointslice_mirroring::start,
    },
    Controller { name: "endpoints-controller", start: endpoints::start },
    Controller { name: "garbage-collector-controller", start: garbagecollector::start },
    Controller { name: "node-ipam-controller", start: nodeipam::start },
    Controller { name: "node-lifecycle-controller", start: nodelifecycle::start },
    Controller { name: "taint-eviction-controller", start: nodelifecycle::start_eviction },
    Controller { name: "pod-garbage-collector-controller", start: podgc::start },
    Controller { name: "ttl-after-finished-controller", start: ttl::start },
    Controller { name: "job-controller", start: job::start },
    Controller { name: "daemonset-controller", start: daemonset::start },
    Controller { name: "statefulset-controller", start: statefulset::start },
    Controller { name: "cronjob-controller", start: cronjob::start },
    Controller {
        name: "horizontal-pod-autoscaler-controller",
        start: horizontalpodautoscaler::start,
    },
    Controller { name: "disruption-controller", start: disruption::start },
    Controller { name: "resourcequota-controller", start: resourcequota::start },
    Controller {
        name: "certificatesigningrequest-approving-controller",
        start: certificates::start_approving,
    },
    Controller {
        name: "certificatesigningrequest-signing-controller",
        start: certificates::start_signing,
    },
    Controller {
        name: "certificatesigningrequest-cleaner-controller",
        start: certificates::start_cleaning,
    },
    Controller { name: "persistentvolume-attach-detach-controller", start: attachdetach::start },
    Controller { name: "persistentvolume-binder-controller", start: persistentvolume::start },
    Controller {
        name: "persistentvolumeclaim-protection-controller",
        start: persistentvolume::start_claim_protection,
    },
    Controller {
        name: "persistentvolume-protection-controller",
        start: persistentvolume::start_volume_protection,
    },
    Controller {
        name: "volumeattributesclass-protection-controller",
        start: persistentvolume::start_class_protection,
    },
    Controller {
        name: "persistentvolume-expander-controller",
        start: persistentvolume::start_expansion,
    },
    Controller { name: "ephemeral-volume-controller", start: ephemeral_volume::start },
    Controller { name: "ttl-controller", start: node_ttl::start },
    Controller { name: "bootstrap-signer-controller", start: bootstrap_signer::start },
    Controller { name: "token-cleaner-controller", start: token_cleaner::start },
    Controller { name: "resourceclaim-controller", start: resourceclaim::start },
    Controller { name: "service-cidr-controller", start: servicecidrs::start },
    Controller { name: "serviceaccount-token-controller", start: tokens::start },
    Controller {
        name: "legacy-serviceaccount-token-cleaner-controller",
        start: tokens::start_cleaning,
    },
    Controller {
        name: "validatingadmissionpolicy-status-controller",
        start: validatingadmissionpolicystatus::start,
    },
    Controller { name: "servicelb-controller", start: servicelb::start },
    Controller { name: "cluster-dns-controller", start: dns::start },
    Controller { name: "addon-controller", start: addon::start },
    Controller { name: "local-path-provisioner", start: local_path::start },
];
