//! k3s-dns: the cluster's DNS server, on every node, at the cluster DNS address on `lo`.
//!
//! Watches Services and EndpointSlices and answers from them; other names go to the node's
//! resolvers. Invariant: ready means that cluster names are answered from complete caches.

pub mod cache;
pub mod objects;
pub mod server;
pub mod upstream;
pub mod wire;
pub mod zone;

use crate::objects::{EndpointSlice, SERVICES, SLICES, Service};
use crate::server::Shared;
use crate::upstream::Upstream;
use crate::zone::{Zone, service_term};
use anyhow::{Context as _, Result, anyhow};
use client::Reflector;
use daemon::{Component, ConfigError, Context, Listener, bind_tcp, bind_udp};
use hickory_proto::rr::Name;
use netlink::{IpNetwork, Netlink};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

pub const COMPONENT: Component = Component { name: "k3s-dns", bus: "io.k3s.Dns1" };

/// Flags of `k3s-dns`.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Identity for the API server.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/rancher/k3s/agent/dns.kubeconfig")]
    pub kubeconfig: PathBuf,
    /// Addresses to answer on; put on `lo`.
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "10.43.0.10")]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster's names.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// File that names the resolvers for all other names.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

pub async fn run(cx: Context, args: Args) -> Result<()> {
    let mut domain = Name::from_ascii(&args.cluster_domain)
        .map_err(|err| ConfigError(format!("--cluster-domain {}: {err}", args.cluster_domain)))?
        .to_lowercase();
    domain.set_fqdn(true);
    let client = client::connect(&args.kubeconfig)
        .await
        .map_err(|err| ConfigError(format!("{}: {err:#}", args.kubeconfig.display())))?;
    let (netlink, driver) = Netlink::connect().context("netlink socket")?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(async move {
        driver.await;
        Err(anyhow!("the netlink connection was closed"))
    });
    for ip in &args.cluster_dns {
        netlink.ensure_up("lo", None).await?;
        netlink.ensure_address("lo", IpNetwork::from(*ip)).await?;
    }
    let shared = Arc::new(Shared {
        domain: domain.clone(),
        zone: OnceLock::new(),
        upstream: Upstream::new(args.resolv_conf.clone(), args.cluster_dns.clone()),
    });
    let held = serve(&cx, &args, &shared, &mut tasks)?;

    let services: Reflector<Service> = Reflector::new(client.clone(), SERVICES);
    let slices: Reflector<EndpointSlice> = Reflector::new(client, SLICES);
    let zone = zone(domain, &services, &slices, args.cluster_dns.clone());
    tasks.spawn(watch(services.clone(), cx.clone()));
    tasks.spawn(watch(slices.clone(), cx.clone()));
    cx.status("Waiting for the API server");
    let work = async {
        tokio::join!(services.synced(), slices.synced());
        // Nobody else sets it.
        let _ = shared.zone.set(zone);
        cx.status(format!("Answering for {}", args.cluster_domain));
        cx.ready();
        match tasks.join_next().await {
            Some(ended) => ended.context("a task ended badly")?,
            None => Ok(()),
        }
    };
    let result = tokio::select! {
        () = cx.stop.cancelled() => Ok(()),
        result = work => result,
    };
    // Whoever holds the sockets starts us again: until then questions wait instead of failing.
    if held == Held::ByUs {
        for ip in &args.cluster_dns {
            netlink.delete_address("lo", IpNetwork::from(*ip)).await?;
        }
    }
    tasks.shutdown().await;
    result
}

/// Who the sockets belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    ByUs,
    BySupervisor,
}

async fn watch<T>(reflector: Reflector<T>, cx: Context) -> Result<()>
where
    T: client::HasMeta + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    reflector.run(cx.stop.clone()).await;
    Ok(())
}

fn zone(
    domain: Name,
    services: &Reflector<Service>,
    slices: &Reflector<EndpointSlice>,
    own: Vec<IpAddr>,
) -> Zone {
    let ips = |service: &Service| service.cluster_ips().iter().map(IpAddr::to_string).collect();
    let endpoint_ips = |slice: &EndpointSlice| {
        let firsts = slice.endpoints.iter().filter_map(|endpoint| endpoint.addresses.first());
        firsts.cloned().collect()
    };
    Zone {
        domain,
        services: services.lister(),
        slices: slices.lister(),
        services_by_ip: services.add_index(ips),
        slices_by_ip: slices.add_index(endpoint_ips),
        slices_by_service: slices
            .add_index(|slice| slice.service().iter().map(service_term).collect()),
        own,
    }
}

/// The passed sockets, else our own on the cluster DNS addresses.
fn serve(
    cx: &Context,
    args: &Args,
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Held> {
    let passed = std::iter::from_fn(|| cx.listener("dns"));
    let mut sockets: Vec<Listener> = passed.collect();
    let held = if sockets.is_empty() { Held::ByUs } else { Held::BySupervisor };
    if held == Held::ByUs {
        for ip in &args.cluster_dns {
            let at = SocketAddr::new(*ip, 53);
            sockets.push(bind_udp(at)?);
            sockets.push(bind_tcp(at)?);
        }
    }
    for socket in sockets {
        let shared = shared.clone();
        match socket {
            Listener::Udp(socket) => {
                let socket = UdpSocket::from_std(socket)?;
                tasks.spawn(async move {
                    server::serve_udp(socket, shared).await;
                    Ok(())
                });
            }
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                tasks.spawn(async move {
                    server::serve_tcp(listener, shared).await;
                    Ok(())
                });
            }
            Listener::Unix(_) => {
                let text = "the socket dns must be a UDP or TCP socket";
                return Err(ConfigError(text.into()).into());
            }
        }
    }
    Ok(held)
}
