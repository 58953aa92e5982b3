//! A life of every kind as clients in Go lead it: protobuf in, protobuf out, a watch beside.
//!
//! Invariant: each kind's objects carry a label of their own, and none is left.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use api::resources::{self, Resource};
use apimachinery::protobuf;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Step;
use crate::cluster::{Cluster, PATIENCE, kubectl};

pub(super) const STEPS: &[Step] = &[("every kind lives its life in protobuf", lives)];

const NAMESPACE: &str = "lives";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TEMPLATE: &str = r#"{"metadata": {"labels": {"a": "b"}}, "spec": {"containers":
    [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "e2e/gate"}]}}"#;

/// A kind, and what its objects hold. `TEMPLATE` stands for a pod template that never runs.
const KINDS: &[(&str, &str, &str)] = &[
    ("v1", "ConfigMap", r#""data": {"a": "b"}, "binaryData": {"c": "3q2+7w=="}"#),
    ("v1", "Secret", r#""data": {"a": "Yg=="}"#),
    (
        "v1",
        "Endpoints",
        r#""subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]"#,
    ),
    ("v1", "Event", r#""involvedObject": {"namespace": "lives"}, "message": "m", "count": 2"#),
    ("v1", "LimitRange", r#""spec": {"limits": [{"type": "Container", "min": {"cpu": "50m"}}]}"#),
    (
        "v1",
        "PersistentVolume",
        r#""spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none", "csi": {"driver": "d", "volumeHandle": "h"}}"#,
    ),
    (
        "v1",
        "PersistentVolumeClaim",
        r#""spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
        "resources": {"requests": {"storage": "3Gi"}}}"#,
    ),
    (
        "v1",
        "Pod",
        r#""spec": {"containers": [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "e2e/gate"}]}"#,
    ),
    ("v1", "PodTemplate", r#""template": TEMPLATE"#),
    (
        "v1",
        "ReplicationController",
        r#""spec": {"replicas": 0, "selector": {"a": "b"}, "template": TEMPLATE}"#,
    ),
    ("v1", "ResourceQuota", r#""spec": {"hard": {"example.com/none": "5"}}"#),
    ("v1", "Service", r#""spec": {"ports": [{"port": 80, "targetPort": "http"}]}"#),
    ("v1", "ServiceAccount", r#""automountServiceAccountToken": false"#),
    (
        "admissionregistration.k8s.io/v1",
        "MutatingAdmissionPolicy",
        r#""spec": {"reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [{"apiGroups": ["no.such"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["things"]}]}, "mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{}"}}]}"#,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "MutatingAdmissionPolicyBinding",
        r#""spec": {"policyName": "p"}"#,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        r#""spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": ["no.such"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["things"]}]}, "validations": [{"expression": "true"}]}"#,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        r#""spec": {"policyName": "p", "validationActions": ["Deny"]}"#,
    ),
    ("apps/v1", "ControllerRevision", r#""revision": 7, "data": {"a": [1, "b", null]}"#),
    (
        "apps/v1",
        "DaemonSet",
        r#""spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata":
        {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"no": "node"}}}}"#,
    ),
    (
        "apps/v1",
        "Deployment",
        r#""spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE,
        "strategy": {"rollingUpdate": {"maxSurge": "30%", "maxUnavailable": 1}}}"#,
    ),
    (
        "apps/v1",
        "ReplicaSet",
        r#""spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}"#,
    ),
    (
        "apps/v1",
        "StatefulSet",
        r#""spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}"#,
    ),
    (
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        r#""spec": {"maxReplicas": 3, "scaleTargetRef":
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}, "metrics": [{"type": "Resource", "resource":
        {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]}"#,
    ),
    (
        "batch/v1",
        "CronJob",
        r#""spec": {"suspend": true, "schedule": "*/1 * * * ?", "jobTemplate": {"spec":
        {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}"#,
    ),
    (
        "batch/v1",
        "Job",
        r#""spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}, "podFailurePolicy": {"rules": [{"action": "FailJob",
        "onExitCodes": {"operator": "In", "values": [1]}}]}}"#,
    ),
    (
        "coordination.k8s.io/v1",
        "Lease",
        r#""spec": {"holderIdentity": "h", "renewTime": "0001-01-01T00:00:05.000001Z"}"#,
    ),
    (
        "discovery.k8s.io/v1",
        "EndpointSlice",
        r#""addressType": "IPv4", "ports": [{"name": "", "port": 80}],
        "endpoints": [{"addresses": ["1.2.3.4"], "conditions": {"ready": false}}]"#,
    ),
    (
        "events.k8s.io/v1",
        "Event",
        r#""regarding": {"namespace": "lives"}, "eventTime": "2026-01-02T03:04:05.000006Z",
        "action": "a", "reason": "r", "type": "Normal", "reportingController": "c", "reportingInstance": "i""#,
    ),
    (
        "flowcontrol.apiserver.k8s.io/v1",
        "FlowSchema",
        r#""spec": {"matchingPrecedence": 9999,
        "priorityLevelConfiguration": {"name": "global-default"}, "rules": [{"subjects": [{"kind": "User",
        "user": {"name": "nobody-here"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}"#,
    ),
    (
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        r#""spec": {"type": "Limited", "limited":
        {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}"#,
    ),
    (
        "networking.k8s.io/v1",
        "Ingress",
        r#""spec": {"defaultBackend": {"service": {"name": "s", "port": {"name": "http"}}}}"#,
    ),
    ("networking.k8s.io/v1", "IngressClass", r#""spec": {"controller": "example.com/c"}"#),
    (
        "networking.k8s.io/v1",
        "NetworkPolicy",
        r#""spec": {"podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}]}"#,
    ),
    (
        "node.k8s.io/v1",
        "RuntimeClass",
        r#""handler": "h", "overhead": {"podFixed": {"cpu": "10m"}}"#,
    ),
    (
        "policy/v1",
        "PodDisruptionBudget",
        r#""spec": {"minAvailable": "1%", "selector": {"matchLabels": {"no": "pod"}}}"#,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        r#""rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]"#,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        r#""roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "b"}]"#,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "Role",
        r#""rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]"#,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        r#""roleRef": {"apiGroup": "", "kind": "Role", "name": "none"}"#,
    ),
    (
        "resource.k8s.io/v1",
        "DeviceClass",
        r#""spec": {"selectors": [{"cel": {"expression": "false"}}]}"#,
    ),
    (
        "resource.k8s.io/v1",
        "ResourceClaim",
        r#""spec": {"devices": {"requests": [{"name": "r", "exactly":
        {"deviceClassName": "dra.example.com"}}]}}"#,
    ),
    (
        "resource.k8s.io/v1",
        "ResourceClaimTemplate",
        r#""spec": {"spec": {"devices": {"requests": [{"name": "r",
        "exactly": {"deviceClassName": "dra.example.com"}}]}}}"#,
    ),
    (
        "resource.k8s.io/v1",
        "ResourceSlice",
        r#""spec": {"driver": "dra.example.com", "nodeName": "no-such-node",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d"}]}"#,
    ),
    ("scheduling.k8s.io/v1", "PriorityClass", r#""value": 1000, "description": "d""#),
    ("storage.k8s.io/v1", "CSIDriver", r#""spec": {"volumeLifecycleModes": ["Ephemeral"]}"#),
    ("storage.k8s.io/v1", "CSINode", r#""spec": {"drivers": null}"#),
    ("storage.k8s.io/v1", "CSIStorageCapacity", r#""storageClassName": "s", "capacity": "1Gi""#),
    ("storage.k8s.io/v1", "StorageClass", r#""provisioner": "e2e-fake""#),
    (
        "storage.k8s.io/v1",
        "VolumeAttachment",
        r#""spec": {"attacher": "a", "nodeName": "no-such-node",
        "source": {"persistentVolumeName": "none"}}"#,
    ),
    (
        "storage.k8s.io/v1",
        "VolumeAttributesClass",
        r#""driverName": "d", "parameters": {"a": "b"}"#,
    ),
];

fn lives(_: &mut Cluster) -> Result<()> {
    kubectl(&["create", "namespace", NAMESPACE])?;
    live_all()?;
    kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"]).map(drop)
}

#[tokio::main(flavor = "current_thread")]
async fn live_all() -> Result<()> {
    let client = client::connect(Path::new("/etc/rancher/k3s/k3s.yaml")).await?;
    for (api_version, kind, fields) in KINDS {
        let text = format!("{{{}}}", fields.replace("TEMPLATE", TEMPLATE));
        let fields = serde_json::from_str(&text).with_context(|| text.clone())?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = resources::by_kind(group, version, kind).context("no such kind")?;
        let subject = Subject { client: &client, resource };
        let lived = tokio::time::timeout(PATIENCE, subject.live(fields)).await;
        lived
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("{api_version} {kind}"))?;
    }
    Ok(())
}

/// A kind and the way to its objects.
struct Subject<'a> {
    client: &'a Client,
    resource: &'static Resource,
}

impl Subject<'_> {
    /// What upstream's tests of a kind's operations do, in their order.
    async fn live(&self, fields: Value) -> Result<()> {
        let label = "life=e2e";
        let mut body = fields;
        body["metadata"] = json!({"generateName": "life-", "labels": {"life": "e2e"}});
        let mut made = Vec::new();
        for _ in 0..3 {
            made.push(self.write("POST", "", &body).await?);
        }
        let path = format!("/{}", made[0]["metadata"]["name"].as_str().context("no name")?);
        let read = self.read("GET", &path).await?;
        ensure!(read["metadata"]["uid"] == made[0]["metadata"]["uid"], "another: {read}");
        let list = self.read("GET", &format!("?labelSelector={label}")).await?;
        ensure!(list["items"].as_array().is_some_and(|items| items.len() == 3), "not 3: {list}");
        let from =
            list["metadata"]["resourceVersion"].as_str().context("a list without version")?;
        let mut watch =
            self.watch(&format!("labelSelector={label}&resourceVersion={from}")).await?;
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        let kind = "application/merge-patch+json";
        let patched = self.send("PATCH", &path, kind, patch.to_string().into_bytes()).await?;
        ensure!(version(&patched)? > version(&made[0])?, "the version did not grow: {patched}");
        let updated = self.update(&path).await?;
        ensure!(version(&updated)? > version(&patched)?, "the version did not grow: {updated}");
        ensure!(updated["metadata"]["annotations"]["patched"] == "true", "{updated}");
        loop {
            let (event, object) = watch.next(self.resource).await?;
            ensure!(event == "MODIFIED", "{event} {object}");
            if object["metadata"]["annotations"]["updated"] == "true" {
                break;
            }
        }
        self.remove(&path).await?;
        self.until_gone(&path).await?;
        self.remove(&format!("?labelSelector={label}")).await?;
        self.until_gone(&format!("?labelSelector={label}")).await
    }

    /// GET, annotate, PUT: again when somebody else wrote meanwhile.
    async fn update(&self, path: &str) -> Result<Value> {
        loop {
            let mut object = self.read("GET", path).await?;
            object["metadata"]["annotations"]["updated"] = "true".into();
            match self.write("PUT", path, &object).await {
                Err(err) if format!("{err:#}").contains("the object has been modified") => {}
                done => return done,
            }
        }
    }

    async fn remove(&self, path: &str) -> Result<()> {
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        let node = api::schema::kind("", "v1", "DeleteOptions").context("no DeleteOptions")?;
        let body = protobuf::encode_object(&options, node);
        self.send("DELETE", path, PROTOBUF, body).await.map(drop)
    }

    /// Finalizers are lifted by controllers.
    async fn until_gone(&self, path: &str) -> Result<()> {
        loop {
            match self.read("GET", path).await {
                Err(err) if format!("{err:#}").contains("NotFound") => return Ok(()),
                Ok(list)
                    if list["kind"] == self.resource.list_kind && list["items"] == json!([]) =>
                {
                    return Ok(());
                }
                Ok(list) if list["kind"] == self.resource.list_kind && list["items"].is_null() => {
                    return Ok(());
                }
                Err(err) => return Err(err),
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn read(&self, method: &str, path: &str) -> Result<Value> {
        self.send(method, path, PROTOBUF, Vec::new()).await
    }

    async fn write(&self, method: &str, path: &str, object: &Value) -> Result<Value> {
        let resource = self.resource;
        let mut object = object.clone();
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.into();
        let body = protobuf::encode_object(&object, node(resource, resource.kind)?);
        self.send(method, path, PROTOBUF, body).await
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<http::Request<Body>> {
        let resource = self.resource;
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let namespace =
            if resource.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let uri =
            format!("/{root}/{}{namespace}/{}{path}", resource.api_version(), resource.plural);
        let request = http::Request::builder().method(method).uri(uri);
        let request = request.header("Accept", format!("{PROTOBUF}, */*"));
        Ok(request.header("Content-Type", kind).body(Body::from(body))?)
    }

    /// The object, list or Status of the answer, decoded; a refusal is an error.
    async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Value> {
        let answer = self.client.send(self.request(method, path, kind, body)?).await?;
        let code = answer.status();
        let content_type = answer.headers().get("content-type").cloned();
        let bytes = answer.into_body().collect().await?.to_bytes();
        ensure!(
            content_type.as_ref().is_some_and(|it| it == PROTOBUF),
            "{method} {path}: {code} is told in {content_type:?}"
        );
        let object = decode(self.resource, &bytes)?;
        if !code.is_success() {
            bail!("{method} {path}: {code} {object}");
        }
        Ok(object)
    }

    async fn watch(&self, query: &str) -> Result<Watch> {
        let path = format!("?watch=1&{query}");
        let answer = self.client.send(self.request("GET", &path, PROTOBUF, Vec::new())?).await?;
        let content_type = answer.headers().get("content-type").cloned();
        let want = format!("{PROTOBUF};stream=watch");
        ensure!(content_type.as_ref().is_some_and(|it| it == want.as_str()), "{content_type:?}");
        Ok(Watch { body: answer.into_body(), read: Vec::new() })
    }
}

/// A stream of frames: four bytes of length, then a `WatchEvent`.
struct Watch {
    body: Body,
    read: Vec<u8>,
}

impl Watch {
    async fn next(&mut self, resource: &Resource) -> Result<(String, Value)> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<4>() {
                let size = usize::try_from(u32::from_be_bytes(*head))?;
                if rest.len() >= size {
                    let event = fields(&rest[..size])?;
                    let kind = event.first().context("an event without type")?.1;
                    let raw = fields(event.get(1).context("an event without object")?.1)?;
                    let object = decode(resource, raw.first().context("an empty object")?.1)?;
                    let kind = String::from_utf8(kind.to_vec())?;
                    self.read.drain(..4 + size);
                    return Ok((kind, object));
                }
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            self.read.extend_from_slice(frame.data_ref().context("a trailer")?);
        }
    }
}

/// The fields of a message that has only texts and messages.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, &[u8])>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes)?;
        let (size, rest) = varint(rest)?;
        ensure!(tag & 7 == 2, "field {tag} is no text");
        let (value, rest) = rest.split_at_checked(usize::try_from(size)?).context("cut short")?;
        out.push((tag >> 3, value));
        bytes = rest;
    }
    Ok(out)
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).context("a number without end")?;
    let (number, rest) = bytes.split_at(end + 1);
    Ok((number.iter().rev().fold(0, |sum, byte| (sum << 7) | u64::from(byte & 0x7f)), rest))
}

fn decode(resource: &Resource, bytes: &[u8]) -> Result<Value> {
    let envelope = protobuf::open(bytes).map_err(anyhow::Error::msg)?;
    let node = match (envelope.api_version.as_str(), envelope.kind.as_str()) {
        ("v1", "Status") => api::schema::kind("", "v1", "Status").context("no Status")?,
        (version, kind) => {
            ensure!(version == resource.api_version(), "{version} {kind}");
            node(resource, kind)?
        }
    };
    let mut object = protobuf::decode(envelope.raw, node)?;
    object["apiVersion"] = envelope.api_version.into();
    object["kind"] = envelope.kind.into();
    Ok(object)
}

fn node(resource: &Resource, kind: &str) -> Result<api::schema::Node<'static>> {
    api::schema::kind(resource.group, resource.version, kind)
        .with_context(|| format!("no type of {kind}"))
}

fn version(object: &Value) -> Result<u64> {
    let version = object["metadata"]["resourceVersion"].as_str().context("no version")?;
    Ok(version.parse()?)
}
