//! Requests that others answer: logs, exec, attach and port-forward by the pod's kubelet, proxies
//! by kubelets, pods and services.
//!
//! An upgrade (SPDY or WebSocket) is handed through whole: we copy bytes both ways and the kubelet
//! speaks the protocol. Knows nothing of it.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use apimachinery::status::Status;
use bytes::Bytes;
use futures::stream;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HOST, HeaderValue, LOCATION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pki::tls::certificates;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use tunnel::Session;

use crate::api_server::ApiServer;
use crate::args::Args;
use crate::body::{Body, text};
use crate::cluster::Cluster;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::rewrite;
use crate::verbs::options::WriteOptions;
use crate::verbs::write::Draft;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a node that can't be reached directly is given to open its tunnel.
const TUNNEL_MAX: Duration = Duration::from_secs(2);
const KUBELET_PORT: u16 = 10250;
/// Larger pages are refused, since they are rewritten as a whole.
const PAGE_MAX: usize = 32 << 20;
const FORWARDED_URI: &str = "x-forwarded-uri";

/// Headers that end at each hop.
const HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Sent = Either<Incoming, Full<Bytes>>;
/// What a request goes over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Serves `log`, `exec`, `attach`, `portforward` and `proxy`.
pub async fn serve(call: &Call<'_>, kind: &Kind, body: Incoming) -> Result<Response<Body>, Status> {
    let info = &call.info;
    match (kind.resource.as_str(), info.subresource.as_str()) {
        ("pods", "log") => {
            let Some((pod, target)) = found(call, kind).await? else {
                // Where nothing runs nothing was logged.
                return Ok(text(StatusCode::OK, ""));
            };
            let container = container(&pod, call)?;
            let path = format!("/containerLogs/{}/{}/{container}", info.namespace, info.name);
            let query = rest_of_query(call, &["container"]);
            forward(call, target, &path, &query, body).await
        }
        ("pods", what @ ("exec" | "attach")) => {
            let (pod, target) = scheduled(call, kind).await?;
            let options = if what == "exec" { "PodExecOptions" } else { "PodAttachOptions" };
            admit(call, kind, options).await?;
            let container = container(&pod, call)?;
            let path = format!("/{what}/{}/{}/{container}", info.namespace, info.name);
            forward(call, target, &path, &stream_query(call), body).await
        }
        ("pods", "portforward") => {
            let (_, target) = scheduled(call, kind).await?;
            admit(call, kind, "PodPortForwardOptions").await?;
            let path = format!("/portForward/{}/{}", info.namespace, info.name);
            let query = rest_of_query(call, &[]).replace("ports=", "port=");
            forward(call, target, &path, &query, body).await
        }
        (_, "proxy") => {
            let mut target = proxied(call, kind).await?;
            let options = match kind.plural.as_str() {
                "nodes" => "NodeProxyOptions",
                "pods" => "PodProxyOptions",
                _ => "ServiceProxyOptions",
            };
            admit(call, kind, options).await?;
            let uri = &call.parts.uri;
            let (prefix, path) = split_proxied(uri.path(), kind.namespaced);
            prefix.clone_into(&mut target.prefix);
            let upgrade = call.parts.headers.contains_key(UPGRADE);
            let looks = matches!(call.parts.method, Method::GET | Method::HEAD);
            match path {
                "" if looks && !upgrade => to_folder(uri),
                "" => forward(call, target, "/", uri.query().unwrap_or_default(), body).await,
                path => forward(call, target, path, uri.query().unwrap_or_default(), body).await,
            }
        }
        _ => Err(Status::no_resource()),
    }
}

/// Lets policies and webhooks judge a connection to a container.
async fn admit(call: &Call<'_>, kind: &Kind, body: &str) -> Result<(), Status> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let mut draft = Draft::new(call, kind, options)?;
    let query = &call.query;
    let mut object = json!({"kind": body, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            object[flag] = true.into();
        }
    }
    match query.text("container") {
        "" => {}
        container => object["container"] = container.into(),
    }
    let all = |name: &str| query.all(name).map(Value::from).collect::<Vec<Value>>();
    match body {
        "PodExecOptions" => object["command"] = all("command").into(),
        "PodPortForwardOptions" => {
            let ports = query.all("ports").filter_map(|port| port.parse::<u16>().ok());
            object["ports"] = ports.collect::<Vec<u16>>().into();
        }
        "PodAttachOptions" => {}
        _ => object["path"] = call.info.rest.as_str().into(),
    }
    draft.connect(["", "v1", body], &call.info.name, &mut object).await
}

/// The path of `…/proxy` itself, and what is behind it as the client wrote it.
fn split_proxied(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/namespaces/N/pods/NAME/proxy or /api/v1/nodes/NAME/proxy
    let above = if namespaced { 7 } else { 5 };
    let end = path.match_indices('/').nth(above).map_or(path.len(), |(at, _)| at);
    path.split_at(end)
}

/// Relative links of a page need its folder's name to end with a slash.
fn to_folder(uri: &Uri) -> Result<Response<Body>, Status> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{}/{query}", uri.path());
    let mut response = Response::new(crate::body::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let target = HeaderValue::from_str(&target).map_err(Status::internal)?;
    response.headers_mut().insert(LOCATION, target);
    Ok(response)
}

/// Where a request goes.
struct Target {
    address: SocketAddr,
    scheme: Scheme,
    /// The node whose tunnel leads there, if it holds one.
    node: Option<String>,
    /// The path below which clients see a proxied server; empty for others.
    prefix: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    /// A pod, whose certificate nobody vouches for.
    Unverified,
    /// A kubelet, with our client certificate.
    Kubelet,
}

/// The pod and its kubelet, which it must have.
async fn scheduled(call: &Call<'_>, kind: &Kind) -> Result<(Value, Target), Status> {
    found(call, kind).await?.ok_or_else(|| {
        Status::bad_request(format!("pod {} does not have a host assigned", call.info.name))
    })
}

/// The pod and its kubelet; none while the pod has no node.
async fn found(call: &Call<'_>, kind: &Kind) -> Result<Option<(Value, Target)>, Status> {
    let server = call.server;
    server.storage.settled().await?;
    let name = &call.info.name;
    let pod = server.cluster.get("pods", &call.info.namespace, name);
    let pod = pod.ok_or_else(|| Status::not_found(kind.about(name)))?.object();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Ok(None);
    }
    let target = kubelet(server, node)?;
    Ok(Some((pod, target)))
}

/// A node's kubelet, by the preferred kinds of addresses.
fn kubelet(server: &ApiServer, node: &str) -> Result<Target, Status> {
    let entry = server.cluster.get("nodes", "", node);
    let entry = entry.ok_or_else(|| {
        Status::internal(format!("error getting node {node}: nodes \"{node}\" not found"))
    })?;
    let object = entry.object();
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
    for wanted in &server.args.kubelet_preferred_address_types {
        for address in addresses.iter().filter(|address| address["type"] == wanted.as_str()) {
            let ip: Option<IpAddr> = address["address"].as_str().and_then(|text| text.parse().ok());
            if let Some(ip) = ip {
                let address = SocketAddr::new(ip, port.unwrap_or(KUBELET_PORT));
                return Ok(Target {
                    address,
                    scheme: Scheme::Kubelet,
                    node: Some(node.to_owned()),
                    prefix: String::new(),
                });
            }
        }
    }
    Err(Status::internal(format!("no preferred addresses found for node {node}")))
}

/// The container that is meant: the one that is named, or the only one.
fn container(pod: &Value, call: &Call<'_>) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = &call.info.name;
    match call.query.text("container") {
        "" => match main.as_slice() {
            [only] => Ok(only.clone()),
            _ => {
                let mut text = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    main.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        },
        wanted => {
            let known = [&main, &init, &ephemeral];
            if known.iter().any(|list| list.iter().any(|have| have == wanted)) {
                return Ok(wanted.to_owned());
            }
            let text = format!("container {wanted} is not valid for pod {name}");
            Err(Status::bad_request(text))
        }
    }
}

/// The parameters but these, as the client wrote them.
fn rest_of_query(call: &Call<'_>, without: &[&str]) -> String {
    let query = call.parts.uri.query().unwrap_or_default();
    let keep = |part: &&str| !without.contains(&part.split('=').next().unwrap_or_default());
    query.split('&').filter(keep).collect::<Vec<_>>().join("&")
}

/// The parameters of exec and attach under the kubelet's names.
fn stream_query(call: &Call<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (ours, kubelets) in
        [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
    {
        if call.query.flag(ours) {
            parts.push(format!("{kubelets}=1"));
        }
    }
    let query = call.parts.uri.query().unwrap_or_default();
    parts.extend(query.split('&').filter(|part| part.starts_with("command=")).map(str::to_owned));
    parts.join("&")
}

/// The other end of `…/proxy`: `[scheme:]name[:port]`.
async fn proxied(call: &Call<'_>, kind: &Kind) -> Result<Target, Status> {
    let server = call.server;
    server.storage.settled().await?;
    let mut parts: Vec<&str> = call.info.name.split(':').collect();
    let scheme = match parts.len() {
        3 if parts.remove(0) == "https" => Scheme::Unverified,
        _ => Scheme::Plain,
    };
    let (name, port) = (parts[0], parts.get(1).copied().unwrap_or_default());
    let namespace = call.info.namespace.as_str();
    let missing = || Status::not_found(kind.about(name));
    match kind.resource.as_str() {
        "nodes" => {
            let mut target = kubelet(server, name)?;
            if let Ok(port) = port.parse() {
                if port != target.address.port() {
                    // Agents open their kubelet's port only.
                    target.node = None;
                }
                target.address.set_port(port);
            }
            Ok(target)
        }
        "pods" => {
            let pod = server.cluster.get("pods", namespace, name).ok_or_else(missing)?.object();
            let ip: Option<IpAddr> =
                pod["status"]["podIP"].as_str().and_then(|text| text.parse().ok());
            let ip = ip.ok_or_else(|| Status::unavailable("address not allowed: no pod IP"))?;
            let first = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
            let port = port.parse().ok().or(first.as_u64().and_then(|port| port.try_into().ok()));
            let address = SocketAddr::new(ip, port.unwrap_or(80));
            Ok(Target { address, scheme, node: None, prefix: String::new() })
        }
        "services" => {
            let service =
                server.cluster.get("services", namespace, name).ok_or_else(missing)?.object();
            let address =
                endpoint(&server.cluster, namespace, name, &service, port).ok_or_else(|| {
                    Status::unavailable(format!("no endpoints available for service \"{name}\""))
                })?;
            Ok(Target { address, scheme, node: None, prefix: String::new() })
        }
        _ => Err(Status::no_resource()),
    }
}

/// A ready endpoint of a service's port, given by number or name.
pub fn endpoint(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    service: &Value,
    port: &str,
) -> Option<SocketAddr> {
    let ports = service["spec"]["ports"].as_array()?;
    let number: Option<u64> = port.parse().ok();
    let wanted = ports.iter().find(|have| {
        port.is_empty()
            || have["name"] == port
            || (number.is_some() && have["port"].as_u64() == number)
    })?;
    let wanted = wanted["name"].as_str().unwrap_or_default();
    for slice in cluster.list("endpointslices.discovery.k8s.io", namespace) {
        if slice.label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let slice = slice.object();
        let port = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|have| have["name"].as_str().unwrap_or_default() == wanted)
            .and_then(|have| have["port"].as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let ready = slice["endpoints"].as_array().into_iter().flatten().find_map(|endpoint| {
            if endpoint["conditions"]["ready"] == false {
                return None;
            }
            endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok()
        });
        if let (Some(port), Some(ip)) = (port, ready) {
            return Some(SocketAddr::new(ip, port));
        }
    }
    None
}

/// Sends the request on and the answer back.
async fn forward(
    call: &Call<'_>,
    target: Target,
    path: &str,
    query: &str,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let address = target.address;
    let failed = |why: String| Status::internal(format!("error dialing backend: {why}"));
    let io = match timeout(CONNECT_MAX, connect(call.server, &target)).await {
        Ok(Ok(io)) => io,
        Ok(Err(err)) => return Err(failed(format!("dial {address}: {err:#}"))),
        Err(_) => return Err(failed(format!("dial {address}: timed out"))),
    };
    let mut headers: HeaderMap = call.parts.headers.clone();
    headers.remove(AUTHORIZATION);
    if !target.prefix.is_empty() {
        // Compressed pages could not be rewritten.
        headers.remove(ACCEPT_ENCODING);
        let seen = format!("{}{path}", target.prefix);
        headers.insert(FORWARDED_URI, HeaderValue::from_str(&seen).map_err(Status::internal)?);
    }
    let host = address.to_string();
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(Status::internal)?);
    relay(call, io, headers, &target.prefix, path, query, body).await
}

/// Sends the request on over a connection, with these headers, and the answer back; what the answer
/// links to gets the prefix, if there is one.
pub async fn relay(
    call: &Call<'_>,
    io: Pin<Box<dyn Io>>,
    headers: HeaderMap,
    prefix: &str,
    path: &str,
    query: &str,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let failed = |why: String| Status::internal(format!("error dialing backend: {why}"));
    let (mut sender, connection) = http1::handshake::<_, Sent>(TokioIo::new(io))
        .await
        .map_err(|err| failed(err.to_string()))?;
    run(call.server, async move {
        if let Err(err) = connection.with_upgrades().await {
            debug!(%err, "Lost a proxied connection");
        }
    });
    let request = outgoing(call, headers, path, query, body)?;
    let mut response = sender.send_request(request).await.map_err(|err| failed(err.to_string()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        join(call, &mut response)?;
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, crate::body::full("")));
    }
    let (mut parts, body) = response.into_parts();
    for name in HOP {
        parts.headers.remove(name);
    }
    if !prefix.is_empty() {
        if let Some(target) = parts.headers.get(LOCATION).and_then(|target| target.to_str().ok()) {
            let target = rewrite::location(target, prefix);
            parts
                .headers
                .insert(LOCATION, HeaderValue::from_str(&target).map_err(Status::internal)?);
        } else if is_page(&parts.headers) && call.parts.method != Method::HEAD {
            let page = Limited::new(body, PAGE_MAX).collect().await;
            let page = page.map_err(|err| failed(format!("reading the page: {err}")))?;
            parts.headers.remove(CONTENT_LENGTH);
            let page = rewrite::html(&page.to_bytes(), prefix);
            return Ok(Response::from_parts(parts, crate::body::full(page)));
        }
    }
    // The sender lives as long as the answer: dropping it ends the connection.
    let pieces = stream::unfold((body, sender), |(mut body, sender)| async move {
        loop {
            let frame = body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some((data, (body, sender)));
            }
        }
    });
    Ok(Response::from_parts(parts, crate::body::stream(pieces)))
}

/// Whether this is HTML that can be read.
fn is_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/html") && text(CONTENT_ENCODING).is_empty()
}

fn outgoing(
    call: &Call<'_>,
    mut headers: HeaderMap,
    path: &str,
    query: &str,
    body: Incoming,
) -> Result<Request<Sent>, Status> {
    let upgrade = headers.get(UPGRADE).cloned();
    let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let uri: Uri = uri.parse().map_err(|_| Status::bad_request("the path cannot be proxied"))?;
    let empty = call.parts.method == Method::GET || upgrade.is_some();
    let body = if empty { Either::Right(Full::default()) } else { Either::Left(body) };
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = uri;
    for name in HOP {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// Copies bytes both ways between the two upgraded connections until both have ended.
fn join(call: &Call<'_>, response: &mut Response<Incoming>) -> Result<(), Status> {
    let ours = call.parts.extensions.get::<OnUpgrade>().cloned();
    let ours =
        ours.ok_or_else(|| Status::bad_request("the connection cannot be upgraded: use HTTP/1.1"))?;
    let theirs = hyper::upgrade::on(response);
    run(call.server, async move {
        let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        if let Err(err) = copy_bidirectional(&mut ours, &mut theirs).await {
            debug!(%err, "Lost an upgraded connection");
        }
    });
    Ok(())
}

/// A task that lives longer than its request, in the server's set.
pub fn run(server: &Arc<ApiServer>, task: impl Future<Output = ()> + Send + 'static) {
    let mut tunnels = server.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
    while tunnels.try_join_next().is_some() {}
    tunnels.spawn(task);
}

async fn connect(server: &ApiServer, target: &Target) -> anyhow::Result<Pin<Box<dyn Io>>> {
    let stream = reach(server, target).await?;
    if target.scheme == Scheme::Plain {
        return Ok(stream);
    }
    let config = match target.scheme {
        Scheme::Kubelet => client_config(&server.args)?,
        _ => unverified()?,
    };
    let config = Arc::new(config);
    let name = ServerName::IpAddress(target.address.ip().into());
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
    Ok(Box::pin(stream))
}

/// Through the node's tunnel when it holds one, else directly. An agent behind NAT can't be reached
/// directly, and after a restart of this server its tunnel takes a moment: whichever comes first.
async fn reach(server: &ApiServer, target: &Target) -> anyhow::Result<Pin<Box<dyn Io>>> {
    let Some(node) = &target.node else { return direct(target.address).await };
    let open = |session: Session| -> anyhow::Result<Pin<Box<dyn Io>>> {
        Ok(Box::pin(session.open(&format!("tcp/127.0.0.1:{}", target.address.port()))?))
    };
    if let Some(session) = server.agents.session(node) {
        return open(session);
    }
    tokio::select! {
        direct = direct(target.address) => match direct {
            Ok(stream) => Ok(stream),
            Err(err) => match timeout(TUNNEL_MAX, server.agents.connected(node)).await {
                Ok(session) => open(session),
                Err(_) => Err(err),
            },
        },
        session = server.agents.connected(node) => open(session),
    }
}

async fn direct(address: SocketAddr) -> anyhow::Result<Pin<Box<dyn Io>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::pin(stream))
}

/// TLS towards pods.
fn unverified() -> anyhow::Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pki::anyone())
        .with_no_client_auth())
}

/// TLS towards kubelets; read for each connection, so renewed certificates are used at once.
fn client_config(args: &Args) -> anyhow::Result<rustls::ClientConfig> {
    let missing = |flag: &str| anyhow::anyhow!("{flag} is not set");
    let ca = args.kubelet_certificate_authority.as_ref();
    let ca = ca.ok_or_else(|| missing("--kubelet-certificate-authority"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&args.kubelet_client_certificate, &args.kubelet_client_key)
    else {
        return Err(missing("--kubelet-client-certificate"));
    };
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|err| anyhow::anyhow!("read key {}: {err}", key.display()))?;
    Ok(builder.with_client_auth_cert(certificates(cert)?, key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_proxy_stays_as_it_was_written() {
        let check = |path: &str, namespaced: bool, want: (&str, &str)| {
            assert_eq!(split_proxied(path, namespaced), want);
        };
        let pod = "/api/v1/namespaces/n/pods/https:p:443/proxy";
        check(pod, true, (pod, ""));
        check(&format!("{pod}/"), true, (pod, "/"));
        check(&format!("{pod}/a%20b//c/"), true, (pod, "/a%20b//c/"));
        let node = "/api/v1/nodes/n/proxy";
        check(node, false, (node, ""));
        check(&format!("{node}/stats/summary"), false, (node, "/stats/summary"));
    }
}
