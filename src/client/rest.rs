//! Typed requests: the verbs on any resource with any struct, and the API errors callers branch on.

use http::{Method, Request, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    meta::{Key, null_default},
    resource::{Resource, escape},
};

/// What a request can fail with; `Api` carries the server's `Status`.
pub type Error = kube::Error;

/// A client with verbs. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
}

/// How a patch body is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch<'a> {
    Json,
    Merge,
    Strategic,
    /// Server-side apply, forcing conflicts, as this field manager.
    Apply(&'a str),
}

/// `propagationPolicy` of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
    /// What the resource does by itself.
    Default,
}

/// What must still hold for a deletion to happen; empty strings are not checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preconditions<'a> {
    pub uid: &'a str,
    pub resource_version: &'a str,
}

/// A list answer.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub struct List<T> {
    pub metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "null_default")]
    pub items: Vec<T>,
}

/// `metadata` of a list answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
}

impl Rest {
    /// Verbs over this client.
    pub fn new(client: kube::Client) -> Self {
        Rest { client }
    }

    /// The client underneath.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Reads one object.
    pub async fn get<T: DeserializeOwned>(&self, of: &Resource, key: &Key) -> Result<T, Error> {
        self.send(Method::GET, &of.object(key, ""), "", Vec::new()).await
    }

    /// Lists a namespace, or everything when it is empty, with a raw query (`labelSelector=…`).
    pub async fn list<T: DeserializeOwned>(
        &self,
        of: &Resource,
        namespace: &str,
        query: &[(&str, &str)],
    ) -> Result<List<T>, Error> {
        let path = with_query(of.collection(namespace), query);
        self.send(Method::GET, &path, "", Vec::new()).await
    }

    /// Creates an object.
    pub async fn create<T: DeserializeOwned>(
        &self,
        of: &Resource,
        namespace: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(Error::SerdeError)?;
        self.send(Method::POST, &of.collection(namespace), "application/json", body).await
    }

    /// Creates a subresource (`binding`, `eviction`, `token`).
    pub async fn create_sub<T: DeserializeOwned>(
        &self,
        of: &Resource,
        key: &Key,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(Error::SerdeError)?;
        self.send(Method::POST, &of.object(key, subresource), "application/json", body).await
    }

    /// Replaces an object or, when named, its subresource.
    pub async fn update<T: DeserializeOwned>(
        &self,
        of: &Resource,
        key: &Key,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(Error::SerdeError)?;
        self.send(Method::PUT, &of.object(key, subresource), "application/json", body).await
    }

    /// Patches an object or, when named, its subresource.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        of: &Resource,
        key: &Key,
        subresource: &str,
        patch: Patch<'_>,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(Error::SerdeError)?;
        let mut path = of.object(key, subresource);
        let content = match patch {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
            Patch::Apply(manager) => {
                path = with_query(path, &[("fieldManager", manager), ("force", "true")]);
                "application/apply-patch+yaml"
            }
        };
        self.send(Method::PATCH, &path, content, body).await
    }

    /// Deletes an object.
    pub async fn delete(
        &self,
        of: &Resource,
        key: &Key,
        propagation: Propagation,
        preconditions: Preconditions<'_>,
    ) -> Result<(), Error> {
        self.delete_with(of, key, delete_options(propagation, preconditions)).await
    }

    /// Deletes an object and returns it as the server answered: marked for deletion, or as it was
    /// last; `None` when the server answered with a mere `Status`.
    pub async fn delete_returning<T: DeserializeOwned>(
        &self,
        of: &Resource,
        key: &Key,
        propagation: Propagation,
        preconditions: Preconditions<'_>,
    ) -> Result<Option<T>, Error> {
        let options = delete_options(propagation, preconditions);
        let body = serde_json::to_vec(&options).map_err(Error::SerdeError)?;
        let path = of.object(key, "");
        let answer: serde_json::Value =
            self.send(Method::DELETE, &path, "application/json", body).await?;
        if answer["kind"] == "Status" {
            return Ok(None);
        }
        serde_json::from_value(answer).map(Some).map_err(Error::SerdeError)
    }

    /// Deletes an object with these `DeleteOptions`.
    pub async fn delete_with(
        &self,
        of: &Resource,
        key: &Key,
        options: serde_json::Value,
    ) -> Result<(), Error> {
        let body = serde_json::to_vec(&options).map_err(Error::SerdeError)?;
        let path = of.object(key, "");
        let _: serde::de::IgnoredAny =
            self.send(Method::DELETE, &path, "application/json", body).await?;
        Ok(())
    }

    /// Deletes every object of a namespace that matches the query.
    pub async fn delete_collection(
        &self,
        of: &Resource,
        namespace: &str,
        query: &[(&str, &str)],
        propagation: Propagation,
    ) -> Result<(), Error> {
        let body = delete_options(propagation, Preconditions::default());
        let body = serde_json::to_vec(&body).map_err(Error::SerdeError)?;
        let path = with_query(of.collection(namespace), query);
        let _: serde::de::IgnoredAny =
            self.send(Method::DELETE, &path, "application/json", body).await?;
        Ok(())
    }

    /// Reads any path.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send(Method::GET, path, "", Vec::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<T, Error> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if !content.is_empty() {
            request = request.header(header::CONTENT_TYPE, content);
        }
        self.client.request(request.body(body).map_err(Error::HttpError)?).await
    }
}

/// Whether the server said that the object does not exist.
pub fn is_not_found(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 404)
}

/// Whether the write was based on an old version, or a precondition did not hold.
pub fn is_conflict(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// Whether an object of this name exists already.
pub fn is_already_exists(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.reason == "AlreadyExists")
}

/// Whether the resource version is too old to continue from.
pub fn is_gone(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 410)
}

/// Whether validation refused the object.
pub fn is_invalid(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 422)
}

/// Whether authorisation or admission refused the request.
pub fn is_forbidden(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 403)
}

/// Whether a creation was refused because its namespace is ending: the one refusal that no retry
/// changes.
pub fn is_namespace_terminating(err: &Error) -> bool {
    matches!(err, Error::Api(status) if status.code == 403
        && status.details.as_ref().is_some_and(|details|
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")))
}

/// The server's own words for an API error, the cause for every other.
pub fn describe(err: &Error) -> String {
    match err {
        Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(err) = cause {
                let more = err.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = err.source();
            }
            text
        }
    }
}

pub(crate) fn with_query(mut path: String, query: &[(&str, &str)]) -> String {
    for (at, (name, value)) in query.iter().enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.push_str(&escape(value));
    }
    path
}

fn delete_options(propagation: Propagation, preconditions: Preconditions<'_>) -> serde_json::Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    let policy = match propagation {
        Propagation::Background => Some("Background"),
        Propagation::Foreground => Some("Foreground"),
        Propagation::Orphan => Some("Orphan"),
        Propagation::Default => None,
    };
    if let Some(policy) = policy {
        options["propagationPolicy"] = json!(policy);
    }
    if !preconditions.uid.is_empty() {
        options["preconditions"]["uid"] = json!(preconditions.uid);
    }
    if !preconditions.resource_version.is_empty() {
        options["preconditions"]["resourceVersion"] = json!(preconditions.resource_version);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let path =
            with_query("/api/v1/pods".into(), &[("labelSelector", "a=b,c!=d"), ("limit", "5")]);
        assert_eq!(path, "/api/v1/pods?labelSelector=a%3Db%2Cc%21%3Dd&limit=5");
    }

    #[test]
    fn deletions_carry_only_what_was_asked() {
        let plain = delete_options(Propagation::Default, Preconditions::default());
        assert_eq!(plain, json!({"kind": "DeleteOptions", "apiVersion": "v1"}));
        let full = delete_options(
            Propagation::Background,
            Preconditions { uid: "u", resource_version: "5" },
        );
        assert_eq!(full["preconditions"], json!({"uid": "u", "resourceVersion": "5"}));
    }
}
