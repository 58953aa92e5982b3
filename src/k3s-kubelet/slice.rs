//! Pod cgroups by the systemd driver: a slice per pod, asked of systemd, which alone writes control
//! groups where this driver is used.
//!
//! systemd knows the properties by the names of cgroup v2 and translates them where v1 is mounted.
//! Invariant: a slice is stopped only when no process is left in it, since systemd would end them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use daemon::systemd::ManagerProxy;
use k8s_openapi::api::core::v1::Pod;
use zbus::Variant;

use crate::cgroup::ROOT;
use crate::config::Config;
use crate::pod::resources::{
    CPU_PERIOD_US, CgroupDriver, PodTotals, cgroup_parent, pod_totals, quota, weight,
};

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

type Properties = Vec<(&'static str, Variant<'static>)>;

/// Makes the pod's slice, or gives it the limits that the pod has now.
pub(crate) async fn ensure(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    let name = cgroup_parent(pod, &config.cgroup_root, CgroupDriver::Systemd);
    let systemd = connect().await?;
    let limits = limits(&pod_totals(pod));
    let mut all = fixed(&name);
    all.extend(limits.clone());
    match systemd.start_transient_unit(&name, "replace", &all, &[]).await {
        Err(err) if is(&err, UNIT_EXISTS) => {
            let changed = systemd.set_unit_properties(&name, true, &limits).await;
            changed.with_context(|| format!("changing {name}"))
        }
        started => started.map(drop).with_context(|| format!("starting {name}")),
    }
}

/// Has systemd forget the pod's slice.
pub(crate) async fn remove(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    let name = cgroup_parent(pod, &config.cgroup_root, CgroupDriver::Systemd);
    if config.cgroup_v2 && populated(&Path::new(ROOT).join(path_of(&name))) {
        bail!("{name} still has processes");
    }
    let systemd = connect().await?;
    match systemd.stop_unit(&name, "replace").await {
        Err(err) if !is(&err, NO_SUCH_UNIT) => Err(err).with_context(|| format!("stopping {name}")),
        // One that failed would be kept for somebody to look at.
        _ => match systemd.reset_failed_unit(&name).await {
            Err(err) if !is(&err, NO_SUCH_UNIT) => {
                Err(err).with_context(|| format!("forgetting {name}"))
            }
            _ => Ok(()),
        },
    }
}

/// Made for each call: pods come seldom, and a bus may start again meanwhile.
async fn connect() -> anyhow::Result<ManagerProxy<'static>> {
    let connection = daemon::connect_bus().await.context("reaching systemd")?;
    ManagerProxy::new(&connection).await.context("reaching systemd")
}

fn is(err: &zbus::Error, name: &str) -> bool {
    matches!(err, zbus::Error::MethodError(have, ..) if have.as_str() == name)
}

/// What does not change while the slice is there.
fn fixed(name: &str) -> Properties {
    vec![
        ("Description", format!("Kubernetes pod {name}").into()),
        // It goes last at a shutdown; pods are ended before.
        ("DefaultDependencies", false.into()),
        ("CPUAccounting", true.into()),
        ("MemoryAccounting", true.into()),
        ("IOAccounting", true.into()),
        ("TasksAccounting", true.into()),
    ]
}

/// All limits, so that one that is lifted goes.
fn limits(totals: &PodTotals) -> Properties {
    let number = |value: i64| u64::try_from(value).unwrap_or(INFINITY);
    let per_second = |milli| number(quota(milli) * 1_000_000 / CPU_PERIOD_US);
    vec![
        ("CPUWeight", number(weight(totals.cpu_request_milli)).into()),
        ("CPUQuotaPerSecUSec", totals.cpu_limit_milli.map_or(INFINITY, per_second).into()),
        ("CPUQuotaPeriodUSec", number(CPU_PERIOD_US).into()),
        ("MemoryMax", totals.memory_limit_bytes.map_or(INFINITY, number).into()),
    ]
}

/// Where a slice is below the root: `a-b.slice` lies in `a.slice`.
pub(crate) fn path_of(name: &str) -> PathBuf {
    let stem = name.trim_end_matches(".slice");
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

fn populated(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_those_that_its_name_begins_with() {
        let check = |name, path: &str| assert_eq!(path_of(name), Path::new(path));
        check("kubepods.slice", "kubepods.slice");
        check(
            "kubepods-burstable-pod1_2.slice",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
        );
    }

    #[test]
    fn limits_are_said_in_systemds_terms() {
        let check = |totals: PodTotals, weight: u64, cpu: u64, memory: u64| {
            let expected: Properties = vec![
                ("CPUWeight", weight.into()),
                ("CPUQuotaPerSecUSec", cpu.into()),
                ("CPUQuotaPeriodUSec", 100_000_u64.into()),
                ("MemoryMax", memory.into()),
            ];
            assert_eq!(limits(&totals), expected, "{totals:?}");
        };
        check(PodTotals::default(), 1, INFINITY, INFINITY);
        check(
            PodTotals {
                cpu_request_milli: 100,
                cpu_limit_milli: Some(500),
                memory_limit_bytes: Some(1 << 25),
            },
            4,
            500_000,
            1 << 25,
        );
    }
}
