//! The words that a field may hold, and defaults that its Go comment names.
//!
//! `enums.txt` is taken from the `+enum` types of `k8s.io/api` v0.36: a type, its words with what
//! is said of each (after a tab), and the fields of that type (after an equals sign). The
//! documentation of `k8s-openapi` has neither.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

const ENUMS: &str = include_str!("enums.txt");

/// Adds the words to the schemas of the fields, described already, that hold them.
pub(super) fn add(schemas: &mut Map<String, Value>) {
    let (mut words, mut said) = (Vec::new(), String::new());
    for line in ENUMS.lines() {
        if let Some(word) = line.strip_prefix('\t') {
            let (word, text) = word.split_once('\t').unwrap_or((word, ""));
            words.push(word);
            let said = said_of(&mut said, word, text);
            debug_assert!(said.is_ok(), "a String takes all");
        } else if let Some(field) = line.strip_prefix('=') {
            let (owner, key) = field.split_once('\t').unwrap_or_default();
            let property = schemas
                .get_mut(&format!("io.k8s.api.{owner}"))
                .and_then(|schema| schema.get_mut("properties")?.get_mut(key)?.as_object_mut());
            property.into_iter().for_each(|property| limit(property, &words, &said));
        } else {
            words.clear();
            said.clear();
        }
    }
}

fn said_of(said: &mut String, word: &str, text: &str) -> std::fmt::Result {
    match text {
        "" => write!(said, "\n - `\"{word}\"`"),
        _ => write!(said, "\n - `\"{word}\"` {text}"),
    }
}

fn limit(property: &mut Map<String, Value>, words: &[&str], said: &str) {
    for of in ["items", "additionalProperties"] {
        if let Some(Value::Object(elements)) = property.get_mut(of) {
            elements.insert("enum".to_owned(), json!(words));
            return;
        }
    }
    property.insert("enum".to_owned(), json!(words));
    if let Some(Value::String(text)) = property.get_mut("description") {
        text.push_str("\n\nPossible enum values:");
        text.push_str(said);
    }
}

/// The default that the Go comment of an optional field names.
pub(super) fn default(owner: &str, key: &str) -> Option<Value> {
    let (_, kind) = owner.strip_prefix("io.k8s.api.")?.rsplit_once('.')?;
    let value = match (kind, key) {
        ("ContainerPort" | "ServicePort", "protocol") => json!("TCP"),
        (
            "ConfigMapEnvSource"
            | "ConfigMapKeySelector"
            | "ConfigMapProjection"
            | "ConfigMapVolumeSource"
            | "LocalObjectReference"
            | "SecretEnvSource"
            | "SecretKeySelector"
            | "SecretProjection",
            "name",
        ) => json!(""),
        ("GRPCAction", "service") => json!(""),
        ("FileKeySelector", "optional") => json!(false),
        ("ReplicationControllerSpec", "replicas") => json!(1),
        ("ReplicationControllerSpec", "minReadySeconds") => json!(0),
        ("ScaleSpec", "replicas") if owner.contains(".autoscaling.") => json!(0),
        ("DeviceToleration", "operator") => json!("Equal"),
        ("AzureDiskVolumeSource", "cachingMode") => json!("ReadWrite"),
        ("AzureDiskVolumeSource", "fsType") => json!("ext4"),
        ("AzureDiskVolumeSource", "kind") => json!("Shared"),
        ("AzureDiskVolumeSource", "readOnly") => json!(false),
        ("ISCSIPersistentVolumeSource" | "ISCSIVolumeSource", "iscsiInterface") => json!("default"),
        ("RBDPersistentVolumeSource" | "RBDVolumeSource", "pool") => json!("rbd"),
        ("RBDPersistentVolumeSource" | "RBDVolumeSource", "user") => json!("admin"),
        ("RBDPersistentVolumeSource" | "RBDVolumeSource", "keyring") => json!("/etc/ceph/keyring"),
        ("ScaleIOPersistentVolumeSource" | "ScaleIOVolumeSource", "storageMode") => {
            json!("ThinProvisioned")
        }
        ("ScaleIOPersistentVolumeSource" | "ScaleIOVolumeSource", "fsType") => json!("xfs"),
        _ => return None,
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_and_described() {
        let mut schemas = Map::new();
        schemas.insert(
            "io.k8s.api.core.v1.ServicePort".to_owned(),
            json!({"properties": {"protocol": {"type": "string", "description": "The protocol."}}}),
        );
        schemas.insert(
            "io.k8s.api.core.v1.PersistentVolumeSpec".to_owned(),
            json!({"properties": {"accessModes": {"type": "array", "items": {"type": "string"}}}}),
        );
        add(&mut schemas);
        let protocol = &schemas["io.k8s.api.core.v1.ServicePort"]["properties"]["protocol"];
        assert_eq!(
            *protocol,
            json!({"type": "string", "enum": ["SCTP", "TCP", "UDP"],
                "description": "The protocol.\n\nPossible enum values:\
                    \n - `\"SCTP\"` is the SCTP protocol.\
                    \n - `\"TCP\"` is the TCP protocol.\
                    \n - `\"UDP\"` is the UDP protocol."})
        );
        let spec = &schemas["io.k8s.api.core.v1.PersistentVolumeSpec"]["properties"];
        let modes = &spec["accessModes"]["items"]["enum"];
        let all = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
        assert_eq!(*modes, json!(all));
    }

    #[test]
    fn every_field_that_is_named_is_served() {
        for line in ENUMS.lines().filter_map(|line| line.strip_prefix('=')) {
            let (owner, key) = line.split_once('\t').unwrap();
            let node = api::schema::definition(&format!("io.k8s.api.{owner}"));
            assert!(node.is_some_and(|node| node.child(key).is_some()), "{owner}.{key}");
        }
    }
}
