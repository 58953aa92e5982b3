//! The API server as commands use it: JSON in and out, lines of a stream.

use std::path::Path;

use anyhow::{Context, Result};
use futures::AsyncBufRead;
use http::{Method, Request, header};
use serde_json::Value;

use crate::cli::Global;

/// A cluster, and the namespace that requests are for.
pub(crate) struct Server {
    client: kube::Client,
    pub(crate) namespace: String,
}

impl Server {
    pub(crate) async fn connect(kubeconfig: &Path, global: &Global) -> Result<Self> {
        let client = client::connect(kubeconfig).await?;
        let namespace = match &global.namespace {
            Some(namespace) => namespace.clone(),
            None => client.default_namespace().to_owned(),
        };
        Ok(Self { client, namespace })
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Reads a path as JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.get_as(path, "application/json").await
    }

    /// Reads a path in one of the server's representations.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Value> {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// Reads a path as it is.
    pub(crate) async fn text(&self, path: &str) -> Result<String> {
        Ok(self.client.request_text(Request::get(path).body(Vec::new())?).await?)
    }

    /// The lines of an answer that may have no end.
    pub(crate) async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl AsyncBufRead + use<>> {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Vec::new())?;
        Ok(self.client.request_stream(request).await?)
    }

    /// Sends a body and reads the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content)
            .body(body)?;
        Ok(self.client.request(request).await?)
    }

    /// A merge patch.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        let path = with_query(path, &[("fieldManager", "kubectl")]);
        let body = serde_json::to_vec(patch)?;
        self.send(Method::PATCH, &path, "application/merge-patch+json", body).await
    }
}

/// A path with parameters; empty values are left out.
pub(crate) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut path = path.to_owned();
    let mut mark = if path.contains('?') { '&' } else { '?' };
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        path.push(mark);
        path.push_str(name);
        path.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    path.push(char::from(byte));
                }
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
        mark = '&';
    }
    path
}

/// Whether the server said that something is not there.
pub(crate) fn is_not_found(err: &anyhow::Error) -> bool {
    err.downcast_ref::<kube::Error>().is_some_and(client::is_not_found)
}

/// `kubectl version`
pub(crate) async fn version(server: &Server) -> Result<()> {
    println!("Client Version: v{}", env!("CARGO_PKG_VERSION"));
    let answer = server.get("/version").await?;
    let version = answer["gitVersion"].as_str().context("the server did not tell its version")?;
    println!("Server Version: {version}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped_and_empty_ones_left_out() {
        assert_eq!(
            with_query("/api/v1/pods", &[("labelSelector", "a in (b,c)"), ("fieldSelector", "")]),
            "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29"
        );
    }
}
