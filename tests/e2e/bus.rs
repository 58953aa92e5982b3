//! The message bus: every interface is the described one, and what it commands is done.
//!
//! Invariant: the descriptions in `units/dbus-1/interfaces` are what the running components answer
//! to an introspection; `GENERATE=1` writes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Serialize;
use zbus::{Connection, Proxy};

use super::Step;
use super::workload::{available, client};
use crate::cluster::{Cluster, PATIENCE, components, kill, kubectl, run};

pub(super) const STEPS: &[Step] = &[
    ("every interface on the bus is the described one", described),
    ("log levels change at run time, the store is copied and compacted over D-Bus", commanded),
    ("components outlive the message bus and come back to it", bus_restarts),
    ("a node is drained and comes back over D-Bus", drained),
];

const OBJECT: &str = "/io/k3s";
const NAMES: [&str; 9] = [
    "io.k3s.ApiServer1",
    "io.k3s.ControllerManager1",
    "io.k3s.Dns1",
    "io.k3s.Flannel1",
    "io.k3s.Kubelet1",
    "io.k3s.Proxy1",
    "io.k3s.Scheduler1",
    "io.k3s.Server1",
    "io.k3s.Store1",
];

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn connect() -> Result<Connection> {
    let address = "unix:path=/run/k3s/bus.sock";
    Ok(zbus::connection::Builder::address(address).build().await?)
}

fn described(_: &mut Cluster) -> Result<()> {
    let mut found = BTreeMap::new();
    for name in NAMES {
        let xml = block_on(async {
            let bus = connect().await?;
            let proxy =
                Proxy::new(&bus, name, OBJECT, "org.freedesktop.DBus.Introspectable").await?;
            Ok(proxy.call::<_, _, String>("Introspect", &()).await?)
        });
        interfaces(&xml.context(name)?, &mut found);
    }
    let folder = Path::new("units/dbus-1/interfaces");
    for (name, xml) in &found {
        let path = folder.join(format!("{name}.xml"));
        if std::env::var_os("GENERATE").is_some() {
            fs::create_dir_all(folder)?;
            fs::write(&path, xml)?;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        ensure!(committed == *xml, "{name}: run this with GENERATE=1 and commit it");
    }
    let files = fs::read_dir(folder)?.count();
    ensure!(files == found.len(), "{files} files describe {} interfaces", found.len());
    Ok(())
}

/// Our interfaces in an introspection, each as a document of its own.
fn interfaces(xml: &str, found: &mut BTreeMap<String, String>) {
    for part in xml.split("<interface name=\"").skip(1) {
        let Some((name, rest)) = part.split_once('"') else { continue };
        let Some((body, _)) = rest.split_once("</interface>") else { continue };
        if name.starts_with("io.k3s.") {
            let document = format!(
                "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n\
                 <node>\n  <interface name=\"{name}\"{body}</interface>\n</node>\n"
            );
            found.insert(name.to_owned(), document);
        }
    }
}

/// Calls a method without an answer.
fn call(
    name: &str,
    interface: &str,
    method: &str,
    body: &(impl Serialize + zbus::Type),
) -> Result<()> {
    block_on(async {
        let bus = connect().await?;
        let proxy = Proxy::new(&bus, name, OBJECT, interface).await?;
        proxy.call_method(method, body).await.with_context(|| format!("{interface}.{method}"))?;
        Ok(())
    })
}

fn text(name: &str, interface: &str, property: &str) -> Result<String> {
    block_on(async {
        let bus = connect().await?;
        let proxy = Proxy::new(&bus, name, OBJECT, interface).await?;
        Ok(proxy.get_property::<String>(property).await?)
    })
}

fn commanded(_: &mut Cluster) -> Result<()> {
    let (name, component) = ("io.k3s.Scheduler1", "io.k3s.Component1");
    call(name, component, "SetLogLevel", &("debug",))?;
    ensure!(text(name, component, "LogLevel")? == "debug");
    ensure!(call(name, component, "SetLogLevel", &("loud",)).is_err());
    call(name, component, "SetLogLevel", &("info",))?;
    ensure!(call(name, component, "Reload", &()).is_err(), "there is nothing to read again");

    let copy = "/var/lib/rancher/snapshot.db";
    call("io.k3s.Store1", "io.k3s.Store1", "Snapshot", &(copy,))?;
    ensure!(fs::read(copy)?.starts_with(b"SQLite format 3\0"), "{copy} is no database");
    ensure!(call("io.k3s.Store1", "io.k3s.Store1", "Snapshot", &("relative",)).is_err());
    call("io.k3s.Store1", "io.k3s.Store1", "Compact", &())
}

fn bus_restarts(cluster: &mut Cluster) -> Result<()> {
    let before = components()?;
    let bus =
        || Ok::<_, anyhow::Error>(run(Command::new("pidof").arg("dbus-daemon"))?.trim().parse()?);
    let old: u32 = bus()?;
    kill(old, Signal::KILL)?;
    cluster.wait("everybody on the new bus", PATIENCE, || {
        for name in NAMES {
            let health = text(name, "io.k3s.Component1", "Health").context(name)?;
            ensure!(health == "ok", "{name}: {health}");
        }
        Ok(bus()? != old)
    })?;
    ensure!(components()? == before, "the bus took a component with it");
    // What components serve beside the common interface is there again, and works.
    ensure!(text("io.k3s.Flannel1", "io.k3s.Flannel1", "PodCIDR")?.contains('/'));
    call("io.k3s.Store1", "io.k3s.Store1", "Compact", &())?;
    cluster.node_ready().map(drop)
}

fn drained(cluster: &mut Cluster) -> Result<()> {
    let (name, kubelet) = ("io.k3s.Kubelet1", "io.k3s.Kubelet1");
    let unschedulable =
        || kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"]);
    kubectl(&[
        "create",
        "deployment",
        "leaves",
        "--image",
        crate::cluster::IMAGE,
        "--",
        "sh",
        "-c",
        "trap exit TERM; while :; do sleep 1; done",
    ])?;
    available(cluster, "leaves", "1")?;
    call(name, kubelet, "Cordon", &())?;
    ensure!(unschedulable()? == "true");
    call(name, kubelet, "Drain", &())?;
    cluster.wait("the node to be empty", PATIENCE, || {
        Ok(text(name, kubelet, "Draining")? == "drained")
    })?;
    call(name, kubelet, "Uncordon", &())?;
    ensure!(unschedulable()?.is_empty());
    ensure!(text(name, kubelet, "Draining")?.is_empty());
    available(cluster, "leaves", "1")?;
    kubectl(&["delete", "deployment", "leaves", "--wait=false"])?;
    // Nobody brings a bare pod back.
    client()
}
