//! What must survive: the death of every component, and of the whole server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::workload::{available, fetch, httpd_processes};
use super::{LOG, Step};
use crate::cluster::{Cluster, PATIENCE, components, kill, kubectl};

pub(super) const STEPS: &[Step] = &[
    ("every component is on the bus and ready", all_ready),
    ("every component may be killed once", kill_each),
    ("the server stops within ten seconds and pods keep running", stop),
    ("a restarted server finds all objects and pods where they were", come_back),
];

fn all_ready(cluster: &mut Cluster) -> Result<()> {
    cluster.wait("all components", PATIENCE, || {
        let down: Vec<_> = components()?.into_iter().filter(|(_, pid)| *pid == 0).collect();
        ensure!(down.is_empty(), "{down:?} are not on the bus");
        Ok(true)
    })
}

fn kill_each(cluster: &mut Cluster) -> Result<()> {
    let pods = placement()?;
    for (name, pid) in components()? {
        kill(pid, Signal::KILL).with_context(|| name.clone())?;
        cluster
            .wait("a new process", PATIENCE, || {
                Ok(components()?
                    .iter()
                    .any(|(other, new)| *other == name && *new != 0 && *new != pid))
            })
            .with_context(|| name.clone())?;
        converges(cluster).with_context(|| format!("after the death of {name}"))?;
    }
    ensure!(placement()? == pods, "pods changed: {:?}, were {pods:?}", placement()?);
    Ok(())
}

/// A change goes all the way through every component.
fn converges(cluster: &mut Cluster) -> Result<()> {
    let scale = |count: &str| kubectl(&["scale", "deployment/web", &format!("--replicas={count}")]);
    cluster.wait("the API", PATIENCE, || scale("4").map(|_| true))?;
    available(cluster, "web", "4")?;
    cluster.wait("the Service", PATIENCE, || Ok(fetch("http://web/")?.starts_with("goodbye")))?;
    scale("3")?;
    cluster.wait("three pods", PATIENCE, || Ok(super::workload::pod_names()?.len() == 3))
}

/// Pods with their container ids and restart counts: what must not change.
fn placement() -> Result<BTreeMap<String, String>> {
    let jsonpath = "jsonpath={range .items[*]}{.metadata.name}={.status.podIP},\
                    {.status.containerStatuses[0].containerID},\
                    {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let text = kubectl(&["get", "pods", "-o", jsonpath])?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect())
}

fn stop(cluster: &mut Cluster) -> Result<()> {
    let processes = httpd_processes()?;
    let took = cluster.stop()?;
    ensure!(took < Duration::from_secs(10), "stopping took {took:?}");
    ensure!(processes == httpd_processes()?, "pods did not keep running");
    Ok(())
}

fn come_back(cluster: &mut Cluster) -> Result<()> {
    let before = httpd_processes()?;
    ensure!(!before.is_empty(), "no pod was left running");
    *cluster = Cluster::start(Path::new(LOG))?;
    cluster.api_ready()?;
    cluster.node_ready()?;
    available(cluster, "web", "3")?;
    cluster.wait("the Service", PATIENCE, || Ok(fetch("http://web/")?.starts_with("goodbye")))?;
    ensure!(before == httpd_processes()?, "containers were restarted");
    Ok(())
}
