//! Real packets through the real rules: a node, two endpoints, a pod that is a client, and a client
//! outside, each a network namespace.

#![allow(clippy::unwrap_used)]

use k3s_proxy::claims::{Claims, Owner};
use k3s_proxy::kernel::{Applied, Kernel};
use k3s_proxy::objects::{EndpointSlice, Pod, Service};
use k3s_proxy::plan::{self, Place};
use k3s_proxy::table::Settings;
use netlink::scratch::Scratch;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A namespace that is routed by the node: `10.42.0.N` for pods, `192.0.2.N` outside.
fn attach(node: &Scratch, host: &Scratch, name: &str, ip: &str) {
    let path = host.path();
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let out = node.sh(&format!(
        "ip link add {name} type veth peer name eth0 netns {file} && ip link set {name} up \
         && ip addr add 169.254.1.1/32 dev {name} && ip route add {ip}/32 dev {name}"
    ));
    assert_eq!(out, "", "{out}");
    let out = host.sh(&format!(
        "ip link set lo up; ip addr add {ip}/32 dev eth0; ip link set eth0 up; \
         ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1"
    ));
    assert_eq!(out, "", "{out}");
}

struct Server(Child, std::path::PathBuf);

impl Server {
    /// Answers every request with `name`.
    fn start(host: &Scratch, name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("k3s-proxy-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("index.html"), name).unwrap();
        let net = format!("--net={}", host.path().display());
        let home = dir.to_string_lossy().into_owned();
        let child = Command::new("nsenter")
            .args([&net, "busybox", "httpd", "-f", "-p", "8080", "-h", &home])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, dir)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn service(spec: Value) -> Service {
    let mut all = json!({"clusterIP": "10.43.0.10", "type": "NodePort",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let metadata = json!({"namespace": "default", "name": "web"});
    serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap()
}

fn slice(ips: &[(&str, &str)]) -> Vec<Arc<EndpointSlice>> {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    let slice = json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]});
    vec![Arc::new(serde_json::from_value(slice).unwrap())]
}

fn here() -> Place {
    Place { node: "n1".into(), zone: "z1".into() }
}

fn settings() -> Settings {
    Settings {
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        nodeport_addresses: Vec::new(),
    }
}

fn web() -> Owner {
    Owner::Service(client::Key::new("default", "web"))
}

/// The body that `to` answers with, or what went wrong.
fn fetch(host: &Scratch, to: &str) -> String {
    fetch_within(Duration::from_secs(10), host, to)
}

fn fetch_within(wait: Duration, host: &Scratch, to: &str) -> String {
    use std::io::{Read, Write};
    let to: std::net::SocketAddr = to.parse().unwrap();
    let fetch = move || {
        let mut stream = std::net::TcpStream::connect_timeout(&to, wait)?;
        stream.set_read_timeout(Some(wait))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    match host.block_on(async move || fetch()) {
        Ok(answer) => answer.split("\r\n\r\n").nth(1).unwrap_or("?").into(),
        Err(err) => err.kind().to_string(),
    }
}

fn fetch_times(times: usize, host: &Scratch, to: &str) -> String {
    (0..times).map(|_| fetch(host, to)).collect()
}

#[test]
fn packets_follow_services() {
    let Some(node) = Scratch::new("px-node") else { return };
    let names = ["px-a", "px-b", "px-c", "px-out"];
    let hosts: Vec<Scratch> = names.iter().filter_map(|name| Scratch::new(name)).collect();
    let [a, b, client, outside] = hosts.as_slice() else { return };
    node.sh("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1; ip addr add 192.0.2.1/32 dev lo");
    for (n, (host, ip)) in
        [(a, "10.42.0.2"), (b, "10.42.0.3"), (client, "10.42.0.4"), (outside, "198.51.100.9")]
            .into_iter()
            .enumerate()
    {
        attach(&node, host, &format!("v{n}"), ip);
    }
    // As on any node: the address of a service has a route, if only the default one.
    assert_eq!(node.sh("ip route add default dev v3"), "");
    let _servers = (Server::start(a, "a"), Server::start(b, "b"));
    let patience = Instant::now() + Duration::from_secs(30);
    for (to, body) in [("10.42.0.2:8080", "a"), ("10.42.0.3:8080", "b")] {
        while fetch(&node, to) != body {
            assert!(Instant::now() < patience, "{to} does not listen");
            std::thread::yield_now();
        }
    }
    // The table with no endpoint: refused at once, from a pod, the node, and outside.
    let (mut claims, mut kernel) = (Claims::default(), Kernel::new(settings()));
    claims.set(web(), plan::service(&service(json!({})), &[], &here()));
    let (mut claims, mut kernel) = node.block_on(async move || {
        kernel.replace(&claims).await.unwrap();
        (claims, kernel)
    });
    for (host, to) in
        [(client, "10.43.0.10:80"), (&node, "10.43.0.10:80"), (outside, "192.0.2.1:30080")]
    {
        let text = fetch(host, to);
        assert!(text.contains("refused"), "{to}: {text}");
    }
    // Two endpoints appear, by element.
    let both = slice(&[("10.42.0.2", "n1"), ("10.42.0.3", "n2")]);
    let changes = claims.set(web(), plan::service(&service(json!({})), &both, &here()));
    (claims, kernel) = node.block_on(async move || {
        let started = Instant::now();
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::ByElement);
        eprintln!("one change took {:?}", started.elapsed());
        (claims, kernel)
    });
    for (host, to) in [
        (client, "10.43.0.10:80"),
        (&node, "10.43.0.10:80"),
        (outside, "192.0.2.1:30080"),
        (client, "192.0.2.1:30080"),
        (&node, "192.0.2.1:30080"),
    ] {
        // So many that chance does not leave one of two out.
        let text = fetch_times(40, host, to);
        let (of_a, of_b) = (text.matches('a').count(), text.matches('b').count());
        assert!(
            of_a > 0 && of_b > 0 && of_a + of_b == 40,
            "{to}: {text}\n{}",
            node.sh("nft list ruleset")
        );
    }
    // A pod that reaches itself.
    let text = fetch_times(8, a, "10.43.0.10:80");
    assert_eq!(text.len(), 8, "{text}");
    // A host port.
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "p"},
        "spec": {"containers": [{"ports": [{"containerPort": 8080, "hostPort": 9090}]}]},
        "status": {"phase": "Running", "podIP": "10.42.0.2"}}))
        .unwrap();
    let owner = Owner::Pod(client::Key::new("default", "p"));
    let changes = claims.set(owner, plan::pod(&pod));
    // And the external policy Local, with session affinity.
    let local = service(json!({"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "externalIPs": ["203.0.113.5"]}));
    let more = claims.set(web(), plan::service(&local, &both, &here()));
    (claims, kernel) = node.block_on(async move || {
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::ByElement);
        assert_eq!(kernel.change(&claims, &more).await.unwrap(), Applied::ByElement);
        (claims, kernel)
    });
    for host in [outside, client, &node] {
        assert_eq!(fetch(host, "192.0.2.1:9090"), "a");
    }
    let eight = |host: &Scratch, to: &str| fetch_times(8, host, to);
    for to in ["192.0.2.1:30080", "203.0.113.5:80"] {
        assert_eq!(eight(outside, to), "aaaaaaaa", "{to}");
    }
    let sticky = eight(client, "10.43.0.10:80");
    assert!(sticky == "aaaaaaaa" || sticky == "bbbbbbbb", "{sticky}");
    // The client's endpoint goes: it is sent to the one that is left.
    let left = if sticky.starts_with('a') { ("10.42.0.3", "b") } else { ("10.42.0.2", "a") };
    let one = slice(&[(left.0, "n2")]);
    let changes = claims.set(web(), plan::service(&local, &one, &here()));
    (claims, kernel) = node.block_on(async move || {
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::ByElement);
        (claims, kernel)
    });
    assert_eq!(eight(client, "10.43.0.10:80"), left.1.repeat(8));
    // Not this node's endpoint: silence for those outside, service for pods.
    let text = fetch_within(Duration::from_secs(2), outside, "192.0.2.1:30080");
    assert!(text.contains("timed out"), "{text}");
    assert_eq!(eight(client, "203.0.113.5:80"), left.1.repeat(8));
    // A load balancer that only some may use, by element.
    let mut guarded = service(json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]}));
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
    guarded.status = serde_json::from_value(ingress).unwrap();
    let changes = claims.set(web(), plan::service(&guarded, &both, &here()));
    (claims, kernel) = node.block_on(async move || {
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::ByElement);
        (claims, kernel)
    });
    assert_eq!(eight(outside, "203.0.113.7:80").len(), 8);
    let text = fetch_within(Duration::from_secs(2), client, "203.0.113.7:80");
    assert!(text.contains("timed out"), "{text}");
    assert_eq!(eight(client, "10.43.0.10:80").len(), 8);
    // Somebody destroys the table: the next change brings it back.
    node.sh("nft delete table ip k3s-proxy");
    let changes = claims.set(web(), plan::service(&local, &both, &here()));
    node.block_on(async move || {
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::Whole);
    });
    assert_eq!(eight(outside, "192.0.2.1:30080"), "aaaaaaaa");
    node.block_on(async || k3s_proxy::kernel::cleanup().await.unwrap());
    assert_eq!(node.sh("nft list ruleset"), "");
}

/// Prints how long a large cluster takes. One change costs a small part of the whole table.
#[test]
fn ten_thousand_services_are_quick() {
    let Some(node) = Scratch::new("px-many") else { return };
    let mut claims = Claims::default();
    let started = Instant::now();
    for n in 0..10_000u32 {
        let (high, low) = (n / 250, n % 250);
        let spec = json!({"clusterIP": format!("10.43.{high}.{low}")});
        let mut service = service(spec);
        service.spec.ports[0].node_port = if n < 2000 { 30_000 + n as u16 } else { 0 };
        let (a, b) = (format!("10.42.{high}.{low}"), format!("10.44.{high}.{low}"));
        let endpoints = slice(&[(&a, "n1"), (&b, "n2")]);
        let owner = Owner::Service(client::Key::new("default", format!("s{n}")));
        claims.set(owner, plan::service(&service, &endpoints, &here()));
    }
    let planned = started.elapsed();
    node.block_on(async move || {
        let mut kernel = Kernel::new(settings());
        let started = Instant::now();
        kernel.replace(&claims).await.unwrap();
        let whole = started.elapsed();
        let owner = Owner::Service(client::Key::new("default", "s77"));
        let three = slice(&[("10.42.0.7", "n1"), ("10.42.0.8", "n1"), ("10.42.0.9", "n1")]);
        let service = service(json!({"clusterIP": "10.43.0.77"}));
        let started = Instant::now();
        let changes = claims.set(owner, plan::service(&service, &three, &here()));
        assert_eq!(kernel.change(&claims, &changes).await.unwrap(), Applied::ByElement);
        let one = started.elapsed();
        eprintln!("10 000 services: plan {planned:?}, whole table {whole:?}, one change {one:?}");
        assert!(one < whole / 4);
    });
}
