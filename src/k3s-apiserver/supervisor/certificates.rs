//! Certificates for agents: the agent sends a request for its key, the server decides what the
//! certificate says.
//!
//! Invariant: a certificate with a node's name in it is issued only to who has that node's password,
//! or already is that node; none is issued for a name or an address of a server.

use std::net::{IpAddr, Ipv4Addr};

use apimachinery::status::Status;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use pki::{Authority, Leaf};

use super::{Call, node_password};
use crate::auth::node::node_name;
use crate::body::{Body, text};
use crate::filter::read_all;

/// A certificate that agents may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    ServingKubelet,
    ClientKubelet,
    /// A client certificate for this user, the same on every node.
    Client(&'static str),
}

/// The certificate that a path stands for.
pub(super) fn wanted(path: &str) -> Option<Wanted> {
    Some(match path {
        "serving-kubelet.crt" => Wanted::ServingKubelet,
        "client-kubelet.crt" => Wanted::ClientKubelet,
        "client-kube-proxy.crt" => Wanted::Client("system:kube-proxy"),
        "client-k3s-controller.crt" => Wanted::Client("system:k3s-controller"),
        "client-k3s-dns.crt" => Wanted::Client("system:k3s-dns"),
        _ => return None,
    })
}

/// Issues it: PEM of the certificate, then of its authority.
pub(super) async fn issue(
    call: &Call<'_>,
    wanted: Wanted,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    call.method(&Method::POST)?;
    let (leaf, authority) = match wanted {
        Wanted::Client(user) => (Leaf::client(user, ""), "client-ca"),
        Wanted::ClientKubelet => {
            let node = identify(call).await?;
            (Leaf::client(format!("system:node:{node}"), "system:nodes"), "client-ca")
        }
        Wanted::ServingKubelet => {
            let node = identify(call).await?;
            let ips = addresses(call.header("k3s-node-ip"))?;
            if let Some(ip) = ips.iter().skip(1).find(|ip| servers(call).ips.contains(ip)) {
                let why =
                    format!("the address {ip} is a server's, give the node its own: --node-ip");
                return Err(Status::new(403, "Forbidden", why));
            }
            let names = vec![node.clone(), "localhost".to_owned()];
            (Leaf::server(node, names, ips), "server-ca")
        }
    };
    let request = read_all(body).await?;
    let (cert, key) = (
        call.dir.join(format!("tls/{authority}.crt")),
        call.dir.join(format!("tls/{authority}.key")),
    );
    let now = call.server.now().as_second();
    let authority = Authority::open(&cert, &key)
        .map_err(|err| Status::internal(format!("using the authority: {err:#}")))?;
    let pem = authority
        .issue_for(&leaf, &request, now)
        .map_err(|err| Status::bad_request(format!("{err:#}")))?;
    Ok(text(StatusCode::OK, pem))
}

/// The node that asks, proven by its password.
async fn identify(call: &Call<'_>) -> Result<String, Status> {
    let name = call.header("k3s-node-name").to_lowercase();
    let password = call.header("k3s-node-password");
    if name.is_empty() {
        return Err(Status::bad_request("node name not set"));
    }
    if !is_node_name(&name) {
        return Err(Status::bad_request(format!("{name:?} is no name for a node")));
    }
    if password.is_empty() {
        return Err(Status::bad_request("node password not set"));
    }
    if let Some(certified) = node_name(&call.user) {
        if certified != name {
            let why = "header node name does not match auth node name";
            return Err(Status::bad_request(why));
        }
        // The certificate of a node that was deleted must not bring it back.
        call.server.storage.settled().await?;
        if call.server.cluster.get("nodes", "", &name).is_none() {
            return Err(Status::unauthorized());
        }
    }
    if servers(call).dns.contains(&name) {
        return Err(node_password::refused(&name, "is a name of a server"));
    }
    call.ready()?;
    node_password::ensure(call, &name, password).await?;
    Ok(name)
}

/// The names and addresses of servers: whoever could get a certificate for one could pass for the
/// API server. Without a certificate to read there are none.
fn servers(call: &Call<'_>) -> Leaf {
    let path = call.server.args.tls_cert_file.as_deref();
    let read = path.and_then(|path| std::fs::read_to_string(path).ok());
    let leaf = read.and_then(|pem| pki::leaf_of(&pem).ok());
    leaf.unwrap_or_else(|| Leaf::server("", Vec::new(), Vec::new()))
}

/// RFC 1123, as Node names must be.
fn is_node_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
}

/// The loopback address, and those that the agent says it has.
fn addresses(header: &str) -> Result<Vec<IpAddr>, Status> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    for text in header.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let ip = text.parse();
        all.push(ip.map_err(|_| Status::bad_request(format!("invalid node IP address {text}")))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_addresses_are_read() {
        let check = |header: &str, expected: Option<usize>| {
            assert_eq!(addresses(header).ok().map(|all| all.len()), expected, "{header}");
        };
        check("", Some(1));
        check("192.0.2.1", Some(2));
        check("192.0.2.1, 2001:db8::1", Some(3));
        check("nonsense", None);
    }

    #[test]
    fn node_names_cannot_smuggle() {
        for good in ["a", "node-1", "a.b.c"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/../b", "a,b", "A"] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
