//! Single requests: GET, create and LIST of ConfigMaps, delete-collection of pods.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use crate::figure::{Goal, print, quantile};
use crate::http::{Connection, Protocol};
use crate::objects::{CONFIGMAPS, PODS, configmap, make, make_service_account, pod};
use crate::server::{ApiServer, sync_time_us};

const GETS: usize = 5000;
const CREATES: usize = 500;
/// How long many clients create at once.
const SPAN: Duration = Duration::from_secs(3);
const CLIENTS: usize = 64;
const HELD: usize = 10_000;
const LISTS: usize = 20;
const DELETED: usize = 5000;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run() -> Result<()> {
    let api = ApiServer::start().await?;
    for protocol in Protocol::ALL {
        get(&api, protocol).await?;
        create_alone(&api, protocol).await?;
        create_together(&api, protocol).await?;
    }
    drop(api);
    let api = ApiServer::start().await?;
    make(&api.target, CONFIGMAPS, HELD, configmap).await?;
    for protocol in Protocol::ALL {
        list(&api, protocol).await?;
    }
    delete_collection(&api).await
}

async fn get(api: &ApiServer, protocol: Protocol) -> Result<()> {
    let mut connection = api.target.connect(protocol).await?;
    let path = "/api/v1/namespaces/kube-system";
    connection.exchange(Method::GET, path, Bytes::new()).await?;
    let (cpu, mut samples) = (api.cpu_ms()?, Vec::with_capacity(GETS));
    for _ in 0..GETS {
        let begun = Instant::now();
        connection.exchange(Method::GET, path, Bytes::new()).await?;
        samples.push(micros(begun));
    }
    let cpu = (api.cpu_ms()? - cpu) / GETS as f64;
    let name = protocol.name();
    print(&format!("GET, {name}: p50"), quantile(&mut samples, 0.5), "µs", Goal::AtMost(200.0));
    print(&format!("GET, {name}: server CPU"), cpu, "ms", Goal::AtMost(0.04));
    Ok(())
}

async fn create_alone(api: &ApiServer, protocol: Protocol) -> Result<()> {
    let sync = sync_time_us(api.folder(), 4096)?;
    let mut connection = api.target.connect(protocol).await?;
    let (cpu, mut samples) = (api.cpu_ms()?, Vec::with_capacity(CREATES));
    for number in 0..CREATES {
        let body = configmap(&format!("alone-{protocol:?}-{number}").to_lowercase());
        let begun = Instant::now();
        connection.exchange(Method::POST, CONFIGMAPS, body).await?;
        samples.push(micros(begun));
    }
    let cpu = (api.cpu_ms()? - cpu) / CREATES as f64;
    let name = protocol.name();
    print("one write and sync of 4 KiB to this disk: p50", sync, "µs", Goal::None);
    let goal = Goal::AtMost((sync + 500.0).round());
    print(&format!("create 1 KiB, {name}: p50"), quantile(&mut samples, 0.5), "µs", goal);
    print(&format!("create 1 KiB, {name}: CPU, store included"), cpu, "ms", Goal::AtMost(0.2));
    Ok(())
}

async fn create_together(api: &ApiServer, protocol: Protocol) -> Result<()> {
    let shared = api.target.connect(protocol).await?;
    let (cpu, begun) = (api.cpu_ms()?, Instant::now());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let connection = match shared.share() {
            Some(connection) => connection,
            None => api.target.connect(protocol).await?,
        };
        let name = format!("together-{protocol:?}-{client}").to_lowercase();
        clients.spawn(create_until(connection, name, begun + SPAN));
    }
    let mut created = 0;
    while let Some(count) = clients.join_next().await {
        created += count??;
    }
    let rate = created as f64 / begun.elapsed().as_secs_f64();
    let cpu = (api.cpu_ms()? - cpu) / created as f64;
    let what = format!("create 1 KiB, {}, {CLIENTS} clients", protocol.name());
    print(&what, rate, "/s", Goal::AtLeast(4000.0));
    print(&format!("{what}: CPU, store included"), cpu, "ms", Goal::AtMost(0.2));
    Ok(())
}

async fn create_until(mut connection: Connection, name: String, end: Instant) -> Result<usize> {
    let mut created = 0;
    while Instant::now() < end {
        let body = configmap(&format!("{name}-{created}"));
        connection.exchange(Method::POST, CONFIGMAPS, body).await?;
        created += 1;
    }
    Ok(created)
}

async fn list(api: &ApiServer, protocol: Protocol) -> Result<()> {
    let mut connection = api.target.connect(protocol).await?;
    let path = "/api/v1/configmaps";
    let length = connection.exchange(Method::GET, path, Bytes::new()).await?;
    api.forget_peak()?;
    let before = api.resident_kib()?;
    let (cpu, mut samples) = (api.cpu_ms()?, Vec::with_capacity(LISTS));
    for _ in 0..LISTS {
        let begun = Instant::now();
        connection.exchange(Method::GET, path, Bytes::new()).await?;
        samples.push(micros(begun) / 1000.0);
    }
    let cpu = (api.cpu_ms()? - cpu) / LISTS as f64;
    let extra = api.peak_kib()?.saturating_sub(before) as f64 * 1024.0 / length as f64;
    let what = format!("LIST of {HELD} ({:.1} MB), {}", length as f64 / 1e6, protocol.name());
    print(&format!("{what}: p50"), quantile(&mut samples, 0.5), "ms", Goal::AtMost(30.0));
    print(&format!("{what}: server CPU"), cpu, "ms", Goal::AtMost(15.0));
    print(&format!("{what}: more memory, × bytes"), extra, "", Goal::AtMost(1.5));
    Ok(())
}

async fn delete_collection(api: &ApiServer) -> Result<()> {
    make_service_account(&api.target).await?;
    let begun = Instant::now();
    make(&api.target, PODS, DELETED, pod).await?;
    let rate = DELETED as f64 / begun.elapsed().as_secs_f64();
    print("create pods, 16 clients", rate, "/s", Goal::None);
    let mut connection = api.target.connect(Protocol::Http1).await?;
    let (cpu, begun) = (api.cpu_ms()?, Instant::now());
    connection.exchange(Method::DELETE, PODS, Bytes::new()).await?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = (api.cpu_ms()? - cpu) / DELETED as f64;
    print(&format!("delete-collection of {DELETED} pods"), took, "s", Goal::AtMost(3.0));
    print("delete-collection: CPU of a pod, store included", cpu, "ms", Goal::None);
    Ok(())
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}
