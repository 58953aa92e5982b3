//! The coordinates of a resource: what its URL is made of.

use std::borrow::Cow;

use crate::meta::Key;

/// Group, version, plural name and scope of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub namespaced: bool,
}

impl Resource {
    /// A namespaced resource; the core group is the empty string.
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        Resource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced: true,
        }
    }

    /// A cluster-scoped resource.
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        let mut resource = Self::namespaced(group, version, plural, kind);
        resource.namespaced = false;
        resource
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection; an empty namespace means all of them.
    pub fn collection(&self, namespace: &str) -> String {
        let (group, version, plural) = (&self.group, &self.version, &self.plural);
        let prefix = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        if self.namespaced && !namespace.is_empty() {
            format!("{prefix}/namespaces/{namespace}/{plural}")
        } else {
            format!("{prefix}/{plural}")
        }
    }

    /// The path of one object, or of a subresource when that is not empty.
    pub fn object(&self, key: &Key, subresource: &str) -> String {
        let mut path = self.collection(&key.namespace);
        path.push('/');
        path.push_str(&escape(&key.name));
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn escape(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_group_and_scope() {
        let pods = Resource::namespaced("", "v1", "pods", "Pod");
        let nodes = Resource::cluster("", "v1", "nodes", "Node");
        let sets = Resource::namespaced("apps", "v1", "replicasets", "ReplicaSet");
        assert_eq!(pods.collection(""), "/api/v1/pods");
        assert_eq!(
            pods.object(&Key::new("a", "b"), "status"),
            "/api/v1/namespaces/a/pods/b/status"
        );
        assert_eq!(nodes.object(&Key::cluster("n"), ""), "/api/v1/nodes/n");
        assert_eq!(sets.collection("x"), "/apis/apps/v1/namespaces/x/replicasets");
        let roles = Resource::cluster("r", "v1", "roles", "Role");
        assert_eq!(
            roles.object(&Key::cluster("system:a/b"), ""),
            "/apis/r/v1/roles/system%3Aa%2Fb"
        );
    }
}
