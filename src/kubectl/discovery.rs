//! Names of types: `po`, `pods`, `Pod`, `deployments.apps` and `all` to resources of the server.

use anyhow::{Result, bail};
use client::{Key, Resource};
use serde_json::Value;

use crate::server::Server;
use crate::table;

const ACCEPT: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One type that the server has, at its preferred version.
#[derive(Clone, Debug)]
pub(crate) struct Type {
    pub(crate) resource: Resource,
    singular: String,
    short: Vec<String>,
    categories: Vec<String>,
    verbs: Vec<String>,
    preferred: bool,
}

impl Type {
    /// `deployment.apps/web`, `pod/web`
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.qualified())
    }

    /// `deployment.apps`, `pod`
    pub(crate) fn qualified(&self) -> String {
        let kind = self.resource.kind.to_lowercase();
        match self.resource.group.as_ref() {
            "" => kind,
            group => format!("{kind}.{group}"),
        }
    }

    /// `deployments.apps`, `pods`
    pub(crate) fn plural(&self) -> String {
        match self.resource.group.as_ref() {
            "" => self.resource.plural.to_string(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }

    /// The path of one object or, with an empty name, of all in the namespace.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.resource.namespaced { namespace } else { "" };
        match name {
            "" => self.resource.collection(namespace),
            name => self.resource.object(&Key::new(namespace, name), ""),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        let (name, group) = match name.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (name, None),
        };
        let lower = name.to_lowercase();
        let is = self.resource.plural == lower
            || self.singular == lower
            || self.resource.kind.to_lowercase() == lower
            || self.short.contains(&lower);
        // `deployments.v1.apps` names the version too.
        let of = |group: &str| {
            self.resource.group == group
                || group.split_once('.').is_some_and(|(version, rest)| {
                    self.resource.version == version && self.resource.group == rest
                })
                || (self.resource.group.is_empty() && self.resource.version == group)
        };
        is && group.is_none_or(of)
    }
}

/// Every type of the server.
pub(crate) struct Types(Vec<Type>);

impl Types {
    pub(crate) async fn read(server: &Server) -> Result<Self> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let answer = server.get_as(path, ACCEPT).await?;
            for group in items(&answer, "items") {
                let name = text(&group["metadata"]["name"]);
                for (index, version) in items(group, "versions").iter().enumerate() {
                    let of_version = items(version, "resources").iter();
                    let version = text(&version["version"]);
                    all.extend(of_version.map(|it| read(it, &name, &version, index == 0)));
                }
            }
        }
        Ok(Self(all))
    }

    /// The types that a name stands for: one, or those of a category.
    pub(crate) fn find(&self, name: &str) -> Result<Vec<&Type>> {
        // An older version counts only where it is asked for, or where no newer one has the type.
        let found = |preferred: bool| {
            self.0.iter().find(|it| (it.preferred || !preferred) && it.answers_to(name))
        };
        if let Some(one) = found(true).or_else(|| found(false)) {
            return Ok(vec![one]);
        }
        let in_category =
            |it: &&Type| it.preferred && it.categories.iter().any(|have| have == name);
        let all: Vec<&Type> = self.0.iter().filter(in_category).collect();
        if all.is_empty() {
            bail!("the server doesn't have a resource type {name:?}");
        }
        Ok(all)
    }

    /// The type of an object that says its `apiVersion` and `kind`.
    pub(crate) fn of(&self, object: &Value) -> Result<&Type> {
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let found = self
            .0
            .iter()
            .find(|it| it.resource.api_version() == version && it.resource.kind == kind);
        found.ok_or_else(|| {
            anyhow::anyhow!(
                "resource mapping not found for name: {:?} namespace: {:?}: no matches for kind \
                 {kind:?} in version {version:?}\nensure CRDs are installed first",
                text(&object["metadata"]["name"]),
                text(&object["metadata"]["namespace"]),
            )
        })
    }
}

fn read(it: &Value, group: &str, version: &str, preferred: bool) -> Type {
    let list = |name: &str| items(it, name).iter().map(text).collect::<Vec<_>>();
    Type {
        resource: Resource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: text(&it["resource"]).into(),
            kind: text(&it["responseKind"]["kind"]).into(),
            namespaced: it["scope"] == "Namespaced",
        },
        singular: text(&it["singularResource"]),
        short: list("shortNames"),
        categories: list("categories"),
        verbs: list("verbs"),
        preferred,
    }
}

/// A list inside a value, empty when there is none.
pub(crate) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The text of a value, empty for everything else.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `kubectl api-resources`
pub(crate) async fn print(server: &Server) -> Result<()> {
    let types = Types::read(server).await?;
    let head = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut listed: Vec<&Type> = types
        .0
        .iter()
        .filter(|it| it.preferred && it.verbs.iter().any(|verb| verb == "list" || verb == "create"))
        .collect();
    listed.sort_by_key(|it| (it.resource.group.clone(), it.resource.plural.clone()));
    for it in listed {
        rows.push(vec![
            it.resource.plural.to_string(),
            it.short.join(","),
            it.resource.api_version(),
            it.resource.namespaced.to_string(),
            it.resource.kind.to_string(),
        ]);
    }
    print!("{}", table::align(&rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn types() -> Types {
        let one = |plural: &str, kind: &str, short: &[&str], group: &str, preferred| {
            let it = json!({
                "resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced",
                "singularResource": kind.to_lowercase(), "shortNames": short,
                "categories": ["all"], "verbs": ["list"],
            });
            read(&it, group, "v1", preferred)
        };
        Types(vec![
            one("pods", "Pod", &["po"], "", true),
            one("events", "Event", &["ev"], "", true),
            one("events", "Event", &["ev"], "events.k8s.io", true),
            one("deployments", "Deployment", &["deploy"], "apps", true),
        ])
    }

    fn check(name: &str, expected: &[&str]) {
        let types = types();
        let found = types.find(name);
        let found: Vec<String> = found.iter().flatten().map(|it| it.qualified()).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn types_answer_to_all_their_names() {
        for name in ["po", "pod", "pods", "Pod", "pods.v1"] {
            check(name, &["pod"]);
        }
        check("deploy", &["deployment.apps"]);
        check("deployments.apps", &["deployment.apps"]);
        check("deployments.v1.apps", &["deployment.apps"]);
        check("events", &["event"]);
        check("events.events.k8s.io", &["event.events.k8s.io"]);
        check("all", &["pod", "event", "event.events.k8s.io", "deployment.apps"]);
        check("nonsense", &[]);
    }
}
