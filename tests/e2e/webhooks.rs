//! Servers outside that take part in the API: admission webhooks by URL and behind a Service.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Step;
use crate::cluster::{Cluster, apply, kubectl, kubectl_fails};
use crate::outside::{Asked, Outside};

pub(super) const STEPS: &[Step] = &[("admission webhooks change, refuse and warn", admission)];

/// The text in base64.
fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

fn review(asked: &Asked, response: Value) -> (u16, Value) {
    let mut response = response;
    response["uid"] = asked.body["request"]["uid"].clone();
    (200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response}))
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
            let bad = object["data"]["bad"] == "yes" || asked.body["request"]["operation"] == "DELETE";
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
    apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: hooked, labels: { hooked: \"yes\" } }\n")?;
    kubectl(&["create", "cm", "a", "-n", "hooked", "--from-literal=start=yes"])?;
    let data = kubectl(&["get", "cm", "a", "-n", "hooked", "-o", "jsonpath={.data}"])?;
    let data: Value = serde_json::from_str(&data).context("the object's data")?;
    ensure!(data == json!({"start": "yes", "stage-1": "yes", "stage-2": "yes"}), "{data}");
    ensure!(outside.asked("/second").len() == 2, "the first one was not asked again");
    let asked = outside.asked("/first");
    ensure!(asked[0].path == "/first?timeout=10s", "{}", asked[0].path);
    let refused =
        kubectl_fails(&["create", "cm", "b", "-n", "hooked", "--from-literal=bad=yes"])?;
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
    for (kind, names) in [(mutating, &["a-second", "b-first"][..]), (validating, &["deny", "slow"])] {
        for name in names {
            kubectl(&["delete", kind, name])?;
        }
    }
    kubectl(&["delete", "namespace", "hooked", "outside"])?;
    kubectl(&["delete", "cm", "elsewhere"])?;
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
