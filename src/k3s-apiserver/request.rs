//! What a request is about, read from its method and URL: upstream's `RequestInfo`.

use http::Method;

/// The parts of `/apis/<group>/<version>/namespaces/<namespace>/<resource>/<name>/<subresource>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    /// `get list watch create update patch delete deletecollection`, or the method in lower case
    /// for paths that name no resource.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What comes after the subresource (proxy paths), without a leading slash.
    pub rest: String,
}

/// Subresources of a Namespace: `/namespaces/x/status` is not a resource named status.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

impl RequestInfo {
    /// Reads method and URL. Never fails: what is no resource path is a plain path.
    pub fn new(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), ..Self::default() };
        info.verb = match *method {
            Method::GET => "get",
            Method::HEAD => "head",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::OPTIONS => "options",
            _ => "",
        };
        let mut parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let prefix = match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => 2,
            Some("apis") if parts.len() >= 4 => 3,
            _ => return info,
        };
        let rest = parts.split_off(prefix);
        if prefix == 3 {
            info.group = std::mem::take(&mut parts[1]);
        }
        info.version = parts.pop().unwrap_or_default();
        info.is_resource = true;
        info.read_resource(method, rest, query);
        info
    }

    fn read_resource(&mut self, method: &Method, mut parts: Vec<String>, query: &Query) {
        let watch_path = parts.len() > 1 && parts[0] == "watch";
        if watch_path {
            parts.remove(0);
        }
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].clone();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        self.resource = parts.next().unwrap_or_default();
        self.name = parts.next().unwrap_or_default();
        self.subresource = parts.next().unwrap_or_default();
        self.rest = parts.collect::<Vec<_>>().join("/");
        let named = !self.name.is_empty();
        let wants_watch = watch_path || query.flag("watch");
        match self.verb {
            "get" if watch_path || (!named && wants_watch) => self.verb = "watch",
            "get" if !named => self.verb = "list",
            "delete" if !named => self.verb = "deletecollection",
            _ => {}
        }
        if matches!(self.verb, "list" | "watch" | "deletecollection")
            && !named
            && let Some(name) = query.get("fieldSelector").and_then(named_by_selector)
        {
            self.name = name;
        }
    }

    /// `/api/v1/configmaps` asks for all namespaces, `/api/v1/namespaces/x/configmaps` for one.
    pub fn group_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// `metadata.name=x` anywhere in a field selector.
fn named_by_selector(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    })
}

/// The parameters after `?`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|part| {
                    let (key, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value when it is not empty.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter as upstream reads it: present and neither `0` nor `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Percent-decoding; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, url: &str, want: [&str; 7]) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::new(&method, path, &Query::parse(Some(query)));
        let have = [
            info.verb,
            &info.group,
            &info.version,
            &info.namespace,
            &info.resource,
            &info.name,
            &info.subresource,
        ];
        assert_eq!(have, want, "{url}");
    }

    #[test]
    fn urls_say_what_is_asked() {
        check(Method::GET, "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]);
        check(Method::GET, "/api/v1/namespaces/a", ["get", "", "v1", "a", "namespaces", "a", ""]);
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            ["update", "", "v1", "a", "namespaces", "a", "finalize"],
        );
        check(
            Method::GET,
            "/apis/apps/v1/namespaces/a/deployments/d/status",
            ["get", "apps", "v1", "a", "deployments", "d", "status"],
        );
        check(
            Method::DELETE,
            "/api/v1/namespaces/a/pods",
            ["deletecollection", "", "v1", "a", "pods", "", ""],
        );
        check(Method::GET, "/api/v1/pods?watch=1", ["watch", "", "v1", "", "pods", "", ""]);
        check(
            Method::GET,
            "/api/v1/pods?fieldSelector=metadata.name%3Dx",
            ["list", "", "v1", "", "pods", "x", ""],
        );
        check(Method::GET, "/api/v1/watch/pods", ["watch", "", "v1", "", "pods", "", ""]);
        check(Method::GET, "/healthz", ["get", "", "", "", "", "", ""]);
        check(Method::GET, "/apis/apps/v1", ["get", "", "", "", "", "", ""]);
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decode("a%2Fb%zz%"), "a/b%zz%");
        assert_eq!(Query::parse(Some("a=x+y&b")).text("a"), "x y");
    }
}
