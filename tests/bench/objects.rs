//! The objects that the load is made of, and loads that several benchmarks need.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use crate::http::{Protocol, Target};

pub(crate) const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICE_ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
/// Connections that make objects in advance.
const MAKERS: usize = 16;

/// A ConfigMap of about 1 KiB.
pub(crate) fn configmap(name: &str) -> Bytes {
    let value = "x".repeat(920);
    let metadata = format!(r#""metadata":{{"name":"{name}"}}"#);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap",{metadata},"data":{{"value":"{value}"}}}}"#)
        .into()
}

/// A pod as a Deployment's: two containers would be many.
pub(crate) fn pod(name: &str) -> Bytes {
    let container = r#"{"name":"web","image":"docker.io/library/nginx:1.27","ports":[{"containerPort":80}],
        "env":[{"name":"MODE","value":"production"}],
        "resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"128Mi"}}}"#;
    let labels = r#""labels":{"app":"web","pod-template-hash":"5d4f8c7b9"}"#;
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}",{labels}}},
            "spec":{{"containers":[{container}]}}}}"#
    )
    .into()
}

/// What a pod needs to be admitted, and no controller makes here.
pub(crate) async fn make_service_account(target: &Target) -> Result<()> {
    let mut connection = target.connect(Protocol::Http1).await?;
    let body = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    connection.exchange(Method::POST, SERVICE_ACCOUNTS, body.into()).await.map(drop)
}

/// Makes `count` objects, named by number.
pub(crate) async fn make(
    target: &Target,
    path: &'static str,
    count: usize,
    object: fn(&str) -> Bytes,
) -> Result<()> {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let mut connection = target.connect(Protocol::Http1).await?;
        makers.spawn(async move {
            for number in (maker..count).step_by(MAKERS) {
                let body = object(&format!("object-{number:06}"));
                connection.exchange(Method::POST, path, body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = makers.join_next().await {
        ended??;
    }
    Ok(())
}
