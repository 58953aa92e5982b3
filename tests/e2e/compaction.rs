//! What the store gives up: a list that is too old to be continued as it was says how to go on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, kubectl};

/// Runs after the cluster of the other steps has stopped.
pub(super) const STEP: (&str, fn() -> Result<()>) =
    ("old revisions are given up, and a list goes on with what is there", compacted);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn compacted() -> Result<()> {
    let flags = ["--kube-apiserver-arg=etcd-compaction-interval=500ms"];
    let mut cluster = Cluster::start_with(Path::new(super::LOG), "forgetful", &flags)?;
    cluster.api_ready()?;
    for name in ["a", "b", "c", "d"] {
        kubectl(&["create", "configmap", name])?;
    }
    let (code, first) = get(&format!("{MAPS}?limit=2"))?;
    ensure!(code == 200 && names(&first) == ["a", "b"], "{code} {first}");
    let old = format!("{MAPS}?limit=2&continue={}", next(&first)?);
    let mut refusal = Value::Null;
    cluster.wait("the revision to be given up", PATIENCE, || {
        let (code, answer) = get(&old)?;
        refusal = answer;
        Ok(code == 410)
    })?;
    ensure!(refusal["reason"] == "Expired", "{refusal}");
    kubectl(&["create", "configmap", "bb"])?;
    let (code, second) = get(&format!("{MAPS}?limit=2&continue={}", next(&refusal)?))?;
    ensure!(code == 200 && names(&second) == ["bb", "c"], "{code} {second}");
    let version = |list: &Value| list["metadata"]["resourceVersion"].clone();
    ensure!(version(&second) != version(&first), "{second}");
    let (_, third) = get(&format!("{MAPS}?limit=2&continue={}", next(&second)?))?;
    ensure!(names(&third) == ["d", "kube-root-ca.crt"], "{third}");
    ensure!(version(&third) == version(&second), "{third}");
    cluster.stop().map(drop)
}

fn next(answer: &Value) -> Result<&str> {
    answer["metadata"]["continue"].as_str().with_context(|| format!("no token: {answer}"))
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

/// The code and body of an answer, also of a refusal.
#[tokio::main(flavor = "current_thread")]
async fn get(path: &str) -> Result<(u16, Value)> {
    use http_body_util::BodyExt;
    let client = client::connect(Path::new("/etc/rancher/k3s/k3s.yaml")).await?;
    let request = http::Request::get(path).body(kube::client::Body::empty())?;
    let answer = client.send(request).await?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&body)?))
}
