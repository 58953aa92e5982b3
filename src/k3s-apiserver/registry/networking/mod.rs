//! `networking.k8s.io`.

mod ingress;
mod ingressclass;
mod ipaddress;
mod networkpolicy;
mod servicecidr;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &ingress::Ingress,
    &ingressclass::IngressClass,
    &ipaddress::IpAddress,
    &networkpolicy::NetworkPolicy,
    &servicecidr::ServiceCidr,
];
