//! Where objects lie in the store: upstream's keys.
//!
//! Invariant: a built-in resource has one prefix whatever version it is served in, so our store and
//! upstream's server read each other's objects.

/// The prefix of everything that an API server stores.
pub const ROOT: &str = "/registry/";

/// The resources whose folder is not simply the resource's name.
const ODD: &[(&str, &str)] = &[
    ("apiservices.apiregistration.k8s.io", "apiregistration.k8s.io/apiservices"),
    (
        "customresourcedefinitions.apiextensions.k8s.io",
        "apiextensions.k8s.io/customresourcedefinitions",
    ),
    ("endpoints", "services/endpoints"),
    ("events.events.k8s.io", "events"),
    ("ingresses.networking.k8s.io", "ingress"),
    ("nodes", "minions"),
    ("replicationcontrollers", "controllers"),
    ("services", "services/specs"),
];

/// The key prefix of a built-in resource given as `deployments.apps`, with a slash at the end.
pub fn builtin_prefix(resource: &str) -> String {
    let folder = match ODD.iter().find(|(name, _)| *name == resource) {
        Some((_, folder)) => folder,
        None => resource.split('.').next().unwrap_or(resource),
    };
    format!("{ROOT}{folder}/")
}

/// Where a custom resource is below the root.
pub fn custom_folder(group: &str, plural: &str) -> String {
    format!("{group}/{plural}/")
}

/// What is behind the prefix: `namespace/name`, or `name` for cluster-scoped objects.
pub fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_upstreams() {
        let check = |resource: &str, want: &str| assert_eq!(builtin_prefix(resource), want);
        check("pods", "/registry/pods/");
        check("deployments.apps", "/registry/deployments/");
        check("services", "/registry/services/specs/");
        check("nodes", "/registry/minions/");
        check("ingresses.networking.k8s.io", "/registry/ingress/");
        assert_eq!(object_key("a", "b"), "a/b");
    }
}
