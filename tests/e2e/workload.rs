//! Pods, Services and rollouts, as a user does them with kubectl.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Step;
use crate::cluster::{Cluster, IMAGE, PATIENCE, apply, kill, kubectl, kubectl_fails, run};

pub(super) const STEPS: &[Step] = &[
    ("the API becomes ready", |c| c.api_ready().map(drop)),
    ("the node becomes Ready", |c| c.node_ready().map(drop)),
    ("three replicas become available", three_replicas),
    ("a Service answers on its cluster IP from a pod and from the node", cluster_ip),
    ("a Service answers on its node port", node_port),
    ("a Service answers by its DNS name from a pod", dns_name),
    ("logs of a pod are read", logs),
    ("a command is run in a pod", exec),
    ("a Deployment scales to twenty and to none", scale),
    ("a rollout replaces every pod", rollout),
    ("a process that dies is restarted", restart),
    ("a job completes", job),
    ("volumes and environment reach a container", volumes),
    ("init containers run first and in order", init_containers),
    ("an image archive that appears is imported", image_appears),
    ("deleting a namespace deletes what is in it", namespace),
];

/// Three web servers and a node-port Service.
fn web(replicas: u32, text: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: httpd
        image: {IMAGE}
        command: [sh, -c, 'echo "{text} from $HOSTNAME" > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www']
        ports: [{{ containerPort: 8080, name: http }}]
        readinessProbe: {{ httpGet: {{ path: /, port: http }}, periodSeconds: 1 }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec:
  type: NodePort
  selector: {{ app: web }}
  ports: [{{ port: 80, targetPort: http, nodePort: 30080 }}]
"#
    )
}

pub(super) fn three_replicas(cluster: &mut Cluster) -> Result<()> {
    cluster.wait("the default service account", PATIENCE, || {
        Ok(kubectl(&["get", "serviceaccount", "default"]).is_ok())
    })?;
    apply(&web(3, "hello"))?;
    available(cluster, "web", "3")?;
    client()
}

/// Makes the pod that steps reach others from.
pub(super) fn client() -> Result<()> {
    apply(&pod("client", "sleep 100000"))?;
    kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"]).map(drop)
}

pub(super) fn available(cluster: &mut Cluster, name: &str, count: &str) -> Result<()> {
    cluster.wait("available replicas", Duration::from_secs(120), || {
        let got =
            kubectl(&["get", "deployment", name, "-o", "jsonpath={.status.availableReplicas}"])?;
        ensure!(got == count, "{got:?} replicas are available");
        Ok(true)
    })
}

/// A pod that runs one shell command.
fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {IMAGE}\n    \
         command: [sh, -c, '{script}']\n"
    )
}

/// Fetches a page from inside the client pod. (`wget -T` of Debian's static busybox crashes.)
pub(super) fn fetch(url: &str) -> Result<String> {
    kubectl(&["exec", "client", "--", "timeout", "5", "wget", "-q", "-O-", url])
}

fn cluster_ip(cluster: &mut Cluster) -> Result<()> {
    let ip = kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let url = format!("http://{ip}/");
    cluster.wait("an answer in the pod", PATIENCE, || {
        Ok(fetch(&url)?.starts_with("hello from web-"))
    })?;
    let host = || run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O-", &url]));
    cluster.wait("an answer on the node", PATIENCE, || Ok(host()?.starts_with("hello from web-")))
}

fn node_port(cluster: &mut Cluster) -> Result<()> {
    let url = "http://192.0.2.1:30080/";
    cluster.wait("an answer", PATIENCE, || Ok(fetch(url)?.starts_with("hello from web-")))?;
    let host = run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O-", url]))?;
    ensure!(host.starts_with("hello from web-"), "{host}");
    Ok(())
}

fn dns_name(cluster: &mut Cluster) -> Result<()> {
    for name in ["web.default.svc.cluster.local", "web.default", "web"] {
        let url = format!("http://{name}/");
        cluster.wait(name, PATIENCE, || Ok(fetch(&url)?.starts_with("hello from web-")))?;
    }
    Ok(())
}

fn logs(_: &mut Cluster) -> Result<()> {
    let text = kubectl(&["logs", "deployment/web"])?;
    ensure!(text.contains("serving"), "{text:?}");
    Ok(())
}

fn exec(_: &mut Cluster) -> Result<()> {
    let text = kubectl(&["exec", "client", "--", "sh", "-c", "echo out; echo err >&2; id -u"])?;
    ensure!(text == "out\n0\n", "{text:?}");
    let failed = kubectl_fails(&["exec", "client", "--", "sh", "-c", "exit 7"])?;
    ensure!(failed.contains("exit status: 7"), "{failed}");
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "echo through stdin | KUBECONFIG=/etc/rancher/k3s/k3s.yaml timeout 20 \
         ${KUBECTL:-target/tools/kubectl} exec -i client -- cat",
    ]);
    let echoed = run(&mut command)?;
    ensure!(echoed == "through stdin\n", "{echoed:?}");
    Ok(())
}

fn scale(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["scale", "deployment/web", "--replicas=20"])?;
    available(cluster, "web", "20")?;
    kubectl(&["scale", "deployment/web", "--replicas=0"])?;
    cluster.wait("no pods", PATIENCE, || {
        Ok(kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?.is_empty())
    })?;
    kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    available(cluster, "web", "3")
}

fn rollout(cluster: &mut Cluster) -> Result<()> {
    let before = pod_names()?;
    apply(&web(3, "goodbye"))?;
    kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    cluster.wait("the old pods to be gone", PATIENCE, || {
        let now = pod_names()?;
        Ok(now.len() == 3 && now.iter().all(|name| !before.contains(name)))
    })?;
    cluster.wait(
        "the new answer",
        PATIENCE,
        || Ok(fetch("http://web/")?.starts_with("goodbye")),
    )?;
    let history = kubectl(&["rollout", "history", "deployment/web"])?;
    ensure!(history.contains('2'), "{history}");
    Ok(())
}

pub(super) fn pod_names() -> Result<Vec<String>> {
    let text =
        kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn restart(cluster: &mut Cluster) -> Result<()> {
    let victim = httpd_processes()?.first().copied().context("a web server's process")?;
    kill(victim, rustix::process::Signal::KILL)?;
    cluster.wait("one restart", PATIENCE, || {
        let jsonpath = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
        let counts = kubectl(&["get", "pods", "-l", "app=web", "-o", jsonpath])?;
        let total: u32 = counts.split_whitespace().filter_map(|n| n.parse::<u32>().ok()).sum();
        ensure!(total == 1, "restarts: {counts}");
        Ok(true)
    })?;
    available(cluster, "web", "3")
}

/// Process ids of the web servers, sorted.
pub(super) fn httpd_processes() -> Result<Vec<u32>> {
    let mut found: Vec<u32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"httpd\0")
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

fn job(_: &mut Cluster) -> Result<()> {
    apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: count }}\nspec:\n  completions: 3\n  \
         parallelism: 2\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      \
         - {{ name: main, image: '{IMAGE}', command: ['true'] }}\n"
    ))?;
    kubectl(&["wait", "job/count", "--for=condition=Complete", "--timeout=60s"])?;
    let done = kubectl(&["get", "job", "count", "-o", "jsonpath={.status.succeeded}"])?;
    ensure!(done == "3", "{done} succeeded");
    kubectl(&["delete", "job", "count"]).map(drop)
}

fn volumes(_: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{ name: settings }}
data: {{ colour: green, file.txt: "from a file" }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: password }}
stringData: {{ word: swordfish }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: volumes, labels: {{ tier: test }} }}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, 'echo "$COLOUR $WORD $NAME $SETTINGS_colour"; cat /c/file.txt; echo; cat /s/word; echo; cat /d/labels; echo; test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; echo kept > /e/f && cat /e/f; ls /h/hostname']
    env:
    - {{ name: COLOUR, valueFrom: {{ configMapKeyRef: {{ name: settings, key: colour }} }} }}
    - {{ name: WORD, valueFrom: {{ secretKeyRef: {{ name: password, key: word }} }} }}
    - {{ name: NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
    envFrom: [{{ prefix: SETTINGS_, configMapRef: {{ name: settings }} }}]
    volumeMounts:
    - {{ name: c, mountPath: /c }}
    - {{ name: s, mountPath: /s }}
    - {{ name: d, mountPath: /d }}
    - {{ name: e, mountPath: /e }}
    - {{ name: h, mountPath: /h }}
  volumes:
  - {{ name: c, configMap: {{ name: settings }} }}
  - {{ name: s, secret: {{ secretName: password }} }}
  - {{ name: d, downwardAPI: {{ items: [{{ path: labels, fieldRef: {{ fieldPath: metadata.labels }} }}] }} }}
  - {{ name: e, emptyDir: {{}} }}
  - {{ name: h, hostPath: {{ path: /etc, type: Directory }} }}
"#
    ))?;
    kubectl(&["wait", "pod/volumes", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"])?;
    let text = kubectl(&["logs", "volumes"])?;
    let expected = "green swordfish volumes green\nfrom a file\nswordfish\ntier=\"test\"\ntoken\nkept\n/h/hostname\n";
    ensure!(text == expected, "{text}");
    kubectl(&["delete", "pod", "volumes", "--grace-period=1"]).map(drop)
}

fn init_containers(_: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: init }}
spec:
  restartPolicy: Never
  initContainers:
  - {{ name: one, image: '{IMAGE}', command: [sh, -c, 'echo 1 >> /e/f'], volumeMounts: [{{ name: e, mountPath: /e }}] }}
  - {{ name: two, image: '{IMAGE}', command: [sh, -c, 'echo 2 >> /e/f'], volumeMounts: [{{ name: e, mountPath: /e }}] }}
  containers:
  - {{ name: main, image: '{IMAGE}', command: [cat, /e/f], volumeMounts: [{{ name: e, mountPath: /e }}] }}
  - {{ name: side, image: '{IMAGE}', command: ['true'] }}
  volumes: [{{ name: e, emptyDir: {{}} }}]
"#
    ))?;
    kubectl(&["wait", "pod/init", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"])?;
    let text = kubectl(&["logs", "init", "-c", "main"])?;
    ensure!(text == "1\n2\n", "{text:?}");
    kubectl(&["delete", "pod", "init", "--grace-period=1"]).map(drop)
}

fn image_appears(_: &mut Cluster) -> Result<()> {
    let image = "docker.io/library/late:1";
    let path = "/var/lib/rancher/k3s/agent/images/late.tar";
    run(Command::new("packaging/busybox-image").args([image, path]))?;
    apply(&pod("late", "sleep 100000").replace(IMAGE, image))?;
    kubectl(&["wait", "pod/late", "--for=condition=Ready", "--timeout=60s"])?;
    kubectl(&["delete", "pod", "late", "--grace-period=0", "--force"]).map(drop)
}

fn namespace(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "namespace", "short"])?;
    kubectl(&["-n", "short", "create", "configmap", "a", "--from-literal=b=c"])?;
    cluster.wait("its service account", PATIENCE, || {
        Ok(kubectl(&["-n", "short", "get", "serviceaccount", "default"]).is_ok())
    })?;
    kubectl(&["delete", "namespace", "short", "--timeout=60s"])?;
    let gone = kubectl_fails(&["get", "namespace", "short"])?;
    ensure!(gone.contains("NotFound"), "{gone}");
    Ok(())
}
