//! `rbac.authorization.k8s.io/v1`.

mod binding;
mod role;

pub(crate) use self::binding::path_segment;
use super::Strategy;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &role::Role("clusterroles.rbac.authorization.k8s.io"),
    &role::Role("roles.rbac.authorization.k8s.io"),
    &binding::Binding("clusterrolebindings.rbac.authorization.k8s.io"),
    &binding::Binding("rolebindings.rbac.authorization.k8s.io"),
];
