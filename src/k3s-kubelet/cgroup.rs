//! Pod cgroups: limits over all containers of a pod, on cgroup v1 and v2.
//!
//! With the systemd driver they are systemd's (`slice.rs`), else folders of ours. Invariant: a pod's cgroup is only ever removed, never
//! emptied by force: processes are the runtime's business.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;

use crate::config::Config;
use crate::pod::resources::{CgroupDriver, cgroup_parent, pod_totals, quota, shares, weight};
use crate::slice;

pub(crate) const ROOT: &str = "/sys/fs/cgroup";
const V1: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "systemd"];
const V2_CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

/// Makes the pod's cgroup and sets its limits.
pub(crate) async fn ensure(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    match config.cgroup_driver {
        CgroupDriver::Systemd => slice::ensure(pod, config).await,
        CgroupDriver::Cgroupfs => make_folders(pod, config),
    }
}

/// Removes the pod's cgroup with the empty ones the runtime left below it.
pub(crate) async fn remove(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    match config.cgroup_driver {
        CgroupDriver::Systemd => slice::remove(pod, config).await,
        CgroupDriver::Cgroupfs => remove_folders(pod, config),
    }
}

/// Where the kernel keeps the pod's account of memory.
pub(crate) fn memory_folder(pod: &Pod, config: &Config) -> PathBuf {
    let name = cgroup_parent(pod, &config.cgroup_root, config.cgroup_driver);
    let below = match config.cgroup_driver {
        CgroupDriver::Systemd => slice::path_of(&name),
        CgroupDriver::Cgroupfs => PathBuf::from(name.trim_start_matches('/')),
    };
    Path::new(ROOT).join(if config.cgroup_v2 { "" } else { "memory" }).join(below)
}

fn make_folders(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    let name = cgroup_parent(pod, &config.cgroup_root, config.cgroup_driver);
    let totals = pod_totals(pod);
    let name = name.trim_start_matches('/');
    if config.cgroup_v2 {
        let path = make_v2(name)?;
        set(&path, "cpu.weight", &weight(totals.cpu_request_milli).to_string())?;
        if let Some(limit) = totals.cpu_limit_milli {
            set(&path, "cpu.max", &format!("{} 100000", quota(limit)))?;
        }
        if let Some(limit) = totals.memory_limit_bytes {
            set(&path, "memory.max", &limit.to_string())?;
        }
        return Ok(());
    }
    let cpu = Path::new(ROOT).join("cpu").join(name);
    make(&cpu)?;
    set(&cpu, "cpu.shares", &shares(totals.cpu_request_milli).to_string())?;
    if let Some(limit) = totals.cpu_limit_milli {
        set(&cpu, "cpu.cfs_quota_us", &quota(limit).to_string())?;
    }
    let memory = Path::new(ROOT).join("memory").join(name);
    make(&memory)?;
    if let Some(limit) = totals.memory_limit_bytes {
        set(&memory, "memory.limit_in_bytes", &limit.to_string())?;
    }
    Ok(())
}

fn make(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating cgroup {}", path.display()))
}

fn set(path: &Path, file: &str, value: &str) -> anyhow::Result<()> {
    let path = path.join(file);
    fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
}

/// Makes every directory on the way and hands its controllers down.
fn make_v2(name: &str) -> anyhow::Result<PathBuf> {
    let mut path = PathBuf::from(ROOT);
    for part in name.split('/').filter(|part| !part.is_empty()) {
        let available = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_whitespace().filter(|c| V2_CONTROLLERS.contains(c)) {
            // One at a time: a controller that cannot be handed down must not hold up the others.
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        path.push(part);
        make(&path)?;
    }
    Ok(path)
}

fn remove_folders(pod: &Pod, config: &Config) -> anyhow::Result<()> {
    let name = cgroup_parent(pod, &config.cgroup_root, config.cgroup_driver);
    let name = name.trim_start_matches('/');
    let hierarchies: Vec<PathBuf> = if config.cgroup_v2 {
        vec![PathBuf::from(ROOT)]
    } else {
        V1.iter().map(|controller| Path::new(ROOT).join(controller)).collect()
    };
    for hierarchy in hierarchies {
        remove_tree(&hierarchy.join(name))?;
    }
    Ok(())
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("removing cgroup {}", path.display()))
}
