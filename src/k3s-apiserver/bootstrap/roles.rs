//! Bootstrap ClusterRoles of users and components: the rules, one line each.
//!
//! A line reads `groups resources verbs [names]` (the core group is written `core`) or
//! `url paths verbs`; commas separate the members of a part. `super::rbac` turns them into objects.

use super::rbac::Role;

/// Roles for people, nodes and components.
pub(super) const ROLES: &[Role] = &[
    Role { name: "admin", rules: &[] },
    Role { name: "cluster-admin", rules: &["* * *", "url * *"] },
    Role { name: "edit", rules: &[] },
    Role {
        name: "system:aggregate-to-admin",
        rules: &[
            "authorization.k8s.io localsubjectaccessreviews create",
            "rbac.authorization.k8s.io rolebindings,roles create,delete,deletecollection,get,list,patch,update,watch",
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        rules: &[
            "core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy get,list,watch",
            "core serviceaccounts impersonate",
            "core pods,pods/attach,pods/exec,pods/portforward,pods/proxy create,delete,deletecollection,patch,update",
            "core pods/eviction create",
            "core configmaps,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy create,delete,deletecollection,patch,update",
            "core serviceaccounts/token create",
            "core,events.k8s.io events create,delete,deletecollection,patch,update",
            "apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale create,delete,deletecollection,patch,update",
            "autoscaling horizontalpodautoscalers create,delete,deletecollection,patch,update",
            "batch cronjobs,jobs create,delete,deletecollection,patch,update",
            "extensions daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale create,delete,deletecollection,patch,update",
            "policy poddisruptionbudgets create,delete,deletecollection,patch,update",
            "networking.k8s.io ingresses,networkpolicies create,delete,deletecollection,patch,update",
            "coordination.k8s.io leases create,delete,deletecollection,get,list,patch,update,watch",
            "resource.k8s.io resourceclaims,resourceclaimtemplates create,delete,deletecollection,patch,update",
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        rules: &[
            "core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status get,list,watch",
            "core bindings,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status get,list,watch",
            "core namespaces get,list,watch",
            "core,events.k8s.io events get,list,watch",
            "discovery.k8s.io endpointslices get,list,watch",
            "apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status get,list,watch",
            "autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status get,list,watch",
            "batch cronjobs,cronjobs/status,jobs,jobs/status get,list,watch",
            "extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale get,list,watch",
            "policy poddisruptionbudgets,poddisruptionbudgets/status get,list,watch",
            "networking.k8s.io ingresses,ingresses/status,networkpolicies get,list,watch",
            "resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates get,list,watch",
        ],
    },
    Role {
        name: "system:auth-delegator",
        rules: &[
            "authentication.k8s.io tokenreviews create",
            "authorization.k8s.io subjectaccessreviews create",
        ],
    },
    Role {
        name: "system:basic-user",
        rules: &[
            "authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews create",
            "authentication.k8s.io selfsubjectreviews create",
        ],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &["certificates.k8s.io certificatesigningrequests/nodeclient create"],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &["certificates.k8s.io certificatesigningrequests/selfnodeclient create"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &["certificates.k8s.io signers approve kubernetes.io/kube-apiserver-client"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &["certificates.k8s.io signers approve kubernetes.io/kube-apiserver-client-kubelet"],
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &["certificates.k8s.io signers approve kubernetes.io/kubelet-serving"],
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &["certificates.k8s.io signers approve kubernetes.io/legacy-unknown"],
    },
    Role {
        name: "system:discovery",
        rules: &[
            "url /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/ get",
        ],
    },
    Role {
        name: "system:heapster",
        rules: &[
            "core events,namespaces,nodes,pods get,list,watch",
            "extensions deployments get,list,watch",
        ],
    },
    Role { name: "system:kube-aggregator", rules: &["core endpoints,services get,list,watch"] },
    Role {
        name: "system:kube-controller-manager",
        rules: &[
            "core,events.k8s.io events create,patch,update",
            "coordination.k8s.io leases create",
            "coordination.k8s.io leases get,update kube-controller-manager",
            "core secrets,serviceaccounts create",
            "core secrets delete",
            "core configmaps,namespaces,secrets,serviceaccounts get",
            "core secrets,serviceaccounts update",
            "authentication.k8s.io tokenreviews create",
            "authorization.k8s.io subjectaccessreviews create",
            "* * list,watch",
            "core serviceaccounts/token create",
        ],
    },
    Role { name: "system:kube-dns", rules: &["core endpoints,services list,watch"] },
    Role {
        name: "system:kube-scheduler",
        rules: &[
            "core,events.k8s.io events create,patch,update",
            "coordination.k8s.io leases create",
            "coordination.k8s.io leases get,list,update,watch kube-scheduler",
            "coordination.k8s.io leasecandidates create,delete,deletecollection,get,list,patch,update,watch",
            "core nodes get,list,watch",
            "core pods delete,get,list,watch",
            "core bindings,pods/binding create",
            "core pods/status patch,update",
            "core replicationcontrollers,services get,list,watch",
            "apps,extensions replicasets get,list,watch",
            "apps statefulsets get,list,watch",
            "policy poddisruptionbudgets get,list,watch",
            "core persistentvolumeclaims,persistentvolumes get,list,watch",
            "authentication.k8s.io tokenreviews create",
            "authorization.k8s.io subjectaccessreviews create",
            "storage.k8s.io csinodes get,list,watch",
            "storage.k8s.io volumeattachments get,list,watch",
            "core namespaces get,list,watch",
            "storage.k8s.io csidrivers get,list,watch",
            "storage.k8s.io csistoragecapacities get,list,watch",
            "resource.k8s.io deviceclasses get,list,watch",
            "resource.k8s.io resourceclaims get,list,patch,update,watch",
            "resource.k8s.io resourceclaims/status get,list,patch,update,watch",
            "core pods/finalizers update",
            "resource.k8s.io resourceslices get,list,watch",
            "resource.k8s.io resourceclaims create,delete",
            "resource.k8s.io resourceclaims/binding patch,update",
        ],
    },
    Role {
        name: "system:kubelet-api-admin",
        rules: &[
            "core nodes get,list,watch",
            "core nodes proxy",
            "core nodes/log,nodes/metrics,nodes/proxy,nodes/stats *",
            "core nodes/configz,nodes/healthz,nodes/pods *",
        ],
    },
    Role {
        name: "system:monitoring",
        rules: &[
            "url /flagz,/healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*,/statusz get",
            "core nodes/metrics get",
        ],
    },
    Role {
        name: "system:node",
        rules: &[
            "authentication.k8s.io tokenreviews create",
            "authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews create",
            "core services get,list,watch",
            "core nodes create,get,list,watch",
            "core nodes/status patch,update",
            "core nodes patch,update",
            "core,events.k8s.io events create,patch,update",
            "core pods get,list,watch",
            "core pods create,delete",
            "core pods/status patch,update",
            "core pods/eviction create",
            "core configmaps,secrets get,list,watch",
            "core persistentvolumeclaims,persistentvolumes get",
            "core endpoints get",
            "certificates.k8s.io certificatesigningrequests create,get,list,watch",
            "coordination.k8s.io leases create,delete,get,patch,update",
            "storage.k8s.io volumeattachments get",
            "core serviceaccounts/token create",
            "core persistentvolumeclaims/status get,patch,update",
            "storage.k8s.io csidrivers get,list,watch",
            "storage.k8s.io csinodes create,delete,get,patch,update",
            "node.k8s.io runtimeclasses get,list,watch",
            "resource.k8s.io resourceclaims get",
            "resource.k8s.io resourceslices deletecollection",
            "core serviceaccounts get",
        ],
    },
    Role {
        name: "system:node-bootstrapper",
        rules: &["certificates.k8s.io certificatesigningrequests create,get,list,watch"],
    },
    Role {
        name: "system:node-problem-detector",
        rules: &[
            "core nodes get",
            "core nodes/status patch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:node-proxier",
        rules: &[
            "core endpoints,services list,watch",
            "core nodes get,list,watch",
            "core,events.k8s.io events create,patch,update",
            "networking.k8s.io servicecidrs list,watch",
            "discovery.k8s.io endpointslices list,watch",
        ],
    },
    Role {
        name: "system:persistent-volume-provisioner",
        rules: &[
            "core persistentvolumes create,delete,get,list,watch",
            "core persistentvolumeclaims get,list,update,watch",
            "storage.k8s.io storageclasses get,list,watch",
            "core events watch",
            "core,events.k8s.io events create,patch,update",
        ],
    },
    Role {
        name: "system:public-info-viewer",
        rules: &["url /healthz,/livez,/readyz,/version,/version/ get"],
    },
    Role {
        name: "system:service-account-issuer-discovery",
        rules: &[
            "url /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/ get",
        ],
    },
    Role {
        name: "system:volume-scheduler",
        rules: &[
            "core persistentvolumes get,list,patch,update,watch",
            "storage.k8s.io storageclasses get,list,watch",
            "core persistentvolumeclaims get,list,patch,update,watch",
        ],
    },
    Role { name: "view", rules: &[] },
];
