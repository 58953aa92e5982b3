//! Servers outside that take part in the API: admission webhooks by URL and behind a Service.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Step;
use crate::cluster::{Cluster, PATIENCE, apply, kubectl, kubectl_fails};
use crate::outside::{Asked, Outside};

pub(super) const STEPS: &[Step] = &[
    ("admission webhooks change, refuse and warn", admission),
    ("a conversion webhook serves every version", conversion),
    ("an aggregated API server behind a Service joins in", aggregated),
    ("requests belong to flows that say so", flows),
];

const HOSTS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: hosts.conversion.example.com }
spec:
  group: conversion.example.com
  scope: Namespaced
  names: { plural: hosts, kind: Host }
  conversion:
    strategy: Webhook
    webhook: { conversionReviewVersions: [v1], clientConfig: CLIENT }
  versions:
    - name: v1
      served: true
      storage: STORED-FIRST
      selectableFields: [{ jsonPath: .hostPort }]
      schema: { openAPIV3Schema: { type: object, properties: { hostPort: { type: string } } } }
    - name: v2
      served: true
      storage: STORED-SECOND
      selectableFields: [{ jsonPath: .host }, { jsonPath: .port }]
      schema: { openAPIV3Schema: { type: object, properties: { host: { type: string }, port: { type: string } } } }
"#;

/// The text in base64.
fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

fn review(asked: &Asked, response: Value) -> (u16, Value) {
    let mut response = response;
    response["uid"] = asked.body["request"]["uid"].clone();
    (
        200,
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response}),
    )
}

/// The webhook server: by its path, it adds what others look for, refuses, warns or sleeps.
fn hooks(asked: &Asked) -> (u16, Value) {
    let object = &asked.body["request"]["object"];
    let path = asked.path.split('?').next().unwrap_or_default();
    match path {
        "/first" | "/second" => {
            let stage = if path == "/first" { "stage-1" } else { "stage-2" };
            let after = if path == "/first" { "start" } else { "stage-1" };
            if object["data"][after] != "yes" {
                return review(asked, json!({"allowed": true}));
            }
            let patch = json!([{"op": "add", "path": format!("/data/{stage}"), "value": "yes"}]);
            review(
                asked,
                json!({"allowed": true, "patchType": "JSONPatch", "patch": base64(&patch.to_string())}),
            )
        }
        "/deny" => {
            let bad =
                object["data"]["bad"] == "yes" || asked.body["request"]["operation"] == "DELETE";
            review(
                asked,
                json!({"allowed": !bad, "warnings": ["looked at it"],
                    "status": {"message": "it is bad", "code": 403, "reason": "Forbidden"}}),
            )
        }
        "/slow" => {
            let (code, mut value) = review(asked, json!({"allowed": true}));
            value["sleepSeconds"] = 3.into();
            (code, value)
        }
        _ => (500, json!("boom")),
    }
}

fn configuration(kind: &str, name: &str, client: &Value, path: &str, more: &str) -> String {
    let mut client = client.clone();
    match client.get_mut("service") {
        Some(service) => service["path"] = path.into(),
        None => {
            let url = format!("{}{path}", client["url"].as_str().unwrap_or_default());
            client["url"] = url.into();
        }
    }
    format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
webhooks:
  - name: {name}.e2e.example.com
    clientConfig: {client}
    admissionReviewVersions: [v1, v1beta1]
    sideEffects: None
    namespaceSelector: {{ matchLabels: {{ hooked: "yes" }} }}
    rules: [{{ apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE, DELETE], resources: [configmaps] }}]
    {more}
"#
    )
}

fn admission(_: &mut Cluster) -> Result<()> {
    let outside = Outside::start(&["127.0.0.1", "hooks.outside.svc"], hooks)?;
    let by_url = json!({"url": format!("https://127.0.0.1:{}", outside.port),
        "caBundle": outside.ca_bundle});
    let by_service = json!({"service": {"namespace": "outside", "name": "hooks", "port": 8443},
        "caBundle": outside.ca_bundle});
    publish("outside", "hooks", &outside)?;
    let (mutating, validating) = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration");
    // In the order of their names, the one that looks for what the other adds comes first.
    let again = "reinvocationPolicy: IfNeeded";
    apply(&configuration(mutating, "a-second", &by_service, "/second", again))?;
    apply(&configuration(mutating, "b-first", &by_url, "/first", ""))?;
    apply(&configuration(validating, "deny", &by_service, "/deny", ""))?;
    apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: hooked, labels: { hooked: \"yes\" } }\n",
    )?;
    kubectl(&["create", "cm", "a", "-n", "hooked", "--from-literal=start=yes"])?;
    let data = kubectl(&["get", "cm", "a", "-n", "hooked", "-o", "jsonpath={.data}"])?;
    let data: Value = serde_json::from_str(&data).context("the object's data")?;
    ensure!(data == json!({"start": "yes", "stage-1": "yes", "stage-2": "yes"}), "{data}");
    let again = outside.asked("/second");
    let again = again.iter().filter(|asked| asked.body["request"]["name"] == "a").count();
    ensure!(again == 2, "the first webhook was asked {again} times");
    let asked = outside.asked("/first");
    ensure!(asked[0].path == "/first?timeout=10s", "{}", asked[0].path);
    let refused = kubectl_fails(&["create", "cm", "b", "-n", "hooked", "--from-literal=bad=yes"])?;
    let denied = "admission webhook \"deny.e2e.example.com\" denied the request: it is bad";
    ensure!(refused.contains(denied), "{refused}");
    let refused = kubectl_fails(&["delete", "cm", "a", "-n", "hooked"])?;
    ensure!(refused.contains(denied), "{refused}");
    let deleted = outside.asked("/deny").pop().context("the deletion was not asked about")?;
    ensure!(deleted.body["request"]["oldObject"]["metadata"]["name"] == "a", "{deleted:?}");
    kubectl(&["create", "cm", "elsewhere", "--from-literal=bad=yes"])?;
    // A webhook that is slow or away: refused, or passed over.
    let patience = "timeoutSeconds: 1\n    failurePolicy: Fail";
    apply(&configuration(validating, "slow", &by_service, "/slow", patience))?;
    let refused = kubectl_fails(&["create", "cm", "c", "-n", "hooked"])?;
    let late = "failed calling webhook \"slow.e2e.example.com\": failed to call webhook: Post \
                \"https://hooks.outside.svc:8443/slow?timeout=1s\": context deadline exceeded";
    ensure!(refused.contains(late), "{refused}");
    let tolerant = "timeoutSeconds: 1\n    failurePolicy: Ignore";
    apply(&configuration(validating, "slow", &by_service, "/slow", tolerant))?;
    kubectl(&["create", "cm", "c", "-n", "hooked"])?;
    let unknown = json!({"url": by_url["url"]});
    apply(&configuration(validating, "slow", &unknown, "/slow", ""))?;
    let refused = kubectl_fails(&["create", "cm", "d", "-n", "hooked"])?;
    ensure!(refused.contains("certificate signed by unknown authority"), "{refused}");
    for (kind, names) in [(mutating, &["a-second", "b-first"][..]), (validating, &["deny", "slow"])]
    {
        for name in names {
            kubectl(&["delete", kind, name])?;
        }
    }
    kubectl(&["delete", "namespace", "hooked", "outside"])?;
    kubectl(&["delete", "cm", "elsewhere"])?;
    Ok(())
}

/// Converts between `hostPort` of v1 and `host` and `port` of v2.
fn convert(asked: &Asked) -> (u16, Value) {
    let request = &asked.body["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().cloned().unwrap_or_default();
    let converted = objects.into_iter().map(|mut object| {
        object["apiVersion"] = to.into();
        let Some(fields) = object.as_object_mut() else { return Value::Null };
        if to.ends_with("/v2") {
            if let Some(Value::String(both)) = fields.remove("hostPort") {
                let (host, port) = both.split_once(':').unwrap_or((&both, ""));
                fields.insert("host".to_owned(), host.into());
                fields.insert("port".to_owned(), port.into());
            }
        } else if let Some(Value::String(host)) = fields.remove("host") {
            let port = fields.remove("port").unwrap_or_default();
            let both = format!("{host}:{}", port.as_str().unwrap_or_default());
            fields.insert("hostPort".to_owned(), both.into());
        }
        object
    });
    let converted: Vec<Value> = converted.collect();
    let response = json!({"uid": request["uid"], "result": {"status": "Success"},
        "convertedObjects": converted});
    (
        200,
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "response": response}),
    )
}

fn conversion(_: &mut Cluster) -> Result<()> {
    let outside = Outside::start(&["convert.conversion.svc"], convert)?;
    publish("conversion", "convert", &outside)?;
    let client = json!({"service": {"namespace": "conversion", "name": "convert", "port": 8443,
        "path": "/convert"}, "caBundle": outside.ca_bundle});
    let hosts = HOSTS.replace("CLIENT", &client.to_string());
    let stored =
        |v1: &str, v2: &str| hosts.replace("STORED-FIRST", v1).replace("STORED-SECOND", v2);
    apply(&stored("true", "false"))?;
    kubectl(&["wait", "--for=condition=Established", "crd/hosts.conversion.example.com"])?;
    let host = |version: &str, name: &str, rest: &str| {
        format!(
            "apiVersion: conversion.example.com/{version}\nkind: Host\n\
             metadata: {{ name: {name}, namespace: conversion }}\n{rest}\n"
        )
    };
    apply(&host("v1", "a", "hostPort: a.example.com:80"))?;
    let get = |what: &str, path: &str| {
        kubectl(&["get", what, "-n", "conversion", "-o", &format!("jsonpath={path}")])
    };
    let (v1, v2) = ("hosts.v1.conversion.example.com", "hosts.v2.conversion.example.com");
    let shown = get(&format!("{v2}/a"), "{.apiVersion} {.host} {.port} {.hostPort}")?;
    ensure!(shown.trim() == "conversion.example.com/v2 a.example.com 80", "{shown}");
    // The other version is stored from now on, and both are listed in either.
    apply(&stored("false", "true"))?;
    apply(&host("v2", "b", "host: b.example.com\nport: \"81\""))?;
    let ports = get(v1, "{.items[*].hostPort}")?;
    ensure!(ports == "a.example.com:80 b.example.com:81", "{ports}");
    let hosts = get(v2, "{.items[*].host}")?;
    ensure!(hosts == "a.example.com b.example.com", "{hosts}");
    let selector = "--field-selector=hostPort=b.example.com:81";
    let selected = kubectl(&["get", v1, "-n", "conversion", "-o", "name", selector])?;
    ensure!(selected.trim() == "host.conversion.example.com/b", "{selected}");
    // A field of either version selects what a collection's deletion takes.
    apply(&host("v1", "c", "hostPort: c.example.com:82"))?;
    let collection = "/apis/conversion.example.com/v2/namespaces/conversion/hosts";
    kubectl(&["delete", "--raw", &format!("{collection}?fieldSelector=host%3Dc.example.com")])?;
    let hosts = get(v2, "{.items[*].host}")?;
    ensure!(hosts == "a.example.com b.example.com", "{hosts}");
    // An apply in one version after a change in the other: managed fields are converted as well.
    let manager = "--field-manager=e2e";
    kubectl(&["label", &format!("{v1}/b"), "-n", "conversion", "x=y", manager])?;
    apply(&host("v2", "b", "host: c.example.com\nport: \"82\""))?;
    let shown = get(&format!("{v1}/b"), "{.hostPort} {.metadata.labels.x}")?;
    ensure!(shown == "c.example.com:82 y", "{shown}");
    kubectl(&["delete", v1, "-n", "conversion", "--all"])?;
    kubectl(&["delete", "crd", "hosts.conversion.example.com", "--timeout=60s"])?;
    kubectl(&["delete", "namespace", "conversion"])?;
    Ok(())
}

/// An API server with one resource, which takes whom the front proxy names for the user.
fn metrics(asked: &Asked) -> (u16, Value) {
    let path = asked.path.split('?').next().unwrap_or_default();
    let group = "/apis/metrics.outside.example.com/v1";
    match path.strip_prefix(group) {
        Some("") => (
            200,
            json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "metrics.outside.example.com/v1", "resources": [
                {"name": "gauges", "singularName": "gauge", "namespaced": true, "kind": "Gauge",
                    "verbs": ["get", "list"], "shortNames": ["ga"]}]}),
        ),
        Some(rest) if rest.ends_with("/gauges/one") => (
            200,
            json!({"kind": "Gauge", "apiVersion": "metrics.outside.example.com/v1",
                "metadata": {"name": "one", "namespace": "default"},
                "user": asked.header("x-remote-user"),
                "token": asked.header("authorization").unwrap_or("none"),
                "method": asked.method}),
        ),
        _ => (
            404,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "there is nothing here", "reason": "NotFound", "code": 404}),
        ),
    }
}

fn aggregated(cluster: &mut Cluster) -> Result<()> {
    let outside = Outside::start(&["metrics.aggregated.svc"], metrics)?;
    let api = |bundle: &str| {
        format!(
            r#"
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{ name: v1.metrics.outside.example.com }}
spec:
  group: metrics.outside.example.com
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  caBundle: {bundle}
  service: {{ namespace: aggregated, name: metrics, port: 8443 }}
"#
        )
    };
    apply(&api(&outside.ca_bundle))?;
    let name = "apiservice/v1.metrics.outside.example.com";
    let message = "jsonpath={.status.conditions[?(@.type=='Available')].message}";
    cluster.wait("the missing Service to be noticed", PATIENCE, || {
        Ok(kubectl(&["get", name, "-o", message])?.contains("is not present"))
    })?;
    publish("aggregated", "metrics", &outside)?;
    kubectl(&["wait", "--for=condition=Available", name, "--timeout=30s"])?;
    let said = kubectl(&["get", name, "-o", message])?;
    ensure!(said == "all checks passed", "{said}");
    let listed = kubectl(&["api-resources", "--api-group=metrics.outside.example.com"])?;
    ensure!(listed.contains("Gauge"), "{listed}");
    let gauge = kubectl(&["get", "ga", "one", "-o", "jsonpath={.user} {.token} {.method}"])?;
    ensure!(gauge == "system:admin none GET", "{gauge}");
    let refused = kubectl_fails(&["get", "ga", "two"])?;
    ensure!(refused.contains("there is nothing here"), "{refused}");
    kubectl(&["delete", "service", "metrics", "-n", "aggregated"])?;
    cluster.wait("the lost Service to be noticed", PATIENCE, || {
        Ok(kubectl(&["get", name, "-o", message])?.contains("is not present"))
    })?;
    let path = "/apis/metrics.outside.example.com/v1";
    let refused = kubectl_fails(&["get", "--raw", path])?;
    ensure!(refused.contains("currently unable to handle the request"), "{refused}");
    kubectl(&["delete", name])?;
    kubectl(&["delete", "namespace", "aggregated"])?;
    Ok(())
}

fn flows(_: &mut Cluster) -> Result<()> {
    let verbose = crate::cluster::kubectl_command()
        .args(["get", "ns", "default", "-v=8"])
        .output()
        .context("kubectl")?;
    let said = String::from_utf8_lossy(&verbose.stderr).to_ascii_lowercase();
    ensure!(said.contains("x-kubernetes-pf-flowschema-uid"), "{said}");
    let metrics = kubectl(&["get", "--raw", "/metrics"])?;
    let row = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245";
    ensure!(metrics.contains(row), "{metrics}");
    let dump = "/debug/api_priority_and_fairness/dump_priority_levels";
    let levels = kubectl(&["get", "--raw", dump])?;
    ensure!(levels.contains("workload-high, 0, "), "{levels}");
    Ok(())
}

/// A Service whose only endpoint is the server outside.
fn publish(namespace: &str, name: &str, outside: &Outside) -> Result<()> {
    let path = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
    let address = kubectl(&["get", "node", "-o", path])?;
    let port = outside.port;
    apply(&format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{ name: {namespace} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ ports: [{{ port: 8443 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
endpoints: [{{ addresses: ["{address}"] }}]
ports: [{{ port: {port} }}]
"#
    ))
    .map(|_| ())
}
