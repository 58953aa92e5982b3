//! The CNI calls of a runtime, answered in a namespace that plays the node.

#![allow(clippy::unwrap_used)]

use k3s_flannel::cni::attach::{Attacher, mac_of};
use k3s_flannel::cni::ipam::Ipam;
use k3s_flannel::cni::protocol::{Answer, Call};
use k3s_flannel::cni::server::{Shared, serve};
use k3s_flannel::mesh;
use k3s_flannel::network::Network;
use k3s_flannel::node::{Backend, Peer, Reach};
use k3s_flannel::underlay::{self, Wish};
use netlink::Netlink;
use netlink::scratch::Scratch;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"k3s-cni"}"#;

async fn call(socket: &Path, command: &str, container: &str, netns: &Path) -> Answer {
    let netns = netns.to_string_lossy();
    let env = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", container),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", &netns),
    ];
    let env = env.map(|(k, v)| (k.to_string(), v.to_string())).into();
    let call = Call { env, config: CONFIG.into() };
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(&serde_json::to_vec(&call).unwrap()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// A daemon with its network, until the token is cancelled.
async fn daemon(dir: PathBuf, stop: CancellationToken, tasks: &mut JoinSet<()>) {
    let (netlink, driver) = Netlink::connect().unwrap();
    tasks.spawn(driver);
    let network = Network { pod_cidr: "10.42.7.0/24".parse().unwrap(), mtu: 1450 };
    network.ensure_bridge(&netlink).await.unwrap();
    network.ensure_bridge(&netlink).await.unwrap();
    netlink::sysctl::ensure("net.ipv4.ip_forward", "1").unwrap();
    let ipam = Ipam::open(&dir.join("leases"), "boot").unwrap();
    let socket = dir.join("cni.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    let (sender, receiver) = watch::channel(Some(network));
    let attacher = Arc::new(Attacher::new(netlink, ipam));
    let shared = Shared { attacher, network: receiver };
    tasks.spawn(async move {
        serve(listener, shared, stop).await;
        drop(sender);
    });
}

#[test]
fn twenty_pods_at_once_reach_each_other_and_are_deleted_twice() {
    let Some(node) = Scratch::new("pods") else { return };
    let pods: Vec<Scratch> = (0..20).filter_map(|n| Scratch::new(&format!("pod{n}"))).collect();
    let paths: Vec<PathBuf> = pods.iter().map(Scratch::path).collect();
    let dir = std::env::temp_dir().join(format!("k3s-pods-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (socket, home) = (dir.join("cni.sock"), dir.clone());
    let held = paths.clone();
    let took = node.block_on(async move || {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        daemon(home.clone(), stop.clone(), &mut tasks).await;
        let started = Instant::now();
        let mut calls = JoinSet::new();
        for (n, path) in paths.iter().enumerate() {
            let (socket, path) = (socket.clone(), path.clone());
            calls.spawn(async move { call(&socket, "ADD", &format!("pod{n}"), &path).await });
        }
        let answers = calls.join_all().await;
        let took = started.elapsed();
        for answer in &answers {
            assert!(!answer.failed, "{}", answer.stdout);
            let result: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
            assert_eq!(result["interfaces"][2]["name"], "eth0");
        }
        let check = call(&socket, "CHECK", "pod3", &paths[3]).await;
        assert!(!check.failed, "{}", check.stdout);
        // ADD again, as after a crash of the runtime: the pod keeps working.
        assert!(!call(&socket, "ADD", "pod3", &paths[3]).await.failed);
        stop.cancel();
        tasks.shutdown().await;
        took
    });
    eprintln!("20 pods attached in {took:?}");
    let address = |n: usize| {
        let text = pods[n].sh("ip -4 -o addr show dev eth0");
        text.split_whitespace().nth(3).unwrap().trim_end_matches("/32").to_string()
    };
    let to = address(3);
    let ping = pods[5].sh(&format!("busybox ping -c 2 -W 2 {to}"));
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    let gateway = pods[5].sh("busybox ping -c 1 -W 2 10.42.7.1");
    assert!(gateway.contains(" 0% packet loss"), "{gateway}");
    assert!(pods[5].sh("ip link show eth0").contains("mtu 1450"));
    let (socket, home, gone) = (dir.join("cni.sock"), dir.clone(), held.clone());
    drop(pods);
    node.block_on(async move || {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        // The leases are read back; the namespaces are gone.
        daemon(home.clone(), stop.clone(), &mut tasks).await;
        for (n, path) in gone.iter().enumerate() {
            for _ in 0..2 {
                let answer = call(&socket, "DEL", &format!("pod{n}"), path).await;
                assert!(!answer.failed, "{}", answer.stdout);
            }
        }
        let check = call(&socket, "CHECK", "pod3", &gone[3]).await;
        assert!(check.failed);
        assert!(Ipam::open(&home.join("leases"), "boot").unwrap().is_empty());
        stop.cancel();
        tasks.shutdown().await;
    });
    assert!(!node.sh("ip -o link").contains("veth"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_firewall_table_is_accepted_and_replaced() {
    let Some(node) = Scratch::new("fw") else { return };
    node.block_on(async || {
        let cluster = "10.42.0.0/16".parse().unwrap();
        let own = "10.42.7.0/24".parse().unwrap();
        for _ in 0..2 {
            let table = k3s_flannel::firewall::table(cluster, own);
            netlink::nft::apply(&table).await.unwrap();
        }
    });
    let rules = node.sh("nft list table ip k3s-flannel");
    assert_eq!(rules.matches("masquerade fully-random").count(), 2, "{rules}");
}

/// Two nodes as flannel sees them: own range, address, and the other one as a peer.
async fn join_mesh(
    own: &str,
    ip: [u8; 4],
    peer_cidr: &str,
    peer_ip: [u8; 4],
    backend: Backend,
) -> [u8; 6] {
    let (netlink, driver) = Netlink::connect().unwrap();
    let work = async {
        let wish = Wish { node_ip: Some(ip.into()), iface: None };
        let underlay = underlay::find(&netlink, &wish).await?.expect("the link is there");
        let network =
            Network { pod_cidr: own.parse().unwrap(), mtu: mesh::mtu(backend, Some(&underlay)) };
        network.ensure_bridge(&netlink).await?;
        let tunnel =
            mesh::ensure_tunnel(&netlink, backend, Some(&underlay), network.pod_cidr).await?;
        // The test gives tunnels the addresses that follow from the nodes', so that each knows the other's.
        let reach = match &tunnel {
            Some(_) => {
                netlink.ensure_mac(mesh::VXLAN, mac_of(ip.into())).await?;
                Reach::Vxlan { vtep_mac: mac_of(peer_ip.into()) }
            }
            None => Reach::HostGw,
        };
        let peer = Peer { pod_cidr: peer_cidr.parse().unwrap(), public_ip: peer_ip.into(), reach };
        let index = tunnel.map(|(index, _)| index);
        for peers in [vec![], vec![peer.clone()], vec![peer]] {
            let want = mesh::plan(&peers, network.pod_cidr, index, Some(underlay.link));
            mesh::apply(&netlink, &want, index).await?;
        }
        Ok(mac_of(ip.into()))
    };
    netlink::drive(driver, work).await.unwrap()
}

fn check_mesh(backend: Backend) {
    let names = [format!("m1{backend:?}"), format!("m2{backend:?}")];
    let nodes: Vec<Scratch> = names.iter().filter_map(|name| Scratch::new(name)).collect();
    let [one, two] = nodes.as_slice() else { return };
    let peer = two.path().file_name().unwrap().to_string_lossy().into_owned();
    one.sh(&format!("ip link add eth0 type veth peer name eth0 netns {peer}"));
    for (node, ip) in [(one, "192.0.2.1"), (two, "192.0.2.2")] {
        node.sh(&format!("ip link set lo up; ip addr add {ip}/24 dev eth0; ip link set eth0 up; sysctl -qw net.ipv4.ip_forward=1"));
    }
    let (a, b) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    one.block_on(async move || join_mesh("10.42.0.0/24", a, "10.42.1.0/24", b, backend).await);
    two.block_on(async move || join_mesh("10.42.1.0/24", b, "10.42.0.0/24", a, backend).await);
    let ping = one.sh("busybox ping -c 2 -W 3 -I 10.42.0.1 10.42.1.1");
    assert!(
        ping.contains(" 0% packet loss"),
        "{backend:?}: {ping}\n{}",
        one.sh("ip addr; ip route; bridge fdb show dev flannel.1")
    );
}

#[test]
fn nodes_reach_each_other_through_the_tunnel() {
    check_mesh(Backend::Vxlan);
}

#[test]
fn nodes_reach_each_other_through_routes() {
    check_mesh(Backend::HostGw);
}
