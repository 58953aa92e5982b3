//! What holds for every object, tried on objects and garbage made from seeds.
//!
//! Invariant: a seed always makes the same, so a failure names all that is needed to see it again.

use std::time::{Duration, Instant};

use api::schema::{Field, Node, Other, Type};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::apply::{FieldManager, OneVersion, Reset};
use crate::decode::{Expected, Media, body, walk};
use crate::encode::canonicalize;
use crate::patch::{self, PatchKind, Typing};
use crate::protobuf;

/// Numbers that look random (SplitMix64).
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or_default()
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn text(&mut self) -> String {
        const TEXTS: [&str; 9] = [
            "",
            "a",
            "web-1",
            "Ünïcode",
            "a \"quoted\" \\ text",
            "line\nbreak",
            "\u{1f980}",
            "0",
            "<&>",
        ];
        self.pick(&TEXTS).to_owned()
    }

    /// Any JSON, without null at its root.
    fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth < 3 { 6 } else { 4 }) {
            0 => json!(self.text()),
            1 => json!(self.next() % 1000),
            2 => json!(self.below(2) == 0),
            3 => json!(-1.5),
            4 => json!([self.json(depth + 1), null]),
            _ => json!({self.text(): self.json(depth + 1), "k": null}),
        }
    }

    /// A value of a type.
    fn value(&mut self, node: Node<'_>, depth: usize) -> Value {
        let second = i64::try_from(self.next() % 4_000_000_000).unwrap_or_default();
        let time = Timestamp::from_second(second).expect("within the calendar");
        match node.ty() {
            Type::String => json!(self.text()),
            Type::Bool => json!(self.below(2) == 0),
            Type::Int32 => json!(self.pick(&[0, 1, -1, 443, i32::MAX, i32::MIN])),
            Type::Int64 => json!(self.pick(&[0, 1, -1, 1 << 40, i64::MAX, i64::MIN])),
            Type::Double => json!(self.pick(&[0.5, -1.25, 1e-7, 1e21])),
            Type::Bytes => json!(self.pick(&["AA==", "aGVsbG8=", "//79"])),
            Type::Quantity => json!(self.pick(&["0", "100m", "1Gi", "1500m", "5", "1e3", "0.5"])),
            Type::IntOrString => self.pick(&[json!(0), json!(80), json!("http"), json!("50%")]),
            Type::Time => json!(format!("{time:.0}")),
            Type::MicroTime => json!(format!("{time:.0}").replace('Z', ".000123Z")),
            Type::Duration => json!(self.pick(&["0s", "1h0m0s", "1.5s", "-2m0s"])),
            Type::FieldsV1 => self.pick(&[json!({"f:a": {}}), json!({".": {}, "k:{\"n\":1}": {}})]),
            Type::RawExtension => json!({"kind": "K", "apiVersion": "v1", "x": self.json(1)}),
            Type::Any | Type::Open { .. } => self.json(0),
            Type::ObjectOr { object, other } => match (self.below(2), other) {
                (0, Other::Bool) => json!(self.below(2) == 0),
                (0, Other::Strings) => json!([self.text()]),
                (0, Other::Objects) => json!([self.value(node.schema.node(object), depth + 1)]),
                _ => self.value(node.schema.node(object), depth + 1),
            },
            Type::List { item, .. } => {
                let item = node.schema.node(item);
                (0..1 + self.below(2)).map(|_| self.value(item, depth + 1)).collect()
            }
            Type::Map { value, .. } => {
                let value = node.schema.node(value);
                (0..1 + self.below(2))
                    .map(|_| (self.text(), self.value(value, depth + 1)))
                    .collect()
            }
            Type::Object { .. } => self.object(node, depth),
        }
    }

    /// An object with some of its fields, fewer the deeper it stands.
    fn object(&mut self, node: Node<'_>, depth: usize) -> Value {
        let mut object = Map::new();
        let written = |field: &&Field| field.number != 0 || field.within != [0, 0];
        for field in node.fields().iter().filter(written) {
            if self.below(2 + depth) == 0 {
                let child = node.schema.node(field.ty);
                object
                    .insert(node.schema.text(field.name).to_owned(), self.value(child, depth + 1));
            }
        }
        Value::Object(object)
    }

    /// The object as the API keeps it; `None` where its types do not fit each other.
    fn stored(&mut self, node: Node<'_>) -> Option<Value> {
        let mut object = self.object(node, 0);
        walk(&mut object, node).ok()?;
        canonicalize(&mut object, node);
        Some(object)
    }

    /// Text with some of its bytes changed, dropped or doubled.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        const BYTES: [u8; 16] = *b"{}[]\",:\\0-e.n\x00\xff\n";
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(6) {
            let at = self.below(bytes.len().max(1));
            match self.below(4) {
                _ if bytes.is_empty() => {}
                0 => bytes[at] = self.pick(&BYTES),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, self.pick(&BYTES)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// The kinds that are stored and sent in protobuf, with their group and version.
fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, Node<'static>)> {
    let schema = api::schema::builtin();
    api::schema::kinds().iter().map(|kind| {
        let text = |name| schema.text(name);
        (text(kind.group), text(kind.version), text(kind.kind), schema.node(kind.ty))
    })
}

#[test]
fn json_to_protobuf_to_json_is_the_identity() {
    for (n, (group, version, kind, node)) in kinds().enumerate() {
        if node.fields().iter().all(|field| field.number == 0) {
            continue;
        }
        for round in 0..40 {
            let mut seed = Seed((n * 40 + round) as u64);
            let Some(object) = seed.stored(node) else { continue };
            let mut back = protobuf::decode(&protobuf::encode(&object, node), node)
                .unwrap_or_else(|err| panic!("{group}/{version} {kind} {round}: {err}: {object}"));
            canonicalize(&mut back, node);
            assert_eq!(back, object, "{group}/{version} {kind} {round}");
        }
    }
}

#[test]
fn what_is_kept_is_read_back_as_it_is() {
    for (n, (group, version, kind, node)) in kinds().enumerate() {
        let Some(object) = Seed(n as u64).stored(node) else { continue };
        let mut again = object.clone();
        let strict = walk(&mut again, node);
        assert!(strict.as_ref().is_ok_and(Vec::is_empty), "{group}/{version} {kind}: {strict:?}");
        canonicalize(&mut again, node);
        assert_eq!(again, object, "{group}/{version} {kind}");
    }
}

const APPLIED: &[(&str, &str, &str)] = &[
    ("", "v1", "ConfigMap"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Node"),
    ("", "v1", "PersistentVolumeClaim"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("batch", "v1", "CronJob"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("resource.k8s.io", "v1", "ResourceClaim"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
];

fn config(seed: &mut Seed, node: Node<'_>, api_version: &str, kind: &str) -> Value {
    let mut config = seed.object(node, 0);
    config["apiVersion"] = json!(api_version);
    config["kind"] = json!(kind);
    config["metadata"] = json!({"name": "x", "labels": {"a": seed.text()}});
    let _mistyped = walk(&mut config, node);
    config
}

#[test]
fn applying_twice_changes_nothing() {
    let (mut applied, now) = (0, Timestamp::UNIX_EPOCH);
    for (n, (group, version, kind)) in APPLIED.iter().enumerate() {
        let node = api::schema::kind(group, version, kind).expect("a kind");
        let api_version = api::resources::api_version(group, version);
        let manager = FieldManager {
            node,
            api_version: &api_version,
            kind,
            subresource: "",
            reset: Reset::Nothing,
            versions: &OneVersion,
        };
        for round in 0..200 {
            let mut seed = Seed((n * 1000 + round) as u64);
            let config = config(&mut seed, node, &api_version, kind);
            let Ok(mut first) = manager.apply(None, &config, "one", false, now) else { continue };
            first["metadata"]["uid"] = json!("u");
            let later = Timestamp::from_second(60).expect("a time");
            let second = manager.apply(Some(&first), &config, "one", false, later);
            let second = second.unwrap_or_else(|err| panic!("{kind} {round}: {err}: {config}"));
            assert_eq!(second, first, "{kind} {round}: {config}");
            applied += 1;
        }
    }
    assert!(applied > APPLIED.len() * 10, "only {applied} configurations fit");
}

#[test]
fn patching_twice_changes_nothing() {
    let mut done = 0;
    for (n, (group, version, kind)) in APPLIED.iter().enumerate() {
        let node = api::schema::kind(group, version, kind).expect("a kind");
        let api_version = api::resources::api_version(group, version);
        for round in 0..40 {
            let mut seed = Seed((n * 1000 + round) as u64);
            let object = config(&mut seed, node, &api_version, kind);
            let patch = config(&mut seed, node, &api_version, kind).to_string();
            for how in [PatchKind::Merge, PatchKind::Strategic] {
                let patched = |object: Value| {
                    let done = patch::apply(how, object, patch.as_bytes(), node, Typing::Typed);
                    done.map(|patched| patched.value)
                };
                let Ok(first) = patched(object.clone()) else { continue };
                // Items without their merge key are taken as they come, and not found again.
                let Ok(second) = patched(first.clone()) else { continue };
                assert_eq!(second, first, "{how:?} {kind} {round}: {patch}");
                done += 1;
            }
        }
    }
    assert!(done > APPLIED.len() * 40, "only {done} patches fit");
}

#[test]
fn garbage_is_refused_soon() {
    let began = Instant::now();
    let node = api::schema::kind("", "v1", "Pod").expect("a kind");
    let expected = Expected { group: "", version: "v1", kind: "Pod", node };
    let manager = FieldManager {
        node,
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        reset: Reset::Nothing,
        versions: &OneVersion,
    };
    for round in 0..3000 {
        let mut seed = Seed(round);
        let pod = config(&mut seed, node, "v1", "Pod");
        let text = pod.to_string();
        let sent = protobuf::encode_object(&pod, node);
        for (media, good) in [
            (Media::Json, text.as_bytes()),
            (Media::Yaml, text.as_bytes()),
            (Media::Protobuf, &sent),
        ] {
            let _any_answer = body(&seed.damage(good), media, &expected);
        }
        let yaml = text.replace("\",\"", "\"\n- \"").replace(['{', '}'], " ");
        let _any_answer = body(&seed.damage(yaml.as_bytes()), Media::Yaml, &expected);
        let steps = json!([
            {"op": "add", "path": "/metadata/labels/x", "value": seed.json(0)},
            {"op": "test", "path": "/spec/containers/0", "value": {}},
            {"op": "move", "from": "/metadata", "path": "/spec/x"},
        ]);
        let steps = seed.damage(steps.to_string().as_bytes());
        let _any_answer = patch::apply(PatchKind::Json, pod.clone(), &steps, node, Typing::Typed);
        let directives = json!({"$patch": "replace", "$retainKeys": ["a"],
            "spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [
                {"name": "a", "$patch": seed.text()}], "$deleteFromPrimitiveList/x": [1]}});
        for patch in [text.as_bytes(), directives.to_string().as_bytes()] {
            let patch = seed.damage(patch);
            for how in [PatchKind::Merge, PatchKind::Strategic] {
                let _any_answer = patch::apply(how, pod.clone(), &patch, node, Typing::Typed);
            }
        }
        let Ok(config) = serde_json::from_slice::<Value>(&seed.damage(text.as_bytes())) else {
            continue;
        };
        let mut live = pod.clone();
        live["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply",
            "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": seed.json(0)}]);
        let _any_answer = manager.apply(Some(&live), &config, "one", true, Timestamp::UNIX_EPOCH);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "took {:?}", began.elapsed());
}
