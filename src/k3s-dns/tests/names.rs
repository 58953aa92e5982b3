//! Questions as clients ask them, against caches that hold a small cluster.

#![allow(clippy::unwrap_used)]

use client::Lister;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k3s_dns::objects::{EndpointSlice, Service};
use k3s_dns::server::{Shared, serve_tcp, serve_udp};
use k3s_dns::upstream::{Upstream, parse};
use k3s_dns::wire::{Step, Transport, finish, handle};
use k3s_dns::zone::{Zone, service_term};
use netlink::scratch::Scratch;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

fn service(name: &str, spec: Value) -> Service {
    let metadata = json!({"namespace": "default", "name": name});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn cluster(crowd: usize) -> Zone {
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
    let services = vec![
        service(
            "web",
            json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00::7"], "ports": ports}),
        ),
        service("db", json!({"clusterIP": "None", "ports": ports})),
        service("crowd", json!({"clusterIP": "None", "ports": ports})),
        service("empty", json!({"clusterIP": "None", "ports": ports})),
        service("early", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
        service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
        service(
            "loop",
            json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
        ),
        service(
            "in",
            json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
        ),
    ];
    let slice = |of: &str, endpoints: Value| -> EndpointSlice {
        let labels = json!({"kubernetes.io/service-name": of});
        let metadata = json!({"namespace": "default", "name": format!("{of}-1"), "labels": labels});
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
        serde_json::from_value(
            json!({"metadata": metadata, "endpoints": endpoints, "ports": ports}),
        )
        .unwrap()
    };
    let many: Vec<Value> = (0..crowd)
        .map(|n| json!({"addresses": [format!("10.42.{}.{}", n / 250, n % 250)]}))
        .collect();
    let slices = vec![
        slice(
            "db",
            json!([
            {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.6"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.9"], "hostname": "db-9", "conditions": {"ready": false}}]),
        ),
        slice("early", json!([{"addresses": ["10.42.0.8"], "conditions": {"ready": false}}])),
        slice("crowd", json!(many)),
    ];
    let (services, slices) = (Lister::of(services), Lister::of(slices));
    Zone {
        domain: name("cluster.local"),
        services_by_ip: services
            .add_index(|s: &Service| s.cluster_ips().iter().map(IpAddr::to_string).collect()),
        slices_by_ip: slices.add_index(|s: &EndpointSlice| {
            s.endpoints.iter().filter_map(|e| e.addresses.first()).cloned().collect()
        }),
        slices_by_service: slices
            .add_index(|s: &EndpointSlice| s.service().iter().map(service_term).collect()),
        services,
        slices,
        own: vec![Ipv4Addr::new(10, 43, 0, 10).into()],
    }
}

fn query(to: &str, kind: RecordType) -> Message {
    let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name(to), kind));
    query
}

fn ask(zone: &Zone, query: &Message, transport: Transport) -> Message {
    let bytes = query.to_vec().unwrap();
    match handle(&bytes, Some(zone), &zone.domain, transport) {
        Step::Respond(bytes) => Message::from_vec(&bytes).unwrap(),
        Step::Ask(pending) => Message::from_vec(&finish(*pending, None)).unwrap(),
        Step::Ignore => panic!("no answer to {query}"),
    }
}

/// The data of the answers in order, or the error.
fn show(response: &Message) -> String {
    let code = response.metadata.response_code;
    if code != ResponseCode::NoError {
        assert!(response.answers.iter().all(|a| a.record_type() == RecordType::CNAME));
        return code.to_string();
    }
    let data: Vec<String> = response.answers.iter().map(|a| a.data.to_string()).collect();
    data.join(" ")
}

#[test]
fn names_follow_the_schema() {
    let zone = cluster(0);
    let svc = "default.svc.cluster.local";
    use RecordType::{A, AAAA, PTR, SOA, SRV, TXT};
    let no = "Non-Existent Domain";
    let cases = [
        ("web.{svc}", A, "10.43.0.7"),
        ("WEB.Default.svc.CLUSTER.local", A, "10.43.0.7"),
        ("web.{svc}", AAAA, "fd00::7"),
        ("web.{svc}", TXT, ""),
        ("nosuch.{svc}", A, no),
        ("web.other.svc.cluster.local", A, no),
        ("{svc}", A, ""),
        ("other.svc.cluster.local", A, no),
        ("db.{svc}", A, "10.42.0.5 10.42.0.6"),
        ("db-0.db.{svc}", A, "10.42.0.5"),
        ("10-42-0-6.db.{svc}", A, "10.42.0.6"),
        ("db-9.db.{svc}", A, no),
        ("early.{svc}", A, "10.42.0.8"),
        ("empty.{svc}", A, no),
        ("_http._tcp.web.{svc}", SRV, "0 100 80 web.default.svc.cluster.local."),
        ("_http._udp.web.{svc}", SRV, no),
        (
            "_http._tcp.db.{svc}",
            SRV,
            "0 50 8080 10-42-0-6.db.default.svc.cluster.local. 0 50 8080 db-0.db.default.svc.cluster.local.",
        ),
        ("in.{svc}", A, "web.default.svc.cluster.local. 10.43.0.7"),
        ("loop.{svc}", A, "Server Failure"),
        ("1-2-3-4.default.pod.cluster.local", A, "1.2.3.4"),
        ("x.default.pod.cluster.local", A, no),
        ("dns-version.cluster.local", TXT, "1.1.0"),
        ("ns.dns.cluster.local", A, "10.43.0.10"),
        ("7.0.43.10.in-addr.arpa", PTR, "web.default.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa", PTR, "db-0.db.default.svc.cluster.local."),
        ("1.1.1.1.in-addr.arpa", PTR, "Server Failure"),
        ("a.b.c.d.e.f.cluster.local", A, no),
        ("notcluster.local", A, "Server Failure"),
        ("out.{svc}", A, "Server Failure"),
        ("web.{svc}", RecordType::AXFR, "Query Refused"),
    ];
    for (to, kind, want) in cases {
        let to = to.replace("{svc}", svc);
        let response = ask(&zone, &query(&to, kind), Transport::Udp);
        assert_eq!(show(&response), want, "{to} {kind}");
        let negative =
            response.answers.is_empty() && !want.contains("Server") && !want.contains("Refused");
        let has_soa = response.authorities.iter().any(|r| r.record_type() == SOA);
        assert_eq!(negative, has_soa, "{to} {kind}: a \"no\" has the SOA");
    }
}

#[test]
fn answers_that_do_not_fit_say_so() {
    let zone = cluster(400);
    let mut question = query("crowd.default.svc.cluster.local", RecordType::A);
    let plain = ask(&zone, &question, Transport::Udp);
    assert!(plain.metadata.truncation && !plain.answers.is_empty() && plain.edns.is_none());
    assert!(plain.to_vec().unwrap().len() <= 512);
    let tcp = ask(&zone, &question, Transport::Tcp);
    assert_eq!((tcp.metadata.truncation, tcp.answers.len()), (false, 400));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns.clone());
    let big = ask(&zone, &question, Transport::Udp);
    assert!(big.metadata.truncation && big.edns.is_some());
    assert!(big.answers.len() > plain.answers.len());
    edns.set_version(3);
    question.set_edns(edns);
    let bad = ask(&zone, &question, Transport::Udp);
    assert_eq!(bad.edns.as_ref().unwrap().rcode_high(), 1);
}

#[test]
fn until_the_caches_are_complete_cluster_names_fail() {
    let bytes = query("web.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
    let step = handle(&bytes, None, &name("cluster.local"), Transport::Udp);
    let Step::Respond(bytes) = step else { panic!("{step:?}") };
    let response = Message::from_vec(&bytes).unwrap();
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn garbage_never_panics_and_responses_are_never_answered() {
    let zone = cluster(3);
    let good = query("web.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
    let try_one = |bytes: &[u8]| {
        if let Step::Respond(answer) = handle(bytes, Some(&zone), &zone.domain, Transport::Udp) {
            assert!(bytes[2] & 0x80 == 0, "answered a response");
            assert!(Message::from_vec(&answer).is_ok());
        }
    };
    for length in 0..good.len() {
        try_one(&good[..length]);
    }
    // A small generator of its own, so that a failure repeats.
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        try_one(&bytes);
        let noise: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        try_one(&noise);
    }
    for queries in [0, 2] {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        for _ in 0..queries {
            message.add_query(Query::query(name("a.b"), RecordType::A));
        }
        assert_eq!(show(&ask(&zone, &message, Transport::Udp)), "Form Error");
    }
}

#[test]
fn resolvers_are_read_and_our_own_address_is_left_out() {
    let own = [IpAddr::from([10, 43, 0, 10])];
    let text = "# comment\nsearch x\nnameserver 10.43.0.10\nnameserver 192.0.2.1 # first\nnameserver bad\n";
    let got = parse(text, &own);
    assert_eq!(got, ["192.0.2.1:53".parse().unwrap()]);
    assert!(parse("", &own).is_empty());
}

/// Answers over UDP only that it does not fit, and over TCP with a record.
async fn fake_upstream(udp: UdpSocket, tcp: TcpListener) {
    let reply = |bytes: &[u8], full: bool| {
        let mut message = Message::from_vec(bytes).unwrap().into_response();
        message.metadata.truncation = !full;
        if full {
            let to = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(
                to.clone(),
                60,
                RData::A(A(Ipv4Addr::new(192, 0, 2, 80))),
            ));
            message.add_answer(Record::from_rdata(to, 60, RData::TXT(TXT::new(vec!["x".into()]))));
        }
        message.to_vec().unwrap()
    };
    let mut buffer = vec![0; 2048];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let (length, from) = received.unwrap();
                udp.send_to(&reply(&buffer[..length], false), from).await.unwrap();
            }
            accepted = tcp.accept() => {
                let (mut stream, _) = accepted.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; length.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = reply(&bytes, true);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        }
    }
}

#[test]
fn other_names_come_from_upstream_over_real_sockets() {
    let Some(ns) = Scratch::new("dns") else { return };
    ns.sh("ip link set lo up; ip addr add 10.43.0.10/32 dev lo");
    let conf = std::env::temp_dir().join(format!("k3s-dns-{}", std::process::id()));
    std::fs::write(&conf, "nameserver 10.43.0.10\nnameserver 127.0.0.2\n").unwrap();
    let path = conf.clone();
    ns.block_on(async move || {
        let mut tasks = JoinSet::new();
        let udp = UdpSocket::bind("127.0.0.2:53").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.2:53").await.unwrap();
        let upstream = tasks.spawn(fake_upstream(udp, tcp));
        let own: Vec<IpAddr> = vec![[10, 43, 0, 10].into()];
        let shared = Arc::new(Shared {
            domain: name("cluster.local"),
            zone: OnceLock::from(cluster(0)),
            upstream: Upstream::new(path, own),
        });
        let at = "10.43.0.10:53";
        tasks.spawn(serve_udp(UdpSocket::bind(at).await.unwrap(), shared.clone()));
        tasks.spawn(serve_tcp(TcpListener::bind(at).await.unwrap(), shared));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(at).await.unwrap();
        let exchange = async |to: &str| {
            client.send(&query(to, RecordType::A).to_vec().unwrap()).await.unwrap();
            let mut buffer = vec![0; 2048];
            let length = client.recv(&mut buffer).await.unwrap();
            Message::from_vec(&buffer[..length]).unwrap()
        };
        assert_eq!(show(&exchange("www.example.org").await), "192.0.2.80 x");
        assert_eq!(show(&exchange("web.default.svc.cluster.local").await), "10.43.0.7");
        let chased = show(&exchange("out.default.svc.cluster.local").await);
        assert_eq!(chased, "example.org. 192.0.2.80 x");
        // With upstream gone the cache still knows, and new names fail.
        upstream.abort();
        assert_eq!(show(&exchange("WWW.example.org").await), "192.0.2.80 x");
        assert_eq!(show(&exchange("new.example.org").await), "Server Failure");
        // Two queries on one connection.
        let mut stream = TcpStream::connect(at).await.unwrap();
        for _ in 0..2 {
            let bytes = query("db.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
            stream.write_all(&(bytes.len() as u16).to_be_bytes()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 2);
        }
        tasks.shutdown().await;
    });
    std::fs::remove_file(conf).unwrap();
}
