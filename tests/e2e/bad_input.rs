//! What no honest client sends: each is refused with a clear 4xx, soon, and leaves nothing behind
//! in the server's memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Step;
use crate::cluster::{Cluster, components};

pub(super) const STEPS: &[Step] = &[("bad input is refused in bounded memory and time", bad_input)];

const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: usize = 1 << 20;
/// What the server may have more after all of it, and the time that one refusal may take.
const GROWTH_MAX_KIB: u64 = 96 << 10;
const SLOW: Duration = Duration::from_secs(20);

/// Method, path, content type, body, and the codes that are right.
type Case = (&'static str, String, &'static str, Vec<u8>, &'static [u16]);

fn cases() -> Vec<Case> {
    let json = "application/json";
    let map = |data: &str| {
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"bad"}},{data}}}"#)
    };
    let nested = format!(r#""data":{}{}"#, r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..20 {
        let before = format!("*a{}", n - 1);
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    let twice = map(r#""data":{"a":"1","a":"2"}"#);
    let operations = vec![json!({"op": "add", "path": "/data/a", "value": "b"}); 10_001];
    let copies: Vec<Value> =
        (0..64).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/x"})).collect();
    let patch = "application/json-patch+json";
    let one = format!("{OBJECTS}/kube-root-ca.crt");
    let token = |path: &str| format!("{OBJECTS}?limit=1&continue={path}");
    vec![
        ("POST", OBJECTS.to_owned(), json, vec![b' '; 3 * MIB + 1], &[413]),
        ("POST", OBJECTS.to_owned(), json, map(&nested).into_bytes(), &[400]),
        ("POST", OBJECTS.to_owned(), json, vec![b'['; MIB], &[400]),
        ("POST", OBJECTS.to_owned(), "application/yaml", bomb.into_bytes(), &[400]),
        ("POST", OBJECTS.to_owned(), json, b"{\"kind\":\"\xff\xfe\"}".to_vec(), &[400]),
        ("POST", format!("{OBJECTS}?fieldValidation=Strict"), json, twice.into_bytes(), &[400]),
        (
            "POST",
            OBJECTS.to_owned(),
            "application/vnd.kubernetes.protobuf",
            vec![0xff; 1000],
            &[400],
        ),
        ("POST", OBJECTS.to_owned(), "text/plain", b"x".to_vec(), &[400, 415]),
        ("PATCH", one.clone(), patch, json!(operations).to_string().into_bytes(), &[413]),
        ("PATCH", one.clone(), patch, json!(copies).to_string().into_bytes(), &[400, 422]),
        ("PATCH", one, "application/strategic-merge-patch+json", vec![b'{'; MIB], &[400]),
        ("GET", token("forged"), json, Vec::new(), &[400]),
        (
            "GET",
            token(
                "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6OTIyMzM3MjAzNjg1NDc3NTgwNywic3RhcnQiOiIuLi8uLi94In0",
            ),
            json,
            Vec::new(),
            &[400, 410],
        ),
        ("GET", format!("{OBJECTS}?limit=x"), json, Vec::new(), &[400]),
        ("GET", format!("{OBJECTS}?limit=99999999999999999999"), json, Vec::new(), &[400]),
        ("GET", format!("{OBJECTS}?labelSelector=%28%28%28"), json, Vec::new(), &[400]),
        (
            "GET",
            format!("{OBJECTS}?labelSelector={}", "a".repeat(40_000)),
            json,
            Vec::new(),
            &[400, 414, 431],
        ),
    ]
}

fn bad_input(_: &mut Cluster) -> Result<()> {
    let before = memory()?;
    refused()?;
    garbage()?;
    let after = memory()?;
    ensure!(
        after < before + GROWTH_MAX_KIB,
        "the API server grew from {before} KiB to {after} KiB"
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn refused() -> Result<()> {
    let client = client::connect(Path::new("/etc/rancher/k3s/k3s.yaml")).await?;
    for (method, path, kind, body, right) in cases() {
        let begun = Instant::now();
        let (size, shown) = (body.len(), path.chars().take(80).collect::<String>());
        let request = http::Request::builder()
            .method(method)
            .uri(&path)
            .header("Content-Type", kind)
            .header("Accept", "application/json")
            .body(kube::client::Body::from(body))?;
        // Who answers before it has read everything may close the connection on the writer.
        let answered = tokio::time::timeout(SLOW, client.send(request)).await;
        let answered =
            answered.with_context(|| format!("{method} {shown}: no answer in {SLOW:?}"))?;
        let code = match answered {
            Ok(response) => response.status().as_u16(),
            Err(_) if size > 3 * MIB => 413,
            Err(err) => return Err(err).with_context(|| format!("{method} {shown}")),
        };
        ensure!(
            right.contains(&code),
            "{method} {shown} with {size} bytes of {kind}: {code}, not {right:?}"
        );
        ensure!(begun.elapsed() < SLOW, "{method} {shown} took {:?}", begun.elapsed());
    }
    Ok(())
}

/// Connections that speak no TLS, or nothing at all.
fn garbage() -> Result<()> {
    let ends = |first: &[u8]| -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect("127.0.0.1:6443")?;
        stream.set_read_timeout(Some(SLOW))?;
        stream.write_all(first)?;
        let mut rest = Vec::new();
        // Reset or ended: either way it is over.
        let _over = stream.read_to_end(&mut rest);
        Ok(begun.elapsed())
    };
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0xff; 4096], b""] {
        let took = ends(first)?;
        ensure!(took < SLOW, "a connection with {} bytes of garbage lasted {took:?}", first.len());
    }
    // Many at once do not keep others from being served.
    let held: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect("127.0.0.1:6443")).collect::<std::io::Result<_>>()?;
    let begun = Instant::now();
    crate::cluster::kubectl(&["get", "--raw", "/readyz"])?;
    ensure!(begun.elapsed() < SLOW, "slow clients held up another for {:?}", begun.elapsed());
    drop(held);
    Ok(())
}

/// The anonymous memory of the API server, in KiB.
fn memory() -> Result<u64> {
    let all = components()?;
    let (_, pid) = all.iter().find(|(name, _)| name == "k3s-apiserver").context("no API server")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("RssAnon")?;
    Ok(number.parse()?)
}
