//! `admissionregistration.k8s.io`: webhooks and admission policies.

mod binding;
mod policy;
mod rules;
pub(super) mod webhook;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &webhook::Configuration("mutatingwebhookconfigurations.admissionregistration.k8s.io"),
    &webhook::Configuration("validatingwebhookconfigurations.admissionregistration.k8s.io"),
    &policy::Policy("mutatingadmissionpolicies.admissionregistration.k8s.io"),
    &policy::Policy("validatingadmissionpolicies.admissionregistration.k8s.io"),
    &binding::Binding("mutatingadmissionpolicybindings.admissionregistration.k8s.io"),
    &binding::Binding("validatingadmissionpolicybindings.admissionregistration.k8s.io"),
];
