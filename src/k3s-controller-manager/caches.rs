//! The reflectors that all controllers share: each resource is watched once per process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{HasMeta, Index, Key, Lister, Reflector, Resource, Selection};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controllers::{
    AdmissionPolicy, BootstrapToken, Quota, SigningRequest, TokenSecret, attachdetach,
    resourceclaim,
};
use crate::types::{
    Partial,
    apps::{DaemonSet, Deployment, ReplicaSet, Revision, StatefulSet},
    autoscaling::Autoscaler,
    batch::{CronJob, Job},
    coordination::Lease,
    core::{
        ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
    },
    discovery::EndpointSlice,
    networking::ServiceCidr,
    policy::Budget,
    rbac::ClusterRole,
    resource::ResourceClaim,
    storage::{Attachment, Claim, CsiDriver, StorageClass, Volume},
};

pub(crate) static PODS: Resource = Resource::namespaced("", "v1", "pods", "Pod");
pub(crate) static NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");
pub(crate) static NAMESPACES: Resource = Resource::cluster("", "v1", "namespaces", "Namespace");
pub(crate) static SERVICES: Resource = Resource::namespaced("", "v1", "services", "Service");
pub(crate) static ENDPOINTS: Resource = Resource::namespaced("", "v1", "endpoints", "Endpoints");
pub(crate) static CONFIG_MAPS: Resource = Resource::namespaced("", "v1", "configmaps", "ConfigMap");
pub(crate) static SERVICE_ACCOUNTS: Resource =
    Resource::namespaced("", "v1", "serviceaccounts", "ServiceAccount");
pub(crate) static REPLICATION_CONTROLLERS: Resource =
    Resource::namespaced("", "v1", "replicationcontrollers", "ReplicationController");
pub(crate) static REPLICA_SETS: Resource =
    Resource::namespaced("apps", "v1", "replicasets", "ReplicaSet");
pub(crate) static DEPLOYMENTS: Resource =
    Resource::namespaced("apps", "v1", "deployments", "Deployment");
pub(crate) static DAEMON_SETS: Resource =
    Resource::namespaced("apps", "v1", "daemonsets", "DaemonSet");
pub(crate) static STATEFUL_SETS: Resource =
    Resource::namespaced("apps", "v1", "statefulsets", "StatefulSet");
pub(crate) static REVISIONS: Resource =
    Resource::namespaced("apps", "v1", "controllerrevisions", "ControllerRevision");
pub(crate) static JOBS: Resource = Resource::namespaced("batch", "v1", "jobs", "Job");
pub(crate) static CRON_JOBS: Resource = Resource::namespaced("batch", "v1", "cronjobs", "CronJob");
pub(crate) static SLICES: Resource =
    Resource::namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
pub(crate) static LEASES: Resource =
    Resource::namespaced("coordination.k8s.io", "v1", "leases", "Lease");
pub(crate) static BUDGETS: Resource =
    Resource::namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
pub(crate) static CLUSTER_ROLES: Resource =
    Resource::cluster("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole");
pub(crate) static QUOTAS: Resource =
    Resource::namespaced("", "v1", "resourcequotas", "ResourceQuota");
pub(crate) static SECRETS: Resource = Resource::namespaced("", "v1", "secrets", "Secret");
pub(crate) static CLAIMS: Resource =
    Resource::namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
pub(crate) static VOLUMES: Resource =
    Resource::cluster("", "v1", "persistentvolumes", "PersistentVolume");
pub(crate) static STORAGE_CLASSES: Resource =
    Resource::cluster("storage.k8s.io", "v1", "storageclasses", "StorageClass");
static ATTRIBUTES_CLASSES: Resource =
    Resource::cluster("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass");
pub(crate) static AUTOSCALERS: Resource = Resource::namespaced(
    "autoscaling",
    "v2",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
);
pub(crate) static SIGNING_REQUESTS: Resource = Resource::cluster(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
);
pub(crate) static SERVICE_CIDRS: Resource =
    Resource::cluster("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR");
static IP_ADDRESSES: Resource =
    Resource::cluster("networking.k8s.io", "v1", "ipaddresses", "IPAddress");
pub(crate) static ADMISSION_POLICIES: Resource = Resource::cluster(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
);
pub(crate) static RESOURCE_CLAIMS: Resource =
    Resource::namespaced("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim");
pub(crate) static RESOURCE_CLAIM_TEMPLATES: Resource = Resource::namespaced(
    "resource.k8s.io",
    "v1",
    "resourceclaimtemplates",
    "ResourceClaimTemplate",
);
static CSI_DRIVERS: Resource = Resource::cluster("storage.k8s.io", "v1", "csidrivers", "CSIDriver");
pub(crate) static VOLUME_ATTACHMENTS: Resource =
    Resource::cluster("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment");

/// The resources that quotas count most, so that no discovery is needed for them.
pub(crate) fn counting(group: &str, plural: &str) -> Option<Resource> {
    [&CONFIG_MAPS, &SECRETS, &REPLICATION_CONTROLLERS, &QUOTAS, &SERVICES, &CLAIMS]
        .into_iter()
        .find(|it| it.group == group && it.plural == plural)
        .cloned()
}

type Going = Box<dyn Fn(&Resource, &str) + Send + Sync>;

/// Who wants to know that an object of a resource is gone from a namespace. The garbage collector
/// tells, since it watches every resource anyway.
#[derive(Default)]
pub(crate) struct Goings {
    subscribers: Mutex<Vec<Going>>,
}

impl Goings {
    /// Calls back for every object that goes. It must not block.
    pub(crate) fn subscribe(&self, call: impl Fn(&Resource, &str) + Send + Sync + 'static) {
        self.locked().push(Box::new(call));
    }

    pub(crate) fn tell(&self, resource: &Resource, namespace: &str) {
        for call in &*self.locked() {
            call(resource, namespace);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Going>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls a macro with the fields of [`Caches`] that are reflectors.
macro_rules! reflectors {
    ($call:ident) => {
        $call!(
            pods,
            nodes,
            namespaces,
            services,
            endpoints,
            slices,
            service_accounts,
            root_cas,
            cluster_info,
            replica_sets,
            replication_controllers,
            deployments,
            daemon_sets,
            stateful_sets,
            revisions,
            jobs,
            cron_jobs,
            autoscalers,
            node_leases,
            budgets,
            cluster_roles,
            quotas,
            claims,
            volumes,
            storage_classes,
            attributes_classes,
            signing_requests,
            bootstrap_tokens,
            service_cidrs,
            ip_addresses,
            admission_policies,
            resource_claims,
            csi_drivers,
            attachments,
            token_secrets
        )
    };
}

/// Every shared reflector.
pub(crate) struct Caches {
    pub pods: Reflector<Pod>,
    /// Pods by the uid of their controller, or by `orphan/<namespace>` when they have none.
    pub pods_by_owner: Index,
    pub pods_by_node: Index,
    /// Pods by `<namespace>/<resource claim>`.
    pub pods_by_claim: Index,
    pub nodes: Reflector<Node>,
    pub namespaces: Reflector<Namespace>,
    pub services: Reflector<Service>,
    pub endpoints: Reflector<Endpoints>,
    pub slices: Reflector<EndpointSlice>,
    /// Slices by `<namespace>/<service>`.
    pub slices_by_service: Index,
    pub service_accounts: Reflector<ServiceAccount>,
    /// Only the Secrets that hold a ServiceAccount's token.
    pub token_secrets: Reflector<TokenSecret>,
    /// Only the ConfigMaps named `kube-root-ca.crt`.
    pub root_cas: Reflector<ConfigMap>,
    /// Only the ConfigMap `kube-public/cluster-info`.
    pub cluster_info: Reflector<ConfigMap>,
    pub replica_sets: Reflector<ReplicaSet>,
    pub replica_sets_by_owner: Index,
    pub replication_controllers: Reflector<ReplicationController>,
    pub deployments: Reflector<Deployment>,
    pub daemon_sets: Reflector<DaemonSet>,
    pub stateful_sets: Reflector<StatefulSet>,
    pub revisions: Reflector<Revision>,
    pub revisions_by_owner: Index,
    pub jobs: Reflector<Job>,
    pub jobs_by_owner: Index,
    pub cron_jobs: Reflector<CronJob>,
    pub autoscalers: Reflector<Autoscaler>,
    pub node_leases: Reflector<Lease>,
    pub budgets: Reflector<Budget>,
    pub cluster_roles: Reflector<ClusterRole>,
    pub quotas: Reflector<Quota>,
    pub claims: Reflector<Claim>,
    pub volumes: Reflector<Volume>,
    pub storage_classes: Reflector<StorageClass>,
    pub attributes_classes: Reflector<Partial>,
    pub signing_requests: Reflector<SigningRequest>,
    pub bootstrap_tokens: Reflector<BootstrapToken>,
    pub service_cidrs: Reflector<ServiceCidr>,
    pub ip_addresses: Reflector<Partial>,
    pub admission_policies: Reflector<AdmissionPolicy>,
    pub resource_claims: Reflector<ResourceClaim>,
    pub claims_by_owner: Index,
    pub csi_drivers: Reflector<CsiDriver>,
    pub attachments: Reflector<Attachment>,
    pub attachments_by_node: Index,
    pub goings: Goings,
}

impl Caches {
    pub(crate) fn new(client: &kube::Client) -> Self {
        let pods: Reflector<Pod> = all(client, &PODS);
        let pods_by_owner = pods.add_index(owner_terms);
        let pods_by_node = pods.add_index(|pod| {
            if pod.spec.node_name.is_empty() { vec![] } else { vec![pod.spec.node_name.clone()] }
        });
        let pods_by_claim = pods.add_index(|pod| {
            let key = |name: &String| format!("{}/{name}", pod.metadata.namespace);
            resourceclaim::names(pod).iter().map(key).collect()
        });
        let resource_claims: Reflector<ResourceClaim> = all(client, &RESOURCE_CLAIMS);
        let claims_by_owner = resource_claims.add_index(owner_terms);
        let attachments: Reflector<Attachment> = all(client, &VOLUME_ATTACHMENTS);
        let attachments_by_node = attachments.add_index(attachdetach::by_node);
        let slices: Reflector<EndpointSlice> = all(client, &SLICES);
        let slices_by_service = slices.add_index(|slice| {
            let service = slice.metadata.labels.get("kubernetes.io/service-name");
            service.map(|name| format!("{}/{name}", slice.metadata.namespace)).into_iter().collect()
        });
        let replica_sets: Reflector<ReplicaSet> = all(client, &REPLICA_SETS);
        let replica_sets_by_owner = replica_sets.add_index(owner_terms);
        let revisions: Reflector<Revision> = all(client, &REVISIONS);
        let revisions_by_owner = revisions.add_index(owner_terms);
        let jobs: Reflector<Job> = all(client, &JOBS);
        let jobs_by_owner = jobs.add_index(owner_terms);
        Caches {
            pods,
            pods_by_owner,
            pods_by_node,
            pods_by_claim,
            nodes: all(client, &NODES),
            namespaces: all(client, &NAMESPACES),
            services: all(client, &SERVICES),
            endpoints: all(client, &ENDPOINTS),
            slices,
            slices_by_service,
            service_accounts: all(client, &SERVICE_ACCOUNTS),
            token_secrets: Reflector::selecting(
                client.clone(),
                SECRETS.clone(),
                Selection {
                    fields: "type=kubernetes.io/service-account-token".into(),
                    ..Selection::default()
                },
            ),
            root_cas: named(client, &CONFIG_MAPS, "kube-root-ca.crt"),
            cluster_info: Reflector::selecting(
                client.clone(),
                CONFIG_MAPS.clone(),
                Selection {
                    namespace: "kube-public".into(),
                    fields: "metadata.name=cluster-info".into(),
                    ..Selection::default()
                },
            ),
            replica_sets,
            replica_sets_by_owner,
            replication_controllers: all(client, &REPLICATION_CONTROLLERS),
            deployments: all(client, &DEPLOYMENTS),
            daemon_sets: all(client, &DAEMON_SETS),
            stateful_sets: all(client, &STATEFUL_SETS),
            revisions,
            revisions_by_owner,
            jobs,
            jobs_by_owner,
            cron_jobs: all(client, &CRON_JOBS),
            autoscalers: all(client, &AUTOSCALERS),
            node_leases: Reflector::selecting(
                client.clone(),
                LEASES.clone(),
                Selection { namespace: "kube-node-lease".into(), ..Selection::default() },
            ),
            budgets: all(client, &BUDGETS),
            cluster_roles: all(client, &CLUSTER_ROLES),
            quotas: all(client, &QUOTAS),
            claims: all(client, &CLAIMS),
            volumes: all(client, &VOLUMES),
            storage_classes: all(client, &STORAGE_CLASSES),
            attributes_classes: Reflector::metadata(
                client.clone(),
                ATTRIBUTES_CLASSES.clone(),
                Selection::default(),
            ),
            signing_requests: all(client, &SIGNING_REQUESTS),
            bootstrap_tokens: Reflector::selecting(
                client.clone(),
                SECRETS.clone(),
                Selection {
                    namespace: "kube-system".into(),
                    fields: "type=bootstrap.kubernetes.io/token".into(),
                    ..Selection::default()
                },
            ),
            service_cidrs: all(client, &SERVICE_CIDRS),
            ip_addresses: Reflector::metadata(
                client.clone(),
                IP_ADDRESSES.clone(),
                Selection::default(),
            ),
            admission_policies: all(client, &ADMISSION_POLICIES),
            resource_claims,
            claims_by_owner,
            csi_drivers: all(client, &CSI_DRIVERS),
            attachments,
            attachments_by_node,
            goings: Goings::default(),
        }
    }

    /// Runs every reflector in `tasks`.
    pub(crate) fn start(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        macro_rules! start {
            ($($field:ident),*) => {
                $(tasks.spawn(self.$field.clone().run(stop.clone()));)*
            };
        }
        reflectors!(start);
    }

    /// Waits until every reflector knows the initial state.
    pub(crate) async fn synced(&self) {
        macro_rules! synced {
            ($($field:ident),*) => {
                $(self.$field.synced().await;)*
            };
        }
        reflectors!(synced);
    }
}

/// The objects that a controller owns, and those of its namespace that nobody controls.
pub(crate) fn owned_and_orphans<T: HasMeta>(
    lister: &Lister<T>,
    by_owner: Index,
    uid: &str,
    namespace: &str,
) -> Vec<Arc<T>> {
    let mut found = lister.by_index(by_owner, uid);
    found.extend(lister.by_index(by_owner, &orphans_of(namespace)));
    found
}

/// The key of the object's controller when that is of this kind.
pub(crate) fn controller_key(object: &impl HasMeta, kind: &str) -> Option<Key> {
    let meta = object.meta();
    let owner = meta.controller().filter(|owner| owner.kind == kind)?;
    Some(Key::new(meta.namespace.clone(), owner.name.clone()))
}

fn owner_terms<T: HasMeta>(object: &T) -> Vec<String> {
    let meta = object.meta();
    vec![match meta.controller() {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(&meta.namespace),
    }]
}

fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

fn all<T>(client: &kube::Client, resource: &Resource) -> Reflector<T>
where
    T: HasMeta + DeserializeOwned + Send + Sync + 'static,
{
    Reflector::new(client.clone(), resource.clone())
}

fn named<T>(client: &kube::Client, resource: &Resource, name: &str) -> Reflector<T>
where
    T: HasMeta + DeserializeOwned + Send + Sync + 'static,
{
    let selection = Selection { fields: format!("metadata.name={name}"), ..Selection::default() };
    Reflector::selecting(client.clone(), resource.clone(), selection)
}
