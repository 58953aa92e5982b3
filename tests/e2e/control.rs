//! What the control plane keeps for others: ranges of Services, tokens in Secrets, claims of devices,
//! what is wrong with policies.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use super::Step;
use super::controllers::get;
use crate::cluster::{
    Cluster, IMAGE, PATIENCE, apply, k3s, kubectl, kubectl_command, kubectl_fails,
};

pub(super) const STEPS: &[Step] = &[
    ("a second range of Services is used, and stays while an address is in it", service_cidr),
    ("a Secret gets the token of its account, and goes with it", token_secret),
    ("a pod gets the device that its claim asks for, and gives it back", devices),
    ("a volume of a CSI driver is attached where its pod is, and detached after it", attachment),
    ("a scheduler of its own, started as upstream's, asks its extender", extended),
    ("a policy's status says which expressions do not fit their types", policy_types),
];

fn service_cidr(cluster: &mut Cluster) -> Result<()> {
    apply(
        r#"
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: { name: more }
spec: { cidrs: [10.99.0.0/24] }
"#,
    )?;
    let ready = ".status.conditions[?(@.type=='Ready')]";
    cluster.wait("the range to be ready", PATIENCE, || {
        Ok(get("servicecidr/more", &format!("{ready}.status"))? == "True")
    })?;
    kubectl(&["create", "service", "clusterip", "there", "--tcp=80", "--clusterip=10.99.0.7"])?;
    kubectl(&["delete", "servicecidr/more", "--wait=false"])?;
    cluster.wait("the range to be held", PATIENCE, || {
        Ok(get("servicecidr/more", &format!("{ready}.reason"))? == "Terminating")
    })?;
    let refused = ["create", "service", "clusterip", "late", "--tcp=80", "--clusterip=10.99.0.8"];
    kubectl_fails(&refused)?;
    kubectl(&["delete", "service/there"])?;
    cluster.wait("the range to go", PATIENCE, || {
        Ok(kubectl_fails(&["get", "servicecidr/more"]).is_ok())
    })
}

/// A pod that only has to be placed: no driver prepares devices on this machine.
fn with_device(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{{ name: card, resourceClaimTemplateName: card }}]
  containers:
  - {{ name: c, image: {IMAGE}, command: [sleep, "3600"], resources: {{ claims: [{{ name: card }}] }} }}
"#
    )
}

fn devices(cluster: &mut Cluster) -> Result<()> {
    let node = get("nodes", ".items[0].metadata.name")?;
    apply(&format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{ name: card }}
spec: {{ selectors: [{{ cel: {{ expression: device.driver == "cards.example.com" }} }}] }}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{ name: card }}
spec:
  spec:
    devices:
      requests:
      - name: card
        exactly:
          deviceClassName: card
          selectors:
          - cel:
              expression: device.attributes["cards.example.com"].size > 1
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{ name: cards }}
spec:
  driver: cards.example.com
  nodeName: {node}
  pool: {{ name: {node}, generation: 1, resourceSliceCount: 1 }}
  devices:
  - {{ name: small, attributes: {{ size: {{ int: 1 }} }} }}
  - {{ name: large, attributes: {{ size: {{ int: 2 }} }} }}
"#
    ))?;
    apply(&with_device("first"))?;
    let claim = ".status.resourceClaimStatuses[0].resourceClaimName";
    cluster.wait("the pod to be placed", PATIENCE, || {
        Ok(get("pod/first", ".spec.nodeName")? == node)
    })?;
    let claim = format!("resourceclaim/{}", get("pod/first", claim)?);
    let result = get(&claim, ".status.allocation.devices.results[0].device")?;
    ensure!(result == "large", "the device is {result}");
    let user = get(&claim, ".status.reservedFor[0].name")?;
    ensure!(user == "first", "it is reserved for {user}");
    cluster.wait("the kubelet to miss the driver", PATIENCE, || {
        let events =
            kubectl(&["get", "events", "--field-selector=reason=FailedPrepareDynamicResources"])?;
        Ok(events.contains("DRA driver cards.example.com is not registered"))
    })?;
    apply(&with_device("second"))?;
    cluster.wait("the next pod to wait", PATIENCE, || {
        let message = get("pod/second", ".status.conditions[?(@.type=='PodScheduled')].message")?;
        Ok(message.starts_with("0/1 nodes are available: 1 cannot allocate all claims."))
    })?;
    kubectl(&["delete", "pod/first"])?;
    cluster.wait("the next pod to be placed", PATIENCE, || {
        Ok(get("pod/second", ".spec.nodeName")? == node)
    })?;
    kubectl(&["delete", "pod/second"])?;
    cluster.wait("the claims to go", PATIENCE, || {
        Ok(kubectl(&["get", "resourceclaims", "-o", "name"])?.is_empty())
    })?;
    kubectl(&["delete", "resourceclaimtemplate/card", "deviceclass/card", "resourceslice/cards"])
        .map(drop)
}

/// The driver's attacher is played by this test: no driver runs here.
fn attachment(cluster: &mut Cluster) -> Result<()> {
    let node = get("nodes", ".items[0].metadata.name")?;
    apply(&format!(
        r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{ name: disks.example.com }}
spec: {{ attachRequired: true }}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{ name: disk }}
spec:
  capacity: {{ storage: 1Gi }}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: disks
  csi: {{ driver: disks.example.com, volumeHandle: disk-1 }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{ name: disk }}
spec: {{ accessModes: [ReadWriteOnce], storageClassName: disks, volumeName: disk, resources: {{ requests: {{ storage: 1Gi }} }} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: with-disk }}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: disk, persistentVolumeClaim: {{ claimName: disk }} }}]
  containers:
  - {{ name: c, image: {IMAGE}, command: [sleep, "3600"], volumeMounts: [{{ name: disk, mountPath: /disk }}] }}
"#
    ))?;
    let mut name = String::new();
    cluster.wait("an attachment", PATIENCE, || {
        name = kubectl(&["get", "volumeattachments", "-o", "name"])?.trim().to_owned();
        Ok(!name.is_empty())
    })?;
    let attacher = get(&name, ".spec.attacher")?;
    ensure!(attacher == "disks.example.com", "the attacher is {attacher}");
    let patch = r#"{"status":{"attached":true}}"#;
    kubectl(&["patch", &name, "--subresource=status", "--type=merge", "-p", patch])?;
    cluster.wait("the node to be told", PATIENCE, || {
        let told = get(&format!("node/{node}"), ".status.volumesAttached[*].name")?;
        Ok(told == "kubernetes.io/csi/disks.example.com^disk-1")
    })?;
    cluster.wait("the pod to be told", PATIENCE, || {
        let events = kubectl(&["get", "events", "--field-selector=reason=SuccessfulAttachVolume"])?;
        Ok(events.contains("AttachVolume.Attach succeeded for volume \"disk\""))
    })?;
    kubectl(&["delete", "pod/with-disk"])?;
    cluster.wait("the attachment to go", PATIENCE, || {
        Ok(kubectl(&["get", "volumeattachments", "-o", "name"])?.is_empty())
    })?;
    let told = get(&format!("node/{node}"), ".status.volumesAttached")?;
    ensure!(told.is_empty() || told == "[]", "the node is told of {told}");
    kubectl(&["delete", "pvc/disk", "pv/disk", "csidriver/disks.example.com"]).map(drop)
}

/// Answers as an extender: every node is refused until `open`.
fn answer(mut stream: TcpStream, open: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !line.is_empty() {
            continue;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = if open.load(Ordering::Relaxed) {
            serde_json::json!({"NodeNames": asked["NodeNames"]})
        } else {
            let names = asked["NodeNames"].as_array().into_iter().flatten();
            let failed: serde_json::Map<String, serde_json::Value> = names
                .filter_map(|name| Some((name.as_str()?.to_owned(), "no licence".into())))
                .collect();
            serde_json::json!({"NodeNames": [], "FailedNodes": failed})
        };
        let answer = answer.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        write!(stream, "{head}{}\r\n\r\n{answer}", answer.len())?;
    }
}

/// A process that ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn extended(cluster: &mut Cluster) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&open);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let open = Arc::clone(&shared);
            std::thread::spawn(move || answer(stream, &open));
        }
    });
    let config = std::env::temp_dir().join("extended.yaml");
    std::fs::write(
        &config,
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             profiles: [{{schedulerName: extended}}]\n\
             extenders: [{{urlPrefix: 'http://{address}', filterVerb: filter, nodeCacheCapable: true}}]\n"
        ),
    )?;
    let kubeconfig = "--kubeconfig=/var/lib/rancher/k3s/server/cred/scheduler.kubeconfig";
    let flags = ["--leader-elect=false", "--v=2", "--secure-port=10299", "--profiling=false"];
    let scheduler = Command::new(k3s())
        .args(["scheduler", kubeconfig])
        .args(flags)
        .arg(format!("--config={}", config.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _scheduler = Process(scheduler);
    let pod = |name: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  schedulerName: extended
  terminationGracePeriodSeconds: 0
  containers: [{{ name: c, image: {IMAGE}, command: [sleep, "3600"] }}]
"#
        )
    };
    apply(&pod("unlicensed"))?;
    cluster.wait("the extender's words", PATIENCE, || {
        let message =
            get("pod/unlicensed", ".status.conditions[?(@.type=='PodScheduled')].message")?;
        Ok(message.starts_with("0/1 nodes are available: 1 no licence."))
    })?;
    open.store(true, Ordering::Relaxed);
    apply(&pod("licensed"))?;
    kubectl(&["wait", "pod/licensed", "--for=condition=Ready", "--timeout=60s"])?;
    std::fs::remove_file(&config)?;
    kubectl(&["delete", "pod/unlicensed", "pod/licensed"]).map(drop)
}

/// Who the API server takes the bearer of a token for.
fn bearer(token: &str) -> Result<String> {
    let mut command: Command = kubectl_command();
    command.args([
        "--token",
        token,
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ]);
    // A client certificate would go before the token.
    command.args(["--kubeconfig", "/dev/null", "--server", "https://127.0.0.1:6443"]);
    command.arg("--insecure-skip-tls-verify");
    let output = command.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn token_secret(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "serviceaccount", "robot"])?;
    apply(
        r#"
apiVersion: v1
kind: Secret
metadata: { name: robot-token, annotations: { kubernetes.io/service-account.name: robot } }
type: kubernetes.io/service-account-token
"#,
    )?;
    let mut token = String::new();
    cluster.wait("a token", PATIENCE, || {
        token = kubectl(&[
            "get",
            "secret/robot-token",
            "-o",
            "go-template={{.data.token | base64decode}}",
        ])
        .unwrap_or_default();
        Ok(token.matches('.').count() == 2)
    })?;
    let namespace = get("secret/robot-token", ".data.namespace")?;
    ensure!(namespace == "ZGVmYXVsdA==", "the namespace is {namespace}");
    ensure!(!get("secret/robot-token", ".data.ca\\.crt")?.is_empty(), "there is no CA");
    let name = bearer(&token)?;
    ensure!(name == "system:serviceaccount:default:robot", "the bearer is {name:?}");
    cluster.wait("its use to be noted", PATIENCE, || {
        let label = ".metadata.labels.kubernetes\\.io/legacy-token-last-used";
        Ok(get("secret/robot-token", label)?.len() == "2026-01-01".len())
    })?;
    kubectl(&["delete", "serviceaccount/robot"])?;
    cluster.wait("the Secret to go", PATIENCE, || {
        Ok(kubectl_fails(&["get", "secret/robot-token"]).is_ok())
    })?;
    let name = bearer(&token)?;
    ensure!(name.is_empty(), "the token is still good for {name}");
    Ok(())
}

fn policy_types(cluster: &mut Cluster) -> Result<()> {
    apply(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: typed }
spec:
  matchConstraints:
    resourceRules:
    - { apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments] }
  validations:
  - { expression: object.spec.replicas > 1 && object.metadata.name != "x" }
  - { expression: object.spec.replicas > "1" }
  - { expression: "true", messageExpression: object.spec.nothing }
"#,
    )?;
    cluster.wait("the policy to be judged", PATIENCE, || {
        Ok(get("validatingadmissionpolicy/typed", ".status.observedGeneration")? == "1")
    })?;
    let warnings = ".status.typeChecking.expressionWarnings[*]";
    let fields = get("validatingadmissionpolicy/typed", &format!("{warnings}.fieldRef"))?;
    ensure!(
        fields == "spec.validations[1].expression spec.validations[2].messageExpression",
        "the warnings are about {fields}"
    );
    let text = get("validatingadmissionpolicy/typed", &format!("{warnings}.warning"))?;
    ensure!(
        text.starts_with(
            "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload"
        ) && text.contains("undefined field 'nothing'"),
        "{text}"
    );
    kubectl(&["delete", "validatingadmissionpolicy/typed"]).map(drop)
}
