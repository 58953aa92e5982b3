//! Extenders: servers that are asked, over HTTP, which of the feasible nodes they refuse, how they
//! like the others, and, if they want, to bind the pod.
//!
//! Invariant: an extender is asked only about pods that it manages resources of, and never under
//! the scheduler's lock.

use std::{collections::BTreeMap, path::Path, time::Duration};

use client::{Key, Rest};
use http::Request;
use pki::{tls::Pair, trust::Trust};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{NODES, PODS, types::Pod};

/// The name under which they refuse nodes.
pub(crate) const NAME: &str = "Extender";
/// Scores of extenders go to 10, those of plugins to 100.
const SCORE_FACTOR: i64 = 10;
const TIMEOUT: Duration = Duration::from_secs(5);

/// `extenders[]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Settings {
    url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    prioritize_verb: String,
    weight: i64,
    bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<Tls>,
    #[serde(rename = "httpTimeout")]
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<Managed>,
    ignorable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Tls {
    insecure: bool,
    server_name: String,
    cert_file: String,
    key_file: String,
    ca_file: String,
    #[serde(rename = "caData")]
    ca_data: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Managed {
    name: String,
    ignored_by_scheduler: bool,
}

/// One extender. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Extender {
    settings: Settings,
    timeout: Duration,
    client: kube::Client,
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Extender").field(&self.settings.url_prefix).finish()
    }
}

/// What extenders leave of the feasible nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// With their scores, the plugins' and the extenders' together.
    pub(crate) nodes: Vec<(String, i64)>,
    /// Why the others are none.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Settings {
    /// What is wrong with them; `at` is where they are.
    pub(crate) fn check(&self, at: usize) -> Result<(), String> {
        let at = format!("extenders[{at}]");
        if self.url_prefix.is_empty() {
            return Err(format!("{at}.urlPrefix: Required value"));
        }
        if !self.preempt_verb.is_empty() {
            return Err(format!(
                "{at}.preemptVerb: extenders have no say in preemption yet; remove it"
            ));
        }
        if !self.prioritize_verb.is_empty() && self.weight <= 0 {
            let weight = self.weight;
            return Err(format!(
                "{at}.weight: Invalid value: {weight}: must have a positive weight applied to it"
            ));
        }
        self.timeout().map(drop).map_err(|err| format!("{at}.httpTimeout: {err}"))
    }

    fn timeout(&self) -> Result<Duration, String> {
        match self.http_timeout.as_deref().map(client::parse_duration).transpose()? {
            None | Some(Duration::ZERO) => Ok(TIMEOUT),
            Some(timeout) => Ok(timeout),
        }
    }

    /// The resources that only the extender counts.
    pub(crate) fn ignored(&self) -> impl Iterator<Item = &str> {
        self.managed_resources
            .iter()
            .filter(|it| it.ignored_by_scheduler)
            .map(|it| it.name.as_str())
    }

    /// Whether it is asked about the pod.
    fn is_interested(&self, pod: &Pod) -> bool {
        let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        let mut asked = containers.flat_map(|it| it.resources.requests.keys());
        self.managed_resources.is_empty()
            || asked.any(|name| self.managed_resources.iter().any(|it| it.name == *name))
    }

    pub(crate) fn connect(self) -> Result<Extender, String> {
        let tls = self.tls_config.clone().unwrap_or_default();
        let trust = if tls.insecure {
            Trust::Anyone
        } else if !tls.ca_data.is_empty() {
            use base64::Engine as _;
            let pem = base64::engine::general_purpose::STANDARD.decode(&tls.ca_data);
            Trust::Bundle(pem.map_err(|err| format!("tlsConfig.caData: {err}"))?)
        } else if tls.ca_file.is_empty() {
            Trust::System
        } else {
            let pem = std::fs::read(&tls.ca_file);
            Trust::Bundle(pem.map_err(|err| format!("reading {}: {err}", tls.ca_file))?)
        };
        let pair =
            Pair { cert: Path::new(&tls.cert_file).into(), key: Path::new(&tls.key_file).into() };
        let pair = Some(pair).filter(|_| !tls.cert_file.is_empty());
        let name = Some(tls.server_name).filter(|it| !it.is_empty());
        let mut url = self.url_prefix.trim_end_matches('/').to_owned();
        if self.enable_https && !url.contains("://") {
            url = format!("https://{url}");
        }
        let config = pki::trust::client_config(&trust, pair.as_ref());
        let client = config.and_then(|config| client::connect_to(&url, config, name));
        let client = client.map_err(|err| format!("{}: {err:#}", self.url_prefix))?;
        Ok(Extender { timeout: self.timeout()?, client, settings: self })
    }
}

impl Extender {
    pub(crate) fn is_interested(&self, pod: &Pod) -> bool {
        self.settings.is_interested(pod)
    }

    /// Whether it binds the pods that it is interested in.
    pub(crate) fn binds(&self, pod: &Pod) -> bool {
        !self.settings.bind_verb.is_empty() && self.is_interested(pod)
    }

    async fn ask(&self, verb: &str, body: &Value) -> Result<Value, String> {
        let bytes = serde_json::to_vec(body).map_err(|err| err.to_string())?;
        let request = Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(bytes)
            .map_err(|err| err.to_string())?;
        let answer = tokio::time::timeout(self.timeout, self.client.request::<Value>(request));
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(err)) => Err(client::describe(&err)),
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
        .map_err(|err| format!("extender {} {verb}: {err}", self.settings.url_prefix))
    }

    async fn filter(&self, scene: &Scene, answer: &mut Answer) -> Result<(), String> {
        let names: Vec<&str> = answer.nodes.iter().map(|(name, _)| name.as_str()).collect();
        let body = scene.arguments(&names, self.settings.node_cache_capable);
        let found = lowered(self.ask(&self.settings.filter_verb, &body).await?);
        let error = found["error"].as_str().unwrap_or_default();
        if !error.is_empty() {
            return Err(error.to_owned());
        }
        let left = left(&found, self.settings.node_cache_capable);
        for field in ["failednodes", "failedandunresolvablenodes"] {
            for (name, why) in found[field].as_object().into_iter().flatten() {
                let why = why.as_str().unwrap_or_default().to_owned();
                answer.failed.insert(name.clone(), why);
            }
        }
        answer.nodes.retain(|(name, _)| left.contains(name));
        Ok(())
    }

    async fn prioritize(&self, scene: &Scene, answer: &mut Answer) -> Result<(), String> {
        let names: Vec<&str> = answer.nodes.iter().map(|(name, _)| name.as_str()).collect();
        let body = scene.arguments(&names, self.settings.node_cache_capable);
        let found = self.ask(&self.settings.prioritize_verb, &body).await?;
        for entry in found.as_array().into_iter().flatten() {
            let entry = lowered(entry.clone());
            let (host, score) = (entry["host"].as_str(), entry["score"].as_i64());
            let (Some(host), Some(score)) = (host, score) else { continue };
            if let Some((_, total)) = answer.nodes.iter_mut().find(|(name, _)| name == host) {
                *total += score * self.settings.weight * SCORE_FACTOR;
            }
        }
        Ok(())
    }

    /// Has the extender bind the pod to the node.
    pub(crate) async fn bind(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let meta = &pod.metadata;
        let body = json!({
            "PodName": meta.name, "PodNamespace": meta.namespace, "PodUID": meta.uid, "Node": node,
        });
        let found = lowered(self.ask(&self.settings.bind_verb, &body).await?);
        match found["error"].as_str().unwrap_or_default() {
            "" => Ok(()),
            error => Err(error.to_owned()),
        }
    }
}

/// The nodes that a filter leaves.
fn left(found: &Value, by_name: bool) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if by_name {
        return found["nodenames"].as_array().into_iter().flatten().filter_map(text).collect();
    }
    let items = lowered(found["nodes"].clone());
    let items = items["items"].as_array().into_iter().flatten();
    items.filter_map(|node| text(&node["metadata"]["name"])).collect()
}

/// Go reads names of fields without regard to case, and writes them as the structs have them.
fn lowered(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let fields: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    Value::Object(fields)
}

/// The pod and the nodes as the server has them: extenders want whole objects.
struct Scene {
    pod: Value,
    nodes: Vec<Value>,
}

impl Scene {
    async fn read(rest: &Rest, pod: &Key, with_nodes: bool) -> Result<Self, client::Error> {
        let mut object: Value = rest.get(&PODS, pod).await?;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        let nodes = match with_nodes {
            true => rest.list::<Value>(&NODES, "", &[]).await?.items,
            false => Vec::new(),
        };
        Ok(Scene { pod: object, nodes })
    }

    fn arguments(&self, names: &[&str], by_name: bool) -> Value {
        if by_name {
            return json!({"Pod": self.pod, "Nodes": null, "NodeNames": names});
        }
        let wanted = |node: &&Value| names.iter().any(|name| node["metadata"]["name"] == *name);
        let items: Vec<&Value> = self.nodes.iter().filter(wanted).collect();
        let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items});
        json!({"Pod": self.pod, "Nodes": list, "NodeNames": null})
    }
}

/// Asks every interested extender; an error ends the attempt.
pub(crate) async fn consult(
    extenders: &[Extender],
    rest: &Rest,
    pod: &Pod,
    nodes: Vec<(String, i64)>,
) -> Result<Answer, String> {
    let interested: Vec<&Extender> = extenders.iter().filter(|it| it.is_interested(pod)).collect();
    let with_nodes = interested.iter().any(|it| !it.settings.node_cache_capable);
    let scene = Scene::read(rest, &pod.metadata.key(), with_nodes).await;
    let scene = scene.map_err(|err| client::describe(&err))?;
    let mut answer = Answer { nodes, failed: BTreeMap::new() };
    for extender in interested.iter().filter(|it| !it.settings.filter_verb.is_empty()) {
        if answer.nodes.is_empty() {
            return Ok(answer);
        }
        match extender.filter(&scene, &mut answer).await {
            Err(err) if extender.settings.ignorable => {
                tracing::info!(err, "Extender did not answer, going on without it");
            }
            outcome => outcome?,
        }
    }
    for extender in interested.iter().filter(|it| !it.settings.prioritize_verb.is_empty()) {
        if answer.nodes.len() < 2 {
            break;
        }
        // As upstream: whoever cannot be asked has no preference.
        if let Err(err) = extender.prioritize(&scene, &mut answer).await {
            tracing::warn!(err, "Extender did not rate nodes, going on without its scores");
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers as the API server does for a pod and nodes, and as an extender.
    fn answered(path: &str, body: &Value) -> Value {
        let node = |name: &str| json!({"metadata": {"name": name}});
        match path {
            "/api/v1/namespaces/n/pods/p" => json!({"metadata": {"name": "p", "namespace": "n"}}),
            "/api/v1/nodes" => json!({"metadata": {}, "items": [node("a"), node("b"), node("c")]}),
            "/x/filter" => {
                assert_eq!(body["Pod"]["kind"], "Pod");
                let items = body["Nodes"]["items"].as_array().unwrap();
                let left: Vec<&Value> =
                    items.iter().filter(|it| it["metadata"]["name"] != "a").collect();
                json!({"Nodes": {"items": left}, "FailedNodes": {"a": "no licence"}, "Error": ""})
            }
            "/x/names" => json!({"nodenames": ["c"], "failedNodes": {"b": "too far"}}),
            "/x/rate" => json!([{"Host": "b", "Score": 1}, {"Host": "c", "Score": 3}]),
            "/x/bind" => json!({"Error": if body["Node"] == "b" { "" } else { "not there" }}),
            _ => json!({"Error": "broken"}),
        }
    }

    async fn serve(mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                let mut more = [0; 4096];
                let Ok(count @ 1..) = stream.read(&mut more).await else { return };
                bytes.extend_from_slice(&more[..count]);
                continue;
            };
            let length = head.lines().find_map(|line| {
                line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned)
            });
            let length = length.map_or(0, |it| it.parse::<usize>().unwrap());
            if body.len() < length {
                let mut more = [0; 4096];
                let Ok(count @ 1..) = stream.read(&mut more).await else { return };
                bytes.extend_from_slice(&more[..count]);
                continue;
            }
            let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
            let body = serde_json::from_str(body).unwrap_or_default();
            let answer = answered(&path, &body).to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
            let answer = format!("{head}{}\r\n\r\n{answer}", answer.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            bytes.clear();
        }
    }

    #[tokio::test]
    async fn extenders_refuse_rate_and_bind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut servers = tokio::task::JoinSet::new();
        servers.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        let extender = |rest: Value| {
            let mut all = json!({"urlPrefix": format!("http://{address}/x/")});
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            serde_json::from_value::<Settings>(all).unwrap().connect().unwrap()
        };
        let config = pki::trust::client_config(&Trust::Anyone, None).unwrap();
        let api = client::connect_to(&format!("http://{address}"), config, None).unwrap();
        let rest = Rest::new(api);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let check = async |all: &[Extender], want: Result<(&[(&str, i64)], &[&str]), &str>| {
            let nodes = ["a", "b", "c"].map(|name| (name.to_owned(), 50)).into();
            let found = consult(all, &rest, &pod, nodes).await;
            let want = want.map(|(nodes, failed)| {
                let nodes: Vec<_> =
                    nodes.iter().map(|(n, score)| ((*n).to_owned(), *score)).collect();
                (nodes, failed.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
            });
            let found = found.map(|it| (it.nodes, it.failed.into_values().collect::<Vec<_>>()));
            assert_eq!(found.as_ref().map_err(String::as_str), want.as_ref().map_err(|it| *it));
        };
        let rates = json!({"filterVerb": "filter", "prioritizeVerb": "rate", "weight": 2});
        check(&[extender(rates.clone())], Ok((&[("b", 70), ("c", 110)], &["no licence"]))).await;
        let names = json!({"filterVerb": "names", "nodeCacheCapable": true});
        let both = [extender(rates), extender(names)];
        check(&both, Ok((&[("c", 50)], &["no licence", "too far"]))).await;
        check(&[extender(json!({"filterVerb": "broken"}))], Err("broken")).await;
        let lenient = json!({"filterVerb": "broken", "ignorable": true});
        check(&[extender(lenient)], Ok((&[("a", 50), ("b", 50), ("c", 50)], &[]))).await;
        let others = json!({"filterVerb": "broken", "managedResources": [{"name": "x.io/y"}]});
        check(&[extender(others)], Ok((&[("a", 50), ("b", 50), ("c", 50)], &[]))).await;
        let binder = extender(json!({"bindVerb": "bind"}));
        assert_eq!(binder.bind(&pod, "b").await, Ok(()));
        assert_eq!(binder.bind(&pod, "c").await, Err("not there".to_owned()));
    }
}
