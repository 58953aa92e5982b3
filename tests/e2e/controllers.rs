//! What controllers and the scheduler promise beyond running pods: policies of Jobs, claims of
//! StatefulSets, preemption.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Step;
use crate::cluster::{Cluster, IMAGE, PATIENCE, apply, kubectl, kubectl_fails};

pub(super) const STEPS: &[Step] = &[
    ("a Job fails an index by its own limit and completes the others", job_per_index),
    ("a Job's policies end it early", job_policies),
    ("claims go with their StatefulSet where that is asked for", claim_retention),
    ("a quota is never exceeded, and says so on the owner of what it refuses", quota),
    ("a pod of high priority displaces one of low priority", preemption),
    ("a claim gets a local volume, which goes with the claim", local_path),
    ("a manifest in the folder is applied, changed and pruned", addons),
];

/// An Indexed Job whose pods fail for index 1.
fn indexed(name: &str, spec: &str) -> String {
    format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{ name: {name} }}
spec:
  completionMode: Indexed
  {spec}
  template:
    spec:
      restartPolicy: Never
      containers:
      - {{ name: c, image: {IMAGE}, command: [sh, -c, 'exit $JOB_COMPLETION_INDEX'] }}
"#
    )
}

pub(super) fn get(what: &str, path: &str) -> Result<String> {
    kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])
}

fn condition_reason(cluster: &mut Cluster, job: &str, kind: &str) -> Result<String> {
    let what = format!("job/{job}");
    let path = format!(".status.conditions[?(@.type=='{kind}')].reason");
    let mut reason = String::new();
    cluster.wait(&format!("{what} {kind}"), PATIENCE, || {
        reason = get(&what, &path)?;
        Ok(!reason.is_empty())
    })?;
    Ok(reason)
}

fn quota(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "namespace", "narrow"])?;
    kubectl(&["-n", "narrow", "create", "quota", "two", "--hard=pods=2"])?;
    cluster.wait("the quota's status", PATIENCE, || {
        let path = "jsonpath={.status.hard.pods}/{.status.used.pods}";
        Ok(kubectl(&["-n", "narrow", "get", "quota", "two", "-o", path])? == "2/0")
    })?;
    let image = format!("--image={IMAGE}");
    kubectl(&[
        "-n",
        "narrow",
        "create",
        "deployment",
        "five",
        "--replicas=5",
        &image,
        "--",
        "sh",
        "-c",
        "trap exit TERM; while :; do sleep 1; done",
    ])?;
    cluster.wait("the refusal on the Deployment", PATIENCE, || {
        let path = "jsonpath={.status.conditions[?(@.type=='ReplicaFailure')].message}";
        let said = kubectl(&["-n", "narrow", "get", "deployment", "five", "-o", path])?;
        Ok(said.contains("exceeded quota: two, requested: pods=1, used: pods=2, limited: pods=2"))
    })?;
    let pods = kubectl(&["-n", "narrow", "get", "pods", "-o", "name"])?;
    ensure!(pods.lines().count() == 2, "{pods}");
    kubectl(&["delete", "namespace", "narrow", "--timeout=60s"]).map(drop)
}

fn job_per_index(cluster: &mut Cluster) -> Result<()> {
    apply(&indexed("per-index", "completions: 3\n  parallelism: 3\n  backoffLimitPerIndex: 0"))?;
    // Index 2 fails too, with exit code 2.
    ensure!(condition_reason(cluster, "per-index", "Failed")? == "FailedIndexes");
    let status =
        get("job/per-index", ".status.completedIndexes}/{.status.failedIndexes}/{.status.failed")?;
    ensure!(status == "0/1,2/2", "{status}");
    kubectl(&["delete", "job", "per-index"]).map(drop)
}

fn job_policies(cluster: &mut Cluster) -> Result<()> {
    let rule = "podFailurePolicy: { rules: [{ action: FailJob, onExitCodes: { operator: In, values: [1] } }] }";
    apply(&indexed("fail-early", &format!("completions: 2\n  parallelism: 2\n  {rule}")))?;
    ensure!(condition_reason(cluster, "fail-early", "Failed")? == "PodFailurePolicy");
    let rule = "successPolicy: { rules: [{ succeededIndexes: '0' }] }";
    let spec = format!("completions: 5\n  parallelism: 1\n  {rule}");
    apply(&indexed("succeed-early", &spec))?;
    ensure!(condition_reason(cluster, "succeed-early", "Complete")? == "SuccessPolicy");
    ensure!(get("job/succeed-early", ".status.succeeded")? == "1");
    kubectl(&["delete", "job", "fail-early", "succeed-early"]).map(drop)
}

fn claim_retention(cluster: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: keeper }}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: keeper
  persistentVolumeClaimRetentionPolicy: {{ whenDeleted: Delete, whenScaled: Delete }}
  selector: {{ matchLabels: {{ app: keeper }} }}
  template:
    metadata: {{ labels: {{ app: keeper }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{ name: c, image: {IMAGE}, command: [sleep, '100000'] }}]
  volumeClaimTemplates:
  - metadata: {{ name: data }}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: nobody
      resources: {{ requests: {{ storage: 1Mi }} }}
"#
    ))?;
    cluster.wait("two claims", PATIENCE, || {
        let names = kubectl(&["get", "pvc", "-o", "name"])?;
        Ok(names.contains("data-keeper-0") && names.contains("data-keeper-1"))
    })?;
    kubectl(&["scale", "statefulset", "keeper", "--replicas=1"])?;
    cluster.wait("the claim of the scaled-down pod to go", PATIENCE, || {
        Ok(kubectl_fails(&["get", "pvc", "data-keeper-1"]).is_ok())
    })?;
    ensure!(kubectl(&["get", "pvc", "data-keeper-0"]).is_ok(), "the other claim stays");
    kubectl(&["delete", "statefulset", "keeper"])?;
    cluster.wait("the claim of the deleted set to go", PATIENCE, || {
        Ok(kubectl_fails(&["get", "pvc", "data-keeper-0"]).is_ok())
    })
}

fn preemption(cluster: &mut Cluster) -> Result<()> {
    let node = get("nodes", ".items[0].metadata.name")?;
    let patch =
        r#"{"status":{"capacity":{"example.com/foo":"2"},"allocatable":{"example.com/foo":"2"}}}"#;
    kubectl(&["patch", "node", &node, "--subresource=status", "--type=strategic", "-p", patch])?;
    let pod = |name: &str, class: &str| {
        format!(
            r#"
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {{ name: {class} }}
value: {}
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  priorityClassName: {class}
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {IMAGE}
    command: [sleep, '100000']
    resources: {{ limits: {{ example.com/foo: '2' }}, requests: {{ example.com/foo: '2' }} }}
"#,
            if class == "e2e-low" { 1 } else { 1000 }
        )
    };
    apply(&pod("victim", "e2e-low"))?;
    kubectl(&["wait", "pod/victim", "--for=condition=Ready", "--timeout=60s"])?;
    apply(&pod("winner", "e2e-high"))?;
    cluster.wait("the winner to run", Duration::from_secs(60), || {
        Ok(get("pod/winner", ".status.phase")? == "Running")
    })?;
    kubectl_fails(&["get", "pod", "victim"])?;
    let events = kubectl(&["get", "events", "--field-selector=reason=Preempted"])?;
    ensure!(events.contains("pod/victim"), "no event says so: {events}");
    kubectl(&["delete", "pod", "winner"])?;
    kubectl(&["delete", "priorityclass", "e2e-low", "e2e-high"]).map(drop)
}

fn local_path(cluster: &mut Cluster) -> Result<()> {
    cluster.wait("the storage class", PATIENCE, || {
        Ok(kubectl(&["get", "storageclass", "local-path"]).is_ok())
    })?;
    apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{ name: stored }}
spec:
  accessModes: [ReadWriteOnce]
  resources: {{ requests: {{ storage: 1Mi }} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: writer }}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{ runAsUser: 1000 }}
  containers:
  - name: c
    image: {IMAGE}
    command: [sh, -c, 'echo kept > /data/file; sleep 100000']
    volumeMounts: [{{ name: data, mountPath: /data }}]
  volumes: [{{ name: data, persistentVolumeClaim: {{ claimName: stored }} }}]
"#
    ))?;
    kubectl(&["wait", "pod/writer", "--for=condition=Ready", "--timeout=60s"])?;
    let volume = get("pvc/stored", ".spec.volumeName")?;
    let path = get(&format!("pv/{volume}"), ".spec.local.path")?;
    ensure!(path.starts_with("/var/lib/rancher/k3s/storage/pvc-"), "{path}");
    let file = std::path::Path::new(&path).join("file");
    cluster.wait("the file", PATIENCE, || Ok(std::fs::read_to_string(&file)? == "kept\n"))?;
    kubectl(&["delete", "pod/writer", "pvc/stored"])?;
    cluster.wait("the volume and its folder to go", PATIENCE, || {
        kubectl_fails(&["get", "pv", &volume])?;
        Ok(!std::path::Path::new(&path).exists())
    })
}

fn addons(cluster: &mut Cluster) -> Result<()> {
    let folder = std::path::Path::new("/var/lib/rancher/k3s/server/manifests");
    let map = |name: &str, value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ k: {value} }}\n"
        )
    };
    let file = folder.join("own.yaml");
    std::fs::write(&file, format!("{}---\n{}", map("own-a", "one"), map("own-b", "one")))?;
    cluster.wait("both objects", PATIENCE, || {
        Ok(get("configmap/own-a", ".data.k")? == "one"
            && get("configmap/own-b", ".data.k")? == "one")
    })?;
    std::fs::write(&file, "kind: {")?;
    cluster.wait("the event of the broken file", PATIENCE, || {
        let selector = "--field-selector=reason=ParseManifestFailed";
        Ok(kubectl(&["get", "events", "-n", "kube-system", selector])?.contains("addon/own"))
    })?;
    ensure!(get("configmap/own-a", ".data.k")? == "one", "a broken file changes nothing");
    std::fs::write(&file, map("own-a", "two"))?;
    cluster.wait("the change, and the other object to go", PATIENCE, || {
        kubectl_fails(&["get", "configmap", "own-b"])?;
        Ok(get("configmap/own-a", ".data.k")? == "two")
    })?;
    std::fs::remove_file(&file)?;
    kubectl(&["delete", "configmap", "own-a"]).map(drop)
}
