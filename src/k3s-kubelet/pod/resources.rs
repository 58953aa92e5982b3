//! Quantities to kernel figures: quality of service, cgroup names, shares, quotas, OOM scores.
//!
//! Pure; touches no cgroup.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::labels::PodNames;
use crate::cri::config::LinuxContainerResources;

pub(crate) const CPU_PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1_000;
const SHARES_MIN: i64 = 2;
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// Who names cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupDriver {
    Cgroupfs,
    Systemd,
}

/// The quantity in thousandths, rounded up; `None` when it is not a quantity.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits =
        text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (multiplier, divisor) = scale(suffix)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let fraction = fraction.get(..fraction.len().min(9))?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let numerator = mantissa.checked_mul(multiplier)?.checked_mul(1000)?;
    let denominator =
        divisor.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let value = numerator.checked_add(denominator - 1)? / denominator;
    Some(if negative { -value } else { value })
}

/// The quantity in whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from((milli + if milli > 0 { 999 } else { 0 }) / 1000).ok()
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs().min(18))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

fn get<'a>(map: &'a Option<BTreeMap<String, Quantity>>, key: &str) -> Option<&'a Quantity> {
    map.as_ref()?.get(key)
}

/// The container's request, else its limit.
pub(crate) fn request(resources: Option<&ResourceRequirements>, key: &str) -> Option<i128> {
    let resources = resources?;
    get(&resources.requests, key).or_else(|| get(&resources.limits, key)).and_then(milli)
}

/// The container's limit.
pub(crate) fn limit(resources: Option<&ResourceRequirements>, key: &str) -> Option<i128> {
    get(&resources?.limits, key).and_then(milli).filter(|value| *value != 0)
}

/// The class, as the API server wrote it or else as upstream computes it.
pub(crate) fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    if let Some(pod_level) = &spec.resources
        && (pod_level.limits.is_some() || pod_level.requests.is_some())
    {
        return qos_of([Some(pod_level)].into_iter());
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    qos_of(containers.map(|container| container.resources.as_ref()))
}

fn qos_of<'a>(containers: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    for resources in containers {
        for key in ["cpu", "memory"] {
            let limit = limit(resources, key);
            let request = request(resources, key).filter(|value| *value != 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The cgroup parent of a pod, in the form that the runtime expects from this driver.
pub(crate) fn cgroup_parent(pod: &Pod, root: &str, driver: CgroupDriver) -> String {
    let class = match qos(pod) {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    match driver {
        CgroupDriver::Cgroupfs => {
            let root = root.trim_end_matches('/');
            let class = class.map(|class| format!("/{class}")).unwrap_or_default();
            format!("{root}/kubepods{class}/pod{}", pod.uid())
        }
        CgroupDriver::Systemd => {
            let class = class.map(|class| format!("-{class}")).unwrap_or_default();
            format!("kubepods{class}-pod{}.slice", pod.uid().replace('-', "_"))
        }
    }
}

pub(crate) fn shares(cpu_milli: i128) -> i64 {
    i64::try_from(cpu_milli * 1024 / 1000).unwrap_or(i64::MAX).clamp(SHARES_MIN, 262_144)
}

/// The same on cgroup v2, by the formula of the runtimes.
pub(crate) fn weight(cpu_milli: i128) -> i64 {
    1 + (shares(cpu_milli) - SHARES_MIN) * 9999 / 262_142
}

pub(crate) fn quota(cpu_milli: i128) -> i64 {
    let quota = cpu_milli * i128::from(CPU_PERIOD_US) / 1000;
    i64::try_from(quota).unwrap_or(i64::MAX).max(QUOTA_MIN_US)
}

/// What the runtime shall enforce on one container.
pub(crate) fn container_resources(
    pod: &Pod,
    container: &Container,
    memory_capacity_bytes: i64,
    oom_group: bool,
) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let memory_limit = limit(resources, "memory").map_or(0, bytes);
    let mut out = LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: limit(resources, "cpu").map_or(0, quota),
        cpu_shares: request(resources, "cpu").map_or(SHARES_MIN, shares),
        memory_limit_in_bytes: memory_limit,
        // Without swap accounting the pair must be equal, and pods get no swap by default.
        memory_swap_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, container, memory_capacity_bytes),
        ..Default::default()
    };
    if oom_group {
        out.unified.insert("memory.oom.group".into(), "1".into());
    }
    out
}

/// Upstream's formula: the less of the node a burstable container asks for, the sooner it dies.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, capacity_bytes: i64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    if priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(container.resources.as_ref(), "memory").map_or(0, bytes);
            let share = i128::from(request) * 1000 / i128::from(capacity_bytes.max(1));
            (1000 - i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

fn bytes(milli: i128) -> i64 {
    i64::try_from(milli / 1000).unwrap_or(i64::MAX)
}

/// Requests and limits of the whole pod: the running sum, or the largest init step if that is more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PodTotals {
    pub(crate) cpu_request_milli: i128,
    /// `None` when a container has no limit.
    pub(crate) cpu_limit_milli: Option<i128>,
    /// `None` when a container has no limit.
    pub(crate) memory_limit_bytes: Option<i64>,
}

pub(crate) fn pod_totals(pod: &Pod) -> PodTotals {
    PodTotals {
        cpu_request_milli: pod_request(pod, "cpu"),
        cpu_limit_milli: total(pod, "cpu", limit),
        memory_limit_bytes: total(pod, "memory", limit).map(bytes),
    }
}

/// What the whole pod requests of a resource, in thousandths.
pub(crate) fn pod_request(pod: &Pod, key: &str) -> i128 {
    let or_zero = |resources: Option<&ResourceRequirements>, key: &str| {
        Some(request(resources, key).unwrap_or(0))
    };
    total(pod, key, or_zero).unwrap_or(0)
}

/// The running sum, or the largest init step if that is more; `None` when a container has none.
fn total(
    pod: &Pod,
    key: &str,
    of: impl Fn(Option<&ResourceRequirements>, &str) -> Option<i128>,
) -> Option<i128> {
    let spec = pod.spec.as_ref()?;
    if spec.resources.is_some()
        && let Some(value) = of(spec.resources.as_ref(), key).filter(|value| *value != 0)
    {
        return Some(value);
    }
    let (mut sidecars, mut peak, mut complete) = (0, 0, true);
    for container in spec.init_containers.iter().flatten() {
        let value = of(container.resources.as_ref(), key);
        complete &= value.is_some();
        let value = value.unwrap_or(0);
        peak = peak.max(sidecars + value);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += value;
        }
    }
    let mut sum = sidecars;
    for container in &spec.containers {
        let value = of(container.resources.as_ref(), key);
        complete &= value.is_some();
        sum += value.unwrap_or(0);
    }
    let overhead = get(&spec.overhead, key).and_then(milli).unwrap_or(0);
    Some(peak.max(sum) + overhead).filter(|_| complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<i128>) {
        assert_eq!(milli(&Quantity(text.into())), expected, "{text}");
    }

    #[test]
    fn quantities_read_as_thousandths() {
        check("1", Some(1000));
        check("100m", Some(100));
        check("1.5", Some(1500));
        check("2Ki", Some(2_048_000));
        check("1e3", Some(1_000_000));
        check("0.0001", Some(1));
        check("-1", Some(-1000));
        check("", None);
        check("1Zi", None);
        check("abc", None);
    }

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"uid": "a-b"}, "spec": {"containers": containers}
        }))
        .unwrap()
    }

    #[test]
    fn the_class_decides_the_cgroup() {
        let full = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let half = serde_json::json!({"requests": {"cpu": "1"}});
        for (resources, class, path, slice) in [
            (full, Qos::Guaranteed, "/r/kubepods/poda-b", "kubepods-poda_b.slice"),
            (
                half,
                Qos::Burstable,
                "/r/kubepods/burstable/poda-b",
                "kubepods-burstable-poda_b.slice",
            ),
            (
                serde_json::json!({}),
                Qos::BestEffort,
                "/r/kubepods/besteffort/poda-b",
                "kubepods-besteffort-poda_b.slice",
            ),
        ] {
            let pod = pod(serde_json::json!([{"name": "c", "resources": resources}]));
            assert_eq!(qos(&pod), class);
            assert_eq!(cgroup_parent(&pod, "/r/", CgroupDriver::Cgroupfs), path);
            assert_eq!(cgroup_parent(&pod, "/r/", CgroupDriver::Systemd), slice);
        }
    }

    #[test]
    fn small_figures_are_raised_to_what_the_kernel_takes() {
        assert_eq!(shares(1), 2);
        assert_eq!(shares(1000), 1024);
        assert_eq!(quota(5), 1000);
        assert_eq!(quota(250), 25_000);
    }

    #[test]
    fn a_pod_without_one_limit_has_no_limit() {
        let limited = serde_json::json!({"name": "a", "resources": {"limits": {"memory": "1Mi"}}});
        let open = serde_json::json!({"name": "b"});
        assert_eq!(
            pod_totals(&pod(serde_json::json!([limited]))).memory_limit_bytes,
            Some(1 << 20)
        );
        assert_eq!(pod_totals(&pod(serde_json::json!([limited, open]))).memory_limit_bytes, None);
    }
}
