//! The objects that the provisioner makes: volumes, and the pods that make and delete their folders.
//! Pure.

use serde_json::{Value, json};

use super::{
    CONFIG, NAMESPACE, OF_CLAIM, PROVISIONER,
    config::{Place, volume_name},
};
use crate::types::storage::{Claim, StorageClass};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Making a folder, or deleting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Create,
    Delete,
}

impl Task {
    pub(super) fn pod_name(self, volume: &str) -> String {
        match self {
            Task::Create => format!("helper-pod-create-{volume}"),
            Task::Delete => format!("helper-pod-delete-{volume}"),
        }
    }

    fn script(self) -> &'static str {
        match self {
            Task::Create => "setup",
            Task::Delete => "teardown",
        }
    }
}

/// What a helper pod works on.
pub(super) struct Work<'a> {
    pub(super) task: Task,
    pub(super) volume: &'a str,
    /// `namespace/name` of the claim, or the volume's name, to find back.
    pub(super) of: &'a str,
    pub(super) node: &'a str,
    pub(super) base: &'a str,
    pub(super) path: &'a str,
    pub(super) bytes: i64,
    pub(super) mode: &'a str,
}

/// The helper pod: the template's, with the script and the folder.
pub(super) fn helper(template: &Value, work: &Work<'_>) -> Result<Value, String> {
    let mut pod = template.clone();
    let containers = pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    let container = containers
        .and_then(|it| it.first_mut())
        .ok_or("helper pod template does not specify any container")?;
    container["command"] = json!(["/bin/sh", format!("/script/{}", work.task.script())]);
    let mut push = |field: &str, values: Value| {
        let values = values.as_array().cloned().unwrap_or_default();
        match container[field].as_array_mut() {
            Some(list) => list.extend(values),
            None => container[field] = json!(values),
        }
    };
    push(
        "env",
        json!([
            {"name": "VOL_DIR", "value": work.path},
            {"name": "VOL_MODE", "value": work.mode},
            {"name": "VOL_SIZE_BYTES", "value": work.bytes.to_string()},
        ]),
    );
    push(
        "volumeMounts",
        json!([
            {"name": "script", "mountPath": "/script"},
            {"name": "data", "mountPath": work.base},
        ]),
    );
    let volumes = [
        json!({"name": "data", "hostPath": {"path": work.base, "type": "DirectoryOrCreate"}}),
        json!({"name": "script", "configMap": {"name": CONFIG, "items": [
            {"key": "setup", "path": "setup"}, {"key": "teardown", "path": "teardown"},
        ]}}),
    ];
    let spec = &mut pod["spec"];
    match spec["volumes"].as_array_mut() {
        Some(list) => list.extend(volumes),
        None => spec["volumes"] = json!(volumes),
    }
    spec["restartPolicy"] = json!("Never");
    spec["nodeName"] = json!(work.node);
    spec["automountServiceAccountToken"] = json!(false);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(work.task.pod_name(work.volume));
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod["metadata"]["annotations"][OF_CLAIM] = json!(work.of);
    Ok(pod)
}

/// The volume of a claim.
pub(super) fn volume(claim: &Claim, class: &StorageClass, place: &Place, node: &str) -> Value {
    let kind = claim
        .metadata
        .annotation("volumeType")
        .or_else(|| class.metadata.annotation("defaultVolumeType"))
        .unwrap_or("hostPath");
    let path = place.path();
    let policy = match class.reclaim_policy.as_str() {
        "" => "Delete",
        policy => policy,
    };
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {
                "pv.kubernetes.io/provisioned-by": PROVISIONER,
                "local.path.provisioner/selected-node": node,
            },
        },
        "spec": {
            "accessModes": claim.spec.access_modes,
            "capacity": {"storage": claim.spec.resources.requests.get("storage")},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
            },
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
        },
    });
    if kind.eq_ignore_ascii_case("local") {
        volume["spec"]["local"] = json!({"path": path});
    } else {
        volume["spec"]["hostPath"] = json!({"path": path, "type": "DirectoryOrCreate"});
    }
    if !place.shared {
        let key = class.parameters.get("nodeAffinityKey").map_or(HOSTNAME, String::as_str);
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [node]}]},
        ]}});
    }
    volume
}

/// What no local volume can do for a claim.
pub(super) fn refusal(claim: &Claim, shared: bool) -> Option<&'static str> {
    if claim.spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported");
    }
    if claim.spec.volume_mode.as_deref() == Some("Block") {
        return Some("block volume is not supported");
    }
    let single = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
    let modes = shared || claim.spec.access_modes.iter().all(single);
    (!modes)
        .then_some("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: &str) -> Claim {
        let text =
            format!(r#"{{"metadata":{{"namespace":"n","name":"c","uid":"u"}},"spec":{{{spec}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_helper_pod_runs_a_script_on_the_node() {
        let template = json!({"spec": {"containers": [{"image": "x", "env": [{"name": "A"}]}]}});
        let work = Work {
            task: Task::Delete,
            volume: "pvc-u",
            of: "n/c",
            node: "a",
            base: "/data",
            path: "/data/pvc-u_n_c",
            bytes: 5,
            mode: "Filesystem",
        };
        let pod = helper(&template, &work).unwrap();
        assert_eq!(pod["metadata"]["name"], "helper-pod-delete-pvc-u");
        assert_eq!(pod["spec"]["nodeName"], "a");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["/bin/sh", "/script/teardown"]));
        assert_eq!(container["env"].as_array().unwrap().len(), 4);
        assert_eq!(container["env"][1], json!({"name": "VOL_DIR", "value": "/data/pvc-u_n_c"}));
        assert!(helper(&json!({}), &work).is_err());
    }

    #[test]
    fn a_volume_is_pinned_to_its_node_unless_all_share_it() {
        let class: StorageClass =
            serde_json::from_str(r#"{"metadata":{"name":"local-path"},"reclaimPolicy":"Retain"}"#)
                .unwrap();
        let claim = claim(r#""resources":{"requests":{"storage":"1Gi"}}"#);
        let mut place = Place { base: "/d".into(), folder: "f".into(), shared: false };
        let made = volume(&claim, &class, &place, "a");
        assert_eq!(made["spec"]["hostPath"]["path"], "/d/f");
        assert_eq!(made["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        let path = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
        assert_eq!(made.pointer(path).unwrap(), "a");
        place.shared = true;
        assert!(volume(&claim, &class, &place, "a")["spec"]["nodeAffinity"].is_null());
    }

    #[test]
    fn what_a_folder_cannot_do_is_refused() {
        let check = |spec: &str, shared, want: bool| {
            assert_eq!(refusal(&claim(spec), shared).is_some(), want, "{spec}");
        };
        check(r#""accessModes":["ReadWriteOnce"]"#, false, false);
        check(r#""accessModes":["ReadWriteMany"]"#, false, true);
        check(r#""accessModes":["ReadWriteMany"]"#, true, false);
        check(r#""volumeMode":"Block""#, true, true);
        check(r#""selector":{"matchLabels":{"a":"b"}}"#, true, true);
    }
}
