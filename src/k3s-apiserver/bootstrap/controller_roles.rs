//! Bootstrap ClusterRoles of the controllers: the rules, one line each.
//!
//! A line reads `groups resources verbs [names]` (the core group is written `core`) or
//! `url paths verbs`; commas separate the members of a part. `super::rbac` turns them into objects.

use super::rbac::Role;

/// One role per controller's service account.
pub(super) const CONTROLLER_ROLES: &[Role] = &[
    Role {
        name: "system:controller:attachdetach-controller",
        rules: &[
            "core persistentvolumeclaims,persistentvolumes list,watch",
            "core nodes get,list,watch",
            "core nodes/status patch,update",
            "core pods list,watch",
            "core,events.k8s.io events create,patch,update",
            "storage.k8s.io volumeattachments create,delete,get,list,watch",
            "storage.k8s.io csidrivers get,list,watch",
            "storage.k8s.io csinodes get,list,watch",
        ],
    },
    Role {
        name: "system:controller:certificate-controller",
        rules: &[
            "certificates.k8s.io certificatesigningrequests delete,get,list,watch",
            "certificates.k8s.io certificatesigningrequests/approval,certificatesigningrequests/status update",
            "certificates.k8s.io signers approve kubernetes.io/kube-apiserver-client-kubelet",
            "certificates.k8s.io signers sign kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown",
            "authorization.k8s.io subjectaccessreviews create",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:clusterrole-aggregation-controller",
        rules: &["rbac.authorization.k8s.io clusterroles escalate,get,list,patch,update,watch"],
    },
    Role {
        name: "system:controller:cronjob-controller",
        rules: &[
            "batch cronjobs get,list,update,watch",
            "batch jobs create,delete,get,list,patch,update,watch",
            "batch cronjobs/status update",
            "batch cronjobs/finalizers update",
            "core pods delete,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:daemon-set-controller",
        rules: &[
            "apps,extensions daemonsets get,list,watch",
            "apps,extensions daemonsets/status update",
            "apps,extensions daemonsets/finalizers update",
            "core nodes list,watch",
            "core pods create,delete,list,patch,watch",
            "core pods/binding create",
            "apps controllerrevisions create,delete,get,list,patch,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:deployment-controller",
        rules: &[
            "apps,extensions deployments get,list,update,watch",
            "apps,extensions deployments/status update",
            "apps,extensions deployments/finalizers update",
            "apps,extensions replicasets create,delete,get,list,patch,update,watch",
            "core pods get,list,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:device-taint-eviction-controller",
        rules: &[
            "core pods delete,get,list,watch",
            "core pods/status patch,update",
            "resource.k8s.io resourceclaims get,list,watch",
            "resource.k8s.io resourceslices get,list,watch",
            "resource.k8s.io deviceclasses get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:disruption-controller",
        rules: &[
            "apps,extensions deployments get,list,watch",
            "apps,extensions replicasets get,list,watch",
            "core replicationcontrollers get,list,watch",
            "policy poddisruptionbudgets get,list,watch",
            "apps statefulsets get,list,watch",
            "policy poddisruptionbudgets/status update",
            "core pods/status patch,update",
            "* */scale get",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:endpoint-controller",
        rules: &[
            "core pods,services get,list,watch",
            "core endpoints create,delete,get,list,update,watch",
            "core endpoints/restricted create",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:endpointslice-controller",
        rules: &[
            "core nodes,pods,services get,list,watch",
            "core services/finalizers update",
            "discovery.k8s.io endpointslices create,delete,get,list,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:endpointslicemirroring-controller",
        rules: &[
            "core endpoints,services get,list,watch",
            "core services/finalizers update",
            "core endpoints/finalizers update",
            "discovery.k8s.io endpointslices create,delete,get,list,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:ephemeral-volume-controller",
        rules: &[
            "core pods get,list,watch",
            "core pods/finalizers update",
            "core persistentvolumeclaims create,get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:expand-controller",
        rules: &[
            "core persistentvolumes get,list,patch,update,watch",
            "core persistentvolumeclaims/status patch,update",
            "core persistentvolumeclaims get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:generic-garbage-collector",
        rules: &[
            "* * delete,get,list,patch,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:horizontal-pod-autoscaler",
        rules: &[
            "autoscaling horizontalpodautoscalers get,list,watch",
            "autoscaling horizontalpodautoscalers/status update",
            "* */scale get,update",
            "core pods list,watch",
            "metrics.k8s.io pods list,watch",
            "custom.metrics.k8s.io * get,list,watch",
            "external.metrics.k8s.io * get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:job-controller",
        rules: &[
            "batch jobs get,list,patch,update,watch",
            "batch jobs/status update",
            "batch jobs/finalizers update",
            "core pods create,delete,list,patch,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:legacy-service-account-token-cleaner",
        rules: &[
            "core configmaps get kube-apiserver-legacy-service-account-token-tracking",
            "core secrets delete,patch",
        ],
    },
    Role {
        name: "system:controller:namespace-controller",
        rules: &[
            "core namespaces delete,get,list,watch",
            "core namespaces/finalize,namespaces/status update",
            "* * delete,deletecollection,get,list,watch",
        ],
    },
    Role {
        name: "system:controller:node-controller",
        rules: &[
            "core nodes delete,get,list,patch,update,watch",
            "core nodes/status patch,update",
            "core pods/status patch,update",
            "core pods delete,get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:persistent-volume-binder",
        rules: &[
            "core persistentvolumes create,delete,get,list,update,watch",
            "core persistentvolumes/status update",
            "core persistentvolumeclaims get,list,update,watch",
            "core persistentvolumeclaims/status update",
            "core pods create,delete,get,list,watch",
            "storage.k8s.io storageclasses get,list,watch",
            "core nodes list,watch",
            "core,events.k8s.io events create,patch,update",
            "core events watch",
        ],
    },
    Role {
        name: "system:controller:pod-garbage-collector",
        rules: &[
            "core pods delete,list,watch",
            "core nodes get,list,watch",
            "core pods/status patch",
        ],
    },
    Role {
        name: "system:controller:pv-protection-controller",
        rules: &[
            "core persistentvolumes get,list,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:pvc-protection-controller",
        rules: &[
            "core persistentvolumeclaims get,list,update,watch",
            "core persistentvolumeclaims/status update",
            "core pods get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:replicaset-controller",
        rules: &[
            "apps,extensions replicasets get,list,update,watch",
            "apps,extensions replicasets/status update",
            "apps,extensions replicasets/finalizers update",
            "core pods create,delete,list,patch,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:replication-controller",
        rules: &[
            "core replicationcontrollers get,list,update,watch",
            "core replicationcontrollers/status update",
            "core replicationcontrollers/finalizers update",
            "core pods create,delete,list,patch,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:resource-claim-controller",
        rules: &[
            "core pods get,list,watch",
            "core pods/finalizers update",
            "resource.k8s.io resourceclaims create,delete,get,list,watch",
            "resource.k8s.io resourceclaims,resourceclaims/status patch,update",
            "core pods/status patch,update",
            "core,events.k8s.io events create,patch,update",
            "resource.k8s.io resourceclaims/binding patch,update",
        ],
    },
    Role {
        name: "system:controller:resourcequota-controller",
        rules: &[
            "* * list,watch",
            "core resourcequotas/status update",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:root-ca-cert-publisher",
        rules: &["core configmaps create,update", "core,events.k8s.io events create,patch,update"],
    },
    Role {
        name: "system:controller:route-controller",
        rules: &[
            "core nodes list,watch",
            "core nodes/status patch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:selinux-warning-controller",
        rules: &[
            "core,events.k8s.io events create,patch,update",
            "core persistentvolumes get,list,watch",
            "core persistentvolumeclaims get,list,watch",
            "core pods get,list,watch",
            "storage.k8s.io csidrivers get,list,watch",
        ],
    },
    Role {
        name: "system:controller:service-account-controller",
        rules: &["core serviceaccounts create", "core,events.k8s.io events create,patch,update"],
    },
    Role {
        name: "system:controller:service-cidrs-controller",
        rules: &[
            "networking.k8s.io servicecidrs get,list,patch,update,watch",
            "networking.k8s.io servicecidrs/finalizers patch,update",
            "networking.k8s.io servicecidrs/status patch,update",
            "networking.k8s.io ipaddresses get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:service-controller",
        rules: &[
            "core services get,list,watch",
            "core services/status patch,update",
            "core nodes list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:statefulset-controller",
        rules: &[
            "core pods list,watch",
            "apps statefulsets get,list,watch",
            "apps statefulsets/status update",
            "apps statefulsets/finalizers update",
            "core pods create,delete,get,patch,update",
            "apps controllerrevisions create,delete,get,list,patch,update,watch",
            "core persistentvolumeclaims create,get,list,watch",
            "core persistentvolumeclaims delete,update",
            "core pods/finalizers update",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:ttl-after-finished-controller",
        rules: &[
            "batch jobs delete,get,list,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:ttl-controller",
        rules: &[
            "core nodes list,patch,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:validatingadmissionpolicy-status-controller",
        rules: &[
            "admissionregistration.k8s.io validatingadmissionpolicies get,list,watch",
            "admissionregistration.k8s.io validatingadmissionpolicies/status get,patch,update",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:controller:volumeattributesclass-protection-controller",
        rules: &[
            "core persistentvolumeclaims get,list,watch",
            "core persistentvolumes get,list,watch",
            "storage.k8s.io volumeattributesclasses get,list,update,watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
];
