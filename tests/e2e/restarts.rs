//! Restarts under load: nobody who talks to the cluster may notice that a component was restarted.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Step;
use crate::cluster::{Cluster, PATIENCE, components, kill, kubectl};
use crate::load::{self, Progress};

pub(super) const STEPS: &[Step] =
    &[("no request is lost through ten restarts of the API server and of the store", under_load)];

const RESTARTS: usize = 10;

fn under_load(cluster: &mut Cluster) -> Result<()> {
    let address = "127.0.0.1:6443".parse()?;
    load::during(Path::new("/etc/rancher/k3s/k3s.yaml"), address, |load| {
        restart_all(cluster, load)
    })?;
    kubectl(&["delete", "configmaps", "-l", load::LABEL]).map(drop)
}

fn restart_all(cluster: &mut Cluster, load: &Progress) -> Result<()> {
    for round in 0..RESTARTS {
        for name in ["k3s-apiserver", "k3s-store"] {
            let pid = pid_of(name)?;
            kill(pid, Signal::TERM)?;
            cluster
                .wait("a new process that is ready", PATIENCE, || {
                    Ok(pid_of(name).is_ok_and(|new| new != 0 && new != pid)
                        && kubectl(&["get", "--raw", "/readyz"])?.trim() == "ok")
                })
                .and_then(|()| load.settle())
                .with_context(|| format!("{name}, round {round}"))?;
        }
    }
    Ok(())
}

fn pid_of(name: &str) -> Result<u32> {
    let all = components()?;
    all.into_iter().find(|(have, _)| have == name).map(|(_, pid)| pid).context("no such component")
}
