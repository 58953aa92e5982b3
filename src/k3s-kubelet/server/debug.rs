//! What looks into pods: logs, exec, attach, port-forward, run, and the pod list.

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::runtime_stream::upgrade;
use super::streaming::{self, PORT_FORWARD, Wanted};
use super::{Body, Server, body, failure, json, logs, query, text, websocket};
use crate::config::Config;
use crate::cri::rpc_error;
use crate::cri::runtime::{AttachRequest, ExecRequest};
use crate::manager::{Known, Pods};
use crate::pod::labels::PodNames as _;
use crate::pod::state::{ContainerView, Life};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// All pods of this node with their statuses.
pub(super) fn pods(pods: &Pods) -> Response<Body> {
    let items: Vec<serde_json::Value> = pods
        .list()
        .into_iter()
        .filter_map(|known| {
            let mut pod = k8s_openapi::api::core::v1::Pod::clone(&known.pod);
            pod.status = Some(known.view.borrow().status.clone());
            serde_json::to_value(pod).ok()
        })
        .collect();
    json(&serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items
    }))
}

/// The configuration in effect, in the words of KubeletConfiguration.
pub(super) fn configz(config: &Config) -> Response<Body> {
    json(&serde_json::json!({"kubeletconfig": {
        "address": config.address, "port": config.port,
        "clusterDNS": config.cluster_dns, "clusterDomain": config.cluster_domain,
        "cgroupDriver": match config.cgroup_driver {
            crate::pod::resources::CgroupDriver::Cgroupfs => "cgroupfs",
            crate::pod::resources::CgroupDriver::Systemd => "systemd",
        },
        "cgroupRoot": config.cgroup_root, "maxPods": config.max_pods,
        "containerRuntimeEndpoint": config.runtime_endpoint,
        "evictionHard": config.eviction_hard,
        "staticPodPath": config.pod_manifest_path,
        "resolvConf": config.resolv_conf,
        "containerLogMaxSize": config.log_bytes_max.to_string(),
        "containerLogMaxFiles": config.log_files_max,
        "imageGCHighThresholdPercent": config.image_gc_high_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_percent,
        "serializeImagePulls": config.serialize_image_pulls,
    }}))
}

fn header_list(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

fn is_upgrade(headers: &HeaderMap, to: &str) -> bool {
    header_list(headers, "upgrade").iter().any(|value| value.eq_ignore_ascii_case(to))
}

/// The answer that turns the connection into a WebSocket.
fn switch_to_websocket(headers: &HeaderMap, protocol: &str) -> Option<Response<Body>> {
    let key = headers.get("sec-websocket-key")?;
    let accept = derive_accept_key(key.as_bytes());
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", accept);
    if !protocol.is_empty() {
        response = response.header("sec-websocket-protocol", protocol);
    }
    response.body(body("")).ok()
}

impl Server {
    fn find(&self, namespace: &str, pod: &str) -> Result<Known, Box<Response<Body>>> {
        self.pods.find(namespace, pod).ok_or_else(|| {
            let message = format!("pod \"{pod}\" does not exist in namespace \"{namespace}\"");
            Box::new(failure(StatusCode::NOT_FOUND, &message))
        })
    }

    fn running(&self, known: &Known, name: &str) -> Result<ContainerView, Box<Response<Body>>> {
        let view = known.view.borrow();
        let found = view.observed.newest(name).filter(|view| view.life == Life::Running);
        found.cloned().ok_or_else(|| {
            let message = format!("container not found (\"{name}\")");
            Box::new(failure(StatusCode::NOT_FOUND, &message))
        })
    }

    pub(super) async fn container_logs(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Response<Body> {
        let known = match self.find(namespace, pod) {
            Ok(known) => known,
            Err(response) => return *response,
        };
        let options = match logs::options(&query(request.uri()), Timestamp::now()) {
            Ok(options) => options,
            Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
        };
        let chosen = choose_log(&known, container, options.previous);
        let (id, path) = match chosen {
            Ok(chosen) => chosen,
            Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
        };
        let (sender, receiver) = mpsc::channel(64);
        let view = known.view.clone();
        let sent = self.streams.spawn(async move {
            if let Err(err) = logs::send(path.into(), options, id, view, sender).await {
                tracing::debug!(err = %format!("{err:#}"), "Log ended with an error");
            }
        });
        if let Err(err) = sent {
            return failure(StatusCode::SERVICE_UNAVAILABLE, &err.to_string());
        }
        if is_upgrade(request.headers(), "websocket") {
            let offered = header_list(request.headers(), "sec-websocket-protocol");
            let Some((name, plain)) = websocket::choose_plain(&offered) else {
                let message = format!("unable to negotiate protocol: client supports {offered:?}");
                return failure(StatusCode::FORBIDDEN, &message);
            };
            let Some(response) = switch_to_websocket(request.headers(), name) else {
                return failure(StatusCode::BAD_REQUEST, "not a WebSocket handshake");
            };
            return self
                .upgraded(request, response, move |io| websocket::send_all(io, plain, receiver));
        }
        let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let frames = futures::StreamExt::map(frames, |bytes| Ok(Frame::data(bytes)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        let plain = header::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }

    pub(super) async fn run(
        &self,
        request: &Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Response<Body> {
        let found = self.find(namespace, pod).and_then(|known| self.running(&known, container));
        let view = match found {
            Ok(view) => view,
            Err(response) => return *response,
        };
        let cmd = query(request.uri()).into_iter().find(|(key, _)| key == "cmd");
        let command: Vec<String> =
            cmd.iter().flat_map(|(_, cmd)| cmd.split(' ').map(str::to_owned)).collect();
        let ran = self
            .shared
            .runtime
            .exec_sync(&view.id, &command, std::time::Duration::from_secs(60))
            .await;
        match ran {
            Ok(answer) => {
                let mut output = answer.stdout;
                output.extend(answer.stderr);
                text(String::from_utf8_lossy(&output))
            }
            Err(err) => failure(StatusCode::INTERNAL_SERVER_ERROR, &rpc_error(&err)),
        }
    }

    pub(super) async fn remote_command(
        &self,
        request: Request<Incoming>,
        kind: &str,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Response<Body> {
        let found = self.find(namespace, pod).and_then(|known| self.running(&known, container));
        let view = match found {
            Ok(view) => view,
            Err(response) => return *response,
        };
        let pairs = query(request.uri());
        let on = |names: &[&str]| {
            pairs.iter().any(|(key, value)| {
                names.contains(&key.as_str()) && matches!(value.as_str(), "1" | "true")
            })
        };
        let wanted = Wanted {
            stdin: on(&["input", "stdin"]),
            stdout: on(&["output", "stdout"]),
            stderr: on(&["error", "stderr"]),
            tty: on(&["tty"]),
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return failure(StatusCode::BAD_REQUEST, message);
        }
        // With a terminal there is only one output stream.
        let stderr = wanted.stderr && !wanted.tty;
        let url = if kind == "exec" {
            let commands = pairs.iter().filter(|(key, _)| key == "command");
            self.shared
                .runtime
                .exec(ExecRequest {
                    container_id: view.id,
                    cmd: commands.map(|(_, value)| value.clone()).collect(),
                    tty: wanted.tty,
                    stdin: wanted.stdin,
                    stdout: wanted.stdout,
                    stderr,
                })
                .await
        } else {
            self.shared
                .runtime
                .attach(AttachRequest {
                    container_id: view.id,
                    stdin: wanted.stdin,
                    tty: wanted.tty,
                    stdout: wanted.stdout,
                    stderr,
                })
                .await
        };
        let url = match url {
            Ok(url) => url,
            Err(err) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &rpc_error(&err)),
        };
        if is_upgrade(request.headers(), "websocket") {
            let offered = header_list(request.headers(), "sec-websocket-protocol");
            let Some(protocol) = websocket::choose(&offered) else {
                let message = format!("unable to negotiate protocol: client supports {offered:?}");
                return failure(StatusCode::FORBIDDEN, &message);
            };
            let Some(response) = switch_to_websocket(request.headers(), protocol.name) else {
                return failure(StatusCode::BAD_REQUEST, "not a WebSocket handshake");
            };
            return self.upgraded(request, response, move |io| {
                streaming::remote_command(io, protocol, url, wanted)
            });
        }
        self.pass_through(request, &url).await
    }

    pub(super) async fn port_forward(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
    ) -> Response<Body> {
        let known = match self.find(namespace, pod) {
            Ok(known) => known,
            Err(response) => return *response,
        };
        let sandbox = known.view.borrow().observed.sandbox().map(|sandbox| sandbox.id.clone());
        let Some(sandbox) = sandbox else {
            let message = format!("unable to find sandbox of pod {}", known.pod.format());
            return failure(StatusCode::INTERNAL_SERVER_ERROR, &message);
        };
        let url = match self.shared.runtime.port_forward(&sandbox).await {
            Ok(url) => url,
            Err(err) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &rpc_error(&err)),
        };
        if !is_upgrade(request.headers(), "websocket") {
            return self.pass_through(request, &url).await;
        }
        let offered = header_list(request.headers(), "sec-websocket-protocol");
        let refused = || failure(StatusCode::BAD_REQUEST, "not a WebSocket handshake");
        if offered.iter().any(|name| name == TUNNEL) {
            let Some(response) = switch_to_websocket(request.headers(), TUNNEL) else {
                return refused();
            };
            let upgraded = match upgrade(&url, &[PORT_FORWARD]).await {
                Ok(upgraded) => upgraded,
                Err(err) => return failure(StatusCode::BAD_GATEWAY, &format!("{err:#}")),
            };
            return self.upgraded(request, response, move |io| {
                streaming::tunnel_in_websocket(io, upgraded.io)
            });
        }
        let pairs = query(request.uri());
        let ports: Result<Vec<u16>, _> = pairs
            .iter()
            .filter(|(key, _)| matches!(key.as_str(), "port" | "ports"))
            .flat_map(|(_, value)| value.split(','))
            .map(str::parse)
            .collect();
        let (Ok(ports), Some(protocol)) = (ports, websocket::choose(&offered)) else {
            return failure(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
        };
        if ports.is_empty() || ports.len() > 64 {
            return failure(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
        }
        let Some(response) = switch_to_websocket(request.headers(), protocol.name) else {
            return refused();
        };
        self.upgraded(request, response, move |io| {
            streaming::forward_ports(io, protocol, url, ports)
        })
    }

    /// SPDY from end to end: the client's protocol is the runtime's.
    async fn pass_through(&self, request: Request<Incoming>, url: &str) -> Response<Body> {
        if !is_upgrade(request.headers(), "SPDY/3.1") {
            return failure(StatusCode::BAD_REQUEST, "Upgrade request required");
        }
        let offered = header_list(request.headers(), "x-stream-protocol-version");
        let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
        let upgraded = match upgrade(url, &offered).await {
            Ok(upgraded) => upgraded,
            Err(err) => return failure(StatusCode::BAD_GATEWAY, &format!("{err:#}")),
        };
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1");
        if !upgraded.protocol.is_empty() {
            response = response.header("x-stream-protocol-version", &upgraded.protocol);
        }
        match response.body(body("")) {
            Ok(response) => {
                self.upgraded(request, response, move |io| streaming::tunnel(io, upgraded.io))
            }
            Err(err) => failure(StatusCode::BAD_GATEWAY, &err.to_string()),
        }
    }

    /// Answers, and once the connection is switched runs `serve` on it.
    fn upgraded<F, S>(
        &self,
        request: Request<Incoming>,
        response: Response<Body>,
        serve: F,
    ) -> Response<Body>
    where
        F: FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let spawned = self.streams.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(io) => serve(TokioIo::new(io)).await,
                Err(err) => tracing::debug!(%err, "Connection was not upgraded"),
            }
        });
        match spawned {
            Ok(()) => response,
            Err(err) => failure(StatusCode::SERVICE_UNAVAILABLE, &err.to_string()),
        }
    }
}

/// The container and its log file, or why there is none.
fn choose_log(known: &Known, name: &str, previous: bool) -> Result<(String, String), String> {
    let pod = known.pod.name();
    let declared = crate::pod::container::entries(&known.pod);
    if !declared.iter().any(|entry| entry.container.name == name) {
        return Err(format!("container {name} is not valid for pod {pod}"));
    }
    let view = known.view.borrow();
    let views = view.observed.containers.get(name).map(Vec::as_slice).unwrap_or_default();
    if previous {
        let ended = views.iter().skip(1).find(|view| view.life == Life::Exited).or_else(|| {
            // A container that waits for its restart has its last run in front.
            views.first().filter(|view| view.life == Life::Exited)
        });
        return match ended {
            Some(view) => Ok((view.id.clone(), view.log_path.clone())),
            None => {
                Err(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))
            }
        };
    }
    if let Some(view) = views.first() {
        return Ok((view.id.clone(), view.log_path.clone()));
    }
    let status = &view.status;
    let waiting = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten()
        .find(|status| status.name == name)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.clone()).unwrap_or_default();
    let why = match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
        other => other.to_owned(),
    };
    Err(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {why}"))
}
