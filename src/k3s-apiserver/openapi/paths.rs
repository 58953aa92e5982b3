//! The operations of a group version. Clients read from them which query parameters a patch takes
//! and which kind a path is about.

use serde_json::{Map, Value, json};

use api::resources::Resource;

use super::schemas::{Dialect, gvk, name, reference};

/// `/api/v1` or `/apis/<group>/<version>`.
pub(super) fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// What the paths of one resource say; definitions by their published names.
pub(super) struct Described<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub kind: &'a str,
    pub namespaced: bool,
    pub verbs: Vec<&'a str>,
    pub own: String,
    pub list: String,
    pub subresources: Vec<DescribedSub<'a>>,
    /// Custom resources know neither protobuf nor strategic merges.
    pub custom: bool,
}

/// What the paths of a subresource say.
pub(super) struct DescribedSub<'a> {
    pub name: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub verbs: Vec<&'a str>,
    /// Empty for those without a body.
    pub own: String,
}

impl Described<'_> {
    fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

impl From<&'static Resource> for Described<'static> {
    fn from(resource: &'static Resource) -> Self {
        let schema = api::schema::builtin();
        let named = |ty| name(schema.node(ty));
        let subresources = resource.subresources.iter().map(|sub| DescribedSub {
            name: sub.name,
            group: sub.group,
            version: sub.version,
            kind: sub.kind,
            verbs: sub.verbs.to_vec(),
            own: sub.ty.and_then(named).unwrap_or_default(),
        });
        Self {
            group: resource.group,
            version: resource.version,
            plural: resource.plural,
            kind: resource.kind,
            namespaced: resource.namespaced,
            verbs: resource.verbs.to_vec(),
            own: named(resource.ty).unwrap_or_default(),
            list: resource.list_ty.and_then(named).unwrap_or_default(),
            subresources: subresources.collect(),
            custom: false,
        }
    }
}

/// All paths of a group version.
pub(super) fn paths(
    group: &str,
    version: &str,
    resources: &[Described<'_>],
    dialect: Dialect,
) -> Map<String, Value> {
    let base = root(group, version);
    let mut paths = Map::new();
    let mut index = Builder { dialect, item: Map::new(), custom: false };
    index.operation(
        "get",
        Operation { response: &format!("{META}APIResourceList"), ..Operation::default() },
    );
    paths.insert(format!("{base}/"), Value::Object(index.item));
    for resource in resources {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{scope}/{}", resource.plural);
        add_resource(&mut paths, resource, &base, &collection, dialect);
        add_subresources(&mut paths, resource, &collection, dialect);
    }
    paths
}

/// One operation, before it is written.
#[derive(Default)]
struct Operation<'a> {
    action: &'a str,
    gvk: Option<Value>,
    /// Definition names.
    body: &'a str,
    response: &'a str,
    query: &'a [(&'a str, &'a str)],
    patch: bool,
}

struct Builder {
    dialect: Dialect,
    custom: bool,
    item: Map<String, Value>,
}

impl Builder {
    fn operation(&mut self, method: &str, operation: Operation<'_>) {
        let mut parameters =
            operation.query.iter().map(|(name, ty)| self.query(name, ty)).collect::<Vec<_>>();
        if operation.patch {
            parameters.push(self.query("force", "boolean"));
        }
        let mut map = Map::new();
        let media = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
        let patches = [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ];
        let (media, patches) = match self.custom {
            true => (&media[..2], &patches[..3]),
            false => (&media[..], &patches[..]),
        };
        let consumes = if operation.patch { patches } else { media };
        let response = match (operation.response, self.dialect) {
            ("", _) => json!({"description": "OK"}),
            (name, Dialect::V2) => {
                map.insert("produces".to_owned(), json!(media));
                json!({"description": "OK", "schema": reference(name, self.dialect)})
            }
            (name, Dialect::V3) => {
                let schema = json!({"schema": reference(name, self.dialect)});
                let content = media.iter().map(|media| ((*media).to_owned(), schema.clone()));
                json!({"description": "OK", "content": content.collect::<Map<_, _>>()})
            }
        };
        map.insert(
            "responses".to_owned(),
            json!({"200": response, "401": {"description": "Unauthorized"}}),
        );
        match (operation.body, self.dialect) {
            ("", _) => {}
            (name, Dialect::V2) => {
                map.insert("consumes".to_owned(), json!(consumes));
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": reference(name, self.dialect)}));
            }
            (name, Dialect::V3) => {
                let schema = json!({"schema": reference(name, self.dialect)});
                let content = consumes.iter().map(|media| ((*media).to_owned(), schema.clone()));
                let body = json!({"required": true, "content": content.collect::<Map<_, _>>()});
                map.insert("requestBody".to_owned(), body);
            }
        }
        if !parameters.is_empty() {
            map.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(gvk) = operation.gvk {
            map.insert("x-kubernetes-action".to_owned(), operation.action.into());
            map.insert("x-kubernetes-group-version-kind".to_owned(), gvk);
        }
        self.item.insert(method.to_owned(), Value::Object(map));
    }

    fn query(&self, name: &str, ty: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"name": name, "in": "query", "type": ty, "uniqueItems": true}),
            Dialect::V3 => {
                json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
            }
        }
    }

    fn path_parameters(&mut self, path: &str) {
        let names = ["name", "namespace", "path"];
        let names = names.into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
        let parameter = |name: &str| match self.dialect {
            Dialect::V2 => {
                json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true})
            }
            Dialect::V3 => {
                json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
            }
        };
        let parameters = names.map(parameter).collect::<Vec<_>>();
        if !parameters.is_empty() {
            self.item.insert("parameters".to_owned(), parameters.into());
        }
    }

    fn finish(mut self, paths: &mut Map<String, Value>, path: String) {
        if self.item.is_empty() {
            return;
        }
        self.path_parameters(&path);
        paths.insert(path, Value::Object(self.item));
    }
}

fn add_resource(
    paths: &mut Map<String, Value>,
    resource: &Described<'_>,
    base: &str,
    collection: &str,
    dialect: Dialect,
) {
    let (own, list) = (resource.own.as_str(), resource.list.as_str());
    let status = format!("{META}Status");
    let options = format!("{META}DeleteOptions");
    let patch = format!("{META}Patch");
    let event = format!("{META}WatchEvent");
    let gvk = || Some(gvk(resource.group, resource.version, resource.kind));
    let has = |verb: &str| resource.has_verb(verb);
    let mut many = Builder { dialect, item: Map::new(), custom: resource.custom };
    if has("list") {
        many.operation(
            "get",
            Operation {
                action: "list",
                gvk: gvk(),
                response: list,
                query: LIST,
                ..Operation::default()
            },
        );
    }
    if has("create") {
        many.operation(
            "post",
            Operation {
                action: "post",
                gvk: gvk(),
                body: own,
                response: own,
                query: WRITE,
                ..Operation::default()
            },
        );
    }
    if has("deletecollection") {
        many.operation(
            "delete",
            Operation {
                action: "deletecollection",
                gvk: gvk(),
                body: &options,
                response: &status,
                query: LIST,
                ..Operation::default()
            },
        );
    }
    many.finish(paths, collection.to_owned());
    let mut one = Builder { dialect, item: Map::new(), custom: resource.custom };
    if has("get") {
        one.operation(
            "get",
            Operation { action: "get", gvk: gvk(), response: own, ..Operation::default() },
        );
    }
    if has("update") {
        one.operation(
            "put",
            Operation {
                action: "put",
                gvk: gvk(),
                body: own,
                response: own,
                query: WRITE,
                ..Operation::default()
            },
        );
    }
    if has("patch") {
        one.operation(
            "patch",
            Operation {
                action: "patch",
                gvk: gvk(),
                body: &patch,
                response: own,
                query: WRITE,
                patch: true,
            },
        );
    }
    if has("delete") {
        one.operation(
            "delete",
            Operation {
                action: "delete",
                gvk: gvk(),
                body: &options,
                response: &status,
                query: DELETE,
                ..Operation::default()
            },
        );
    }
    one.finish(paths, format!("{collection}/{{name}}"));
    if resource.namespaced && has("list") {
        let mut all = Builder { dialect, item: Map::new(), custom: resource.custom };
        all.operation(
            "get",
            Operation {
                action: "list",
                gvk: gvk(),
                response: list,
                query: LIST,
                ..Operation::default()
            },
        );
        all.finish(paths, format!("{base}/{}", resource.plural));
    }
    if has("watch") {
        let below = &collection[base.len()..];
        let mut watched =
            vec![format!("{base}/watch{below}"), format!("{base}/watch{below}/{{name}}")];
        if resource.namespaced {
            watched.push(format!("{base}/watch/{}", resource.plural));
        }
        for path in watched {
            let action = if path.ends_with("{name}") { "watch" } else { "watchlist" };
            let mut builder = Builder { dialect, item: Map::new(), custom: resource.custom };
            builder.operation(
                "get",
                Operation {
                    action,
                    gvk: gvk(),
                    response: &event,
                    query: LIST,
                    ..Operation::default()
                },
            );
            builder.finish(paths, path);
        }
    }
}

fn add_subresources(
    paths: &mut Map<String, Value>,
    resource: &Described<'_>,
    collection: &str,
    dialect: Dialect,
) {
    let patch = format!("{META}Patch");
    for sub in &resource.subresources {
        let own = sub.own.as_str();
        let connect = own.is_empty();
        let gvk = || Some(gvk(sub.group, sub.version, sub.kind));
        let build = |suffix: &str, paths: &mut Map<String, Value>| {
            let mut builder = Builder { dialect, item: Map::new(), custom: resource.custom };
            for verb in &sub.verbs {
                let (method, action) = match *verb {
                    "create" => ("post", "post"),
                    "update" => ("put", "put"),
                    "patch" => ("patch", "patch"),
                    "delete" => ("delete", "delete"),
                    _ => ("get", "get"),
                };
                let action = if connect { "connect" } else { action };
                let is_patch = method == "patch" && !connect;
                let body = match method {
                    _ if connect => "",
                    "patch" => patch.as_str(),
                    "post" | "put" => own,
                    _ => "",
                };
                let query = if body.is_empty() { &[] } else { WRITE };
                builder.operation(
                    method,
                    Operation { action, gvk: gvk(), body, response: own, query, patch: is_patch },
                );
            }
            builder.finish(paths, format!("{collection}/{{name}}/{}{suffix}", sub.name));
        };
        build("", paths);
        if sub.name == "proxy" {
            build("/{path}", paths);
        }
    }
}
