//! `autoscaling`: horizontal pod autoscalers in both versions.

mod convert;
mod hpa;
mod hpa_validation;
mod old_metrics;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&hpa::HorizontalPodAutoscaler];
