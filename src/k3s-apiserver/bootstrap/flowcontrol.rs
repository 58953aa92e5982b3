//! The mandatory and suggested FlowSchemas and PriorityLevelConfigurations.
//!
//! They are kept as upstream keeps them: while the `autoupdate-spec` annotation is there, the spec
//! is ours; once a user removes it, suggested objects are left alone.

use serde_json::{Map, Value, json};

use super::{Item, Keep, Stamp};
use crate::registry::Object;
use crate::registry::value::{key, list, text};

pub(super) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const API: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Limited levels: name, shares, lendable percent, (queues, hand size, queue length) or reject.
const LEVELS: &[(&str, i32, i32, Option<(i32, i32, i32)>)] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

struct Schema {
    name: &'static str,
    precedence: i32,
    level: &'static str,
    by: Option<&'static str>,
    subjects: &'static [&'static str],
    rules: Rules,
}

enum Rules {
    Everything,
    Resources(&'static [Rule]),
    Urls(&'static [&'static str], &'static [&'static str]),
}

struct Rule {
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    cluster: bool,
}

const EVERYONE: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const LEASES: &[&str] = &["leases"];

const SCHEMAS: &[Schema] = &[
    Schema {
        name: "exempt",
        precedence: 1,
        level: "exempt",
        by: None,
        subjects: &["g:system:masters"],
        rules: Rules::Everything,
    },
    Schema {
        name: "probes",
        precedence: 2,
        level: "exempt",
        by: None,
        subjects: EVERYONE,
        rules: Rules::Urls(&["/healthz", "/readyz", "/livez"], &["get"]),
    },
    Schema {
        name: "system-leader-election",
        precedence: 100,
        level: "leader-election",
        by: Some("ByUser"),
        subjects: &[
            "u:system:kube-controller-manager",
            "u:system:kube-scheduler",
            "s:kube-system/*",
        ],
        rules: Rules::Resources(&[Rule {
            group: "coordination.k8s.io",
            resources: LEASES,
            verbs: &["get", "create", "update"],
            cluster: false,
        }]),
    },
    Schema {
        name: "system-node-high",
        precedence: 400,
        level: "node-high",
        by: Some("ByUser"),
        subjects: &["g:system:nodes"],
        rules: Rules::Resources(&[
            Rule { group: "", resources: &["nodes", "nodes/status"], verbs: &["*"], cluster: true },
            Rule { group: "coordination.k8s.io", resources: LEASES, verbs: &["*"], cluster: false },
        ]),
    },
    Schema {
        name: "system-nodes",
        precedence: 500,
        level: "system",
        by: Some("ByUser"),
        subjects: &["g:system:nodes"],
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-controller-manager",
        precedence: 800,
        level: "workload-high",
        by: Some("ByNamespace"),
        subjects: &["u:system:kube-controller-manager"],
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-scheduler",
        precedence: 800,
        level: "workload-high",
        by: Some("ByNamespace"),
        subjects: &["u:system:kube-scheduler"],
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-system-service-accounts",
        precedence: 900,
        level: "workload-high",
        by: Some("ByNamespace"),
        subjects: &["s:kube-system/*"],
        rules: Rules::Everything,
    },
    Schema {
        name: "service-accounts",
        precedence: 9000,
        level: "workload-low",
        by: Some("ByUser"),
        subjects: &["g:system:serviceaccounts"],
        rules: Rules::Everything,
    },
    Schema {
        name: "global-default",
        precedence: 9900,
        level: "global-default",
        by: Some("ByUser"),
        subjects: EVERYONE,
        rules: Rules::Everything,
    },
    Schema {
        name: "catch-all",
        precedence: 10000,
        level: "catch-all",
        by: Some("ByUser"),
        subjects: EVERYONE,
        rules: Rules::Everything,
    },
];

pub(super) fn items(stamp: &Stamp) -> Vec<Item> {
    let mut items = vec![level(
        "exempt",
        json!({
            "exempt": {"lendablePercent": 0, "nominalConcurrencyShares": 0},
            "type": "Exempt",
        }),
    )];
    for (name, shares, lendable, queues) in LEVELS {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => json!({
                "queuing": {"handSize": hand, "queueLengthLimit": length, "queues": queues},
                "type": "Queue",
            }),
        };
        items.push(level(
            name,
            json!({
                "limited": {
                    "lendablePercent": lendable,
                    "limitResponse": response,
                    "nominalConcurrencyShares": shares,
                },
                "type": "Limited",
            }),
        ));
    }
    for schema in SCHEMAS {
        items.push(flow_schema(schema, stamp));
    }
    items
}

/// The spec of an object that the server cannot do without; nobody may give it another.
pub(crate) fn mandatory_spec(kind: &str, name: &str) -> Option<Value> {
    if !matches!(name, "exempt" | "catch-all") {
        return None;
    }
    let items = items(&Stamp { now: String::new() }).into_iter().map(|item| item.object);
    items
        .into_iter()
        .find(|object| text(object, "kind") == kind && text(object, "metadata.name") == name)
        .map(|mut object| object["spec"].take())
}

/// The status that a FlowSchema should have, given whether its priority level exists; `None` when it
/// has it already.
pub(crate) fn dangling_status(schema: &Object, exists: bool, now: &str) -> Option<Value> {
    let level = text(schema, "spec.priorityLevelConfiguration.name");
    let want = condition(level, exists, now);
    let same = list(schema, "status.conditions")
        .iter()
        .find(|have| key(have, "type") == "Dangling")
        .is_some_and(|have| {
            ["status", "reason", "message"].iter().all(|name| key(have, name) == key(&want, name))
        });
    (!same).then(|| json!({"conditions": [want]}))
}

fn condition(level: &str, exists: bool, now: &str) -> Value {
    let (status, reason, tail) = if exists {
        ("False", "Found", "and it exists")
    } else {
        ("True", "NotFound", "but there is no such object")
    };
    json!({
        "lastTransitionTime": now,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {tail}"),
        "reason": reason,
        "status": status,
        "type": "Dangling",
    })
}

fn level(name: &str, spec: Value) -> Item {
    let mut object = shell("PriorityLevelConfiguration", name, spec);
    object["status"] = json!({});
    let resource = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
    Item { resource, object, keep: Keep::FlowSpec }
}

fn flow_schema(schema: &Schema, stamp: &Stamp) -> Item {
    let mut spec = json!({
        "matchingPrecedence": schema.precedence,
        "priorityLevelConfiguration": {"name": schema.level},
        "rules": [rules(schema)],
    });
    if let Some(by) = schema.by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    let mut object = shell("FlowSchema", schema.name, spec);
    object["status"] = json!({"conditions": [condition(schema.level, true, &stamp.now)]});
    Item { resource: "flowschemas.flowcontrol.apiserver.k8s.io", object, keep: Keep::FlowSpec }
}

fn rules(schema: &Schema) -> Value {
    let subjects: Value = schema.subjects.iter().map(|text| subject(text)).collect();
    let mut rule = json!({"subjects": subjects});
    match &schema.rules {
        Rules::Everything => {
            rule["nonResourceRules"] = json!([{"nonResourceURLs": ["*"], "verbs": ["*"]}]);
            rule["resourceRules"] = json!([{
                "apiGroups": ["*"], "clusterScope": true, "namespaces": ["*"],
                "resources": ["*"], "verbs": ["*"],
            }]);
        }
        Rules::Urls(urls, verbs) => {
            rule["nonResourceRules"] = json!([{"nonResourceURLs": urls, "verbs": verbs}]);
        }
        Rules::Resources(list) => {
            rule["resourceRules"] = list
                .iter()
                .map(|one| {
                    let mut out = json!({
                        "apiGroups": [one.group], "namespaces": ["*"],
                        "resources": one.resources, "verbs": one.verbs,
                    });
                    if one.cluster {
                        out["clusterScope"] = json!(true);
                    }
                    out
                })
                .collect();
        }
    }
    rule
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("u", name)) => json!({"kind": "User", "user": {"name": name}}),
        Some(("g", name)) => json!({"kind": "Group", "group": {"name": name}}),
        Some((_, account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("kube-system", account));
            json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": namespace}})
        }
        None => Value::Null,
    }
}

fn shell(kind: &str, name: &str, spec: Value) -> Object {
    let mut annotations = Map::new();
    annotations.insert(AUTOUPDATE.to_owned(), json!("true"));
    json!({
        "apiVersion": API,
        "kind": kind,
        "metadata": {"name": name, "annotations": annotations, "generation": 1},
        "spec": spec,
    })
}
