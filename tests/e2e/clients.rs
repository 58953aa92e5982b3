//! The programs that people use a cluster with: kubectl of three minor versions, helm, Kubernetes'
//! Python client, and a program of kube-rs.
//!
//! Invariant: each story has a namespace of its own and takes it away.

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::json;

use super::Step;
use crate::cluster::{Cluster, IMAGE, kubectl, run};

pub(super) const STEPS: &[Step] = &[
    ("kubectl 1.32, 1.36 and 1.37 live a day of an administrator", kubectls),
    ("helm installs, upgrades, rolls back and uninstalls a chart", helm),
    ("the Python client lists in pages, watches, executes and applies", python),
    ("a program of kube-rs creates, applies, watches and deletes", kube_rs),
];

const TOOLS: &str = "target/tools";
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// A command of kubectl and what its answer contains. Words are parted by spaces; `_` inside a word
/// stands for a space; names in capitals are filled in. `!` says that the command must fail.
const DAY: &[(&str, &str)] = &[
    (
        "create deployment web --image=IMAGE --replicas=2 -- sleep 1000",
        "deployment.apps/web created",
    ),
    ("rollout status deployment/web --timeout=60s", "successfully rolled out"),
    ("set env deployment/web A=b", "deployment.apps/web env updated"),
    ("rollout history deployment/web", "\n2 "),
    ("rollout undo deployment/web", "deployment.apps/web rolled back"),
    ("set resources deployment/web --limits=memory=64Mi", "resource requirements updated"),
    ("rollout pause deployment/web", "deployment.apps/web paused"),
    ("rollout resume deployment/web", "deployment.apps/web resumed"),
    (r#"patch deployment/web -p {"spec":{"minReadySeconds":1}}"#, "patched"),
    (r#"patch deployment/web --type=merge -p {"metadata":{"labels":{"a":"b"}}}"#, "patched"),
    (
        r#"patch deployment/web --type=json -p [{"op":"remove","path":"/spec/minReadySeconds"}]"#,
        "patched",
    ),
    (
        "patch deployment/web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":1}}",
        "scale.autoscaling/web patched",
    ),
    ("scale deployment/web --replicas=2 --current-replicas=1", "scaled"),
    ("rollout status deployment/web --timeout=60s", "successfully rolled out"),
    ("label deployment/web a-", "unlabeled"),
    ("annotate deployment/web owner=me", "annotated"),
    (
        "autoscale deployment web --min=1 --max=3 --cpu-percent=50",
        "horizontalpodautoscaler.autoscaling/web",
    ),
    ("expose deployment web --port=80 --target-port=8080", "service/web exposed"),
    ("describe service web", "TargetPort:"),
    ("describe deployment web", "ScalingReplicaSet"),
    ("get deployment,service,hpa -o name", "service/web"),
    ("explain deployment.spec.strategy.rollingUpdate.maxSurge", "FIELD: maxSurge"),
    ("create job j --image=IMAGE -- echo hi", "job.batch/j created"),
    ("wait --for=condition=complete job/j --timeout=60s", "condition met"),
    ("logs job/j", "hi"),
    ("create cronjob cj --image=IMAGE --schedule=0_0_*_*_* -- true", "cronjob.batch/cj created"),
    ("create job j2 --from=cronjob/cj", "job.batch/j2 created"),
    ("run p --image=IMAGE --restart=Never -- sleep 1000", "pod/p created"),
    ("run p --image=IMAGE", "! Error from server (AlreadyExists): pods \"p\" already exists"),
    ("wait --for=condition=Ready pod/p --timeout=60s", "condition met"),
    ("exec p -- sh -c echo_out;exit_3", "! command terminated with exit code 3"),
    ("debug p --image=IMAGE --profile=general --target=p --container=dbg -- echo dbg", ""),
    (
        "wait --for=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}=Completed pod/p --timeout=60s",
        "met",
    ),
    ("logs p -c dbg", "dbg"),
    ("create configmap cm --from-literal=a=b", "configmap/cm created"),
    ("create secret generic s --from-literal=a=b", "secret/s created"),
    ("create quota q --hard=pods=10", "resourcequota/q created"),
    (
        "create pdb pdb --selector=app=web --min-available=1",
        "poddisruptionbudget.policy/pdb created",
    ),
    ("create ingress i --rule=a.b/c*=web:80", "ingress.networking.k8s.io/i created"),
    ("create serviceaccount sa", "serviceaccount/sa created"),
    ("create token sa --duration=10m", "eyJ"),
    ("create role ro --verb=get --resource=pods", "role.rbac.authorization.k8s.io/ro created"),
    ("create rolebinding rb --role=ro --serviceaccount=NAMESPACE:sa", "created"),
    ("auth can-i get pods --as=system:serviceaccount:NAMESPACE:sa", "yes"),
    ("auth can-i delete pods --as=system:serviceaccount:NAMESPACE:sa", "! no"),
    ("auth can-i --list --as=system:serviceaccount:NAMESPACE:sa", "selfsubjectaccessreviews"),
    ("auth whoami", "system:admin"),
    ("events --for deployment/web", "ScalingReplicaSet"),
    ("top pods", "! Metrics API not available"),
    ("api-versions", "apps/v1"),
    ("apply -f FOLDER/one.yaml", "configmap/m created"),
    ("apply -f FOLDER/changed.yaml", "configmap/m configured"),
    ("apply view-last-applied configmap m", "data:"),
    ("get configmap m -o jsonpath={.data}", r#"{"a":"1","c":"3"}"#),
    ("diff -f FOLDER/one.yaml", "! -  c: \"3\""),
    ("apply --server-side -f FOLDER/changed.yaml", "configmap/m serverside-applied"),
    (
        "apply --server-side --field-manager=other -f FOLDER/one.yaml",
        "configmap/m serverside-applied",
    ),
    ("apply --server-side --field-manager=third -f FOLDER/conflict.yaml", "! conflict"),
    (
        "apply --server-side --field-manager=third --force-conflicts -f FOLDER/conflict.yaml",
        "serverside-applied",
    ),
    ("replace -f FOLDER/one.yaml", "configmap/m replaced"),
    ("edit configmap m", "configmap/m edited"),
    ("get configmap m -o custom-columns=D:.data.a", "edited"),
    ("create -f FOLDER/unknown.yaml", "! unknown field \"dat\""),
    (
        "create -f FOLDER/mistyped.json",
        "! json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    ),
    (
        "certificate approve nosuch",
        "! certificatesigningrequests.certificates.k8s.io \"nosuch\" not found",
    ),
    ("delete deployment web --cascade=orphan", "deleted"),
    ("get replicaset -l app=web -o name", "replicaset.apps/web-"),
    ("delete configmap --all --dry-run=server", "deleted"),
    ("delete pod p --grace-period=1", "deleted"),
    ("get pod p", "! pods \"p\" not found"),
];

/// The files of that day, below the folder that `FOLDER` stands for.
const FILES: &[(&str, &str)] = &[
    (
        "one.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1', b: '2'}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: m}\nspec: {ports: [{port: 80}], selector: {a: b}}\n",
    ),
    (
        "changed.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1', c: '3'}\n",
    ),
    ("conflict.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '9'}\n"),
    ("unknown.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndat: {}\n"),
    (
        "mistyped.json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{"a":1}}"#,
    ),
];

fn kubectls(_: &mut Cluster) -> Result<()> {
    let folder = Path::new("/run/clients");
    fs::create_dir_all(folder)?;
    for (name, text) in FILES {
        fs::write(folder.join(name), text)?;
    }
    std::thread::scope(|scope| {
        let days: Vec<_> = ["kubectl-1.32", "kubectl", "kubectl-1.37"]
            .map(|program| scope.spawn(move || day(program)))
            .into();
        days.into_iter().try_for_each(|day| day.join().expect("a day returns its failure"))
    })?;
    kubectl(&["taint", "nodes", "--all", "x=y:PreferNoSchedule"])?;
    kubectl(&["taint", "nodes", "--all", "x-"]).map(drop)
}

/// One kubectl does all of it in a namespace of its own.
fn day(program: &str) -> Result<()> {
    let namespace = format!("day-{}", program.replace('.', "-"));
    let tool = || {
        let mut command = Command::new(Path::new(TOOLS).join(program));
        command
            .env("KUBECONFIG", KUBECONFIG)
            .env("KUBE_EDITOR", "sed -i 's/^  a: .*/  a: edited/'")
            .args(["--namespace", &namespace]);
        command
    };
    run(tool().args(["create", "namespace", &namespace]))?;
    run(tool().args(["wait", "--for=create", "serviceaccount/default", "--timeout=60s"]))?;
    for (line, expected) in DAY {
        let args = line.split(' ').map(|word| {
            word.replace('_', " ")
                .replace("IMAGE", IMAGE)
                .replace("NAMESPACE", &namespace)
                .replace("FOLDER", "/run/clients")
        });
        let output = tool().args(args).output().with_context(|| program.to_owned())?;
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let (fails, text) = match expected.strip_prefix("! ") {
            Some(text) => (true, text),
            None => (false, *expected),
        };
        ensure!(
            output.status.success() != fails && said.contains(text),
            "{program} {line}: {}: {said}\nexpected: {expected}",
            output.status
        );
    }
    run(tool().args(["delete", "namespace", &namespace, "--timeout=60s"])).map(drop)
}

/// The chart that `helm create` writes, with an image that is here.
fn helm(_: &mut Cluster) -> Result<()> {
    let helm = fs::canonicalize(Path::new(TOOLS).join("helm"))?;
    let say = |line: &str| {
        let mut command = Command::new(&helm);
        command.args(line.split(' ')).current_dir("/run").env("KUBECONFIG", KUBECONFIG);
        run(command.env("HOME", "/run/helm"))
    };
    let (repository, tag) = IMAGE.split_once(':').context("image")?;
    let image = format!("--set image.repository={repository},image.tag={tag}");
    let rest = "--namespace charts --create-namespace --wait --timeout 60s";
    say("create chart")?;
    // Busybox needs to be told what to run; the port that the chart probes stays 80.
    let template = Path::new("/run/chart/templates/deployment.yaml");
    let serve = "command: [sh, -c, 'mkdir /www; echo ok >/www/index.html; httpd -f -h /www']";
    let text = fs::read_to_string(template)?;
    fs::write(template, text.replace("ports:", &format!("{serve}\n          ports:")))?;
    say(&format!("install web chart {image},replicaCount=2 {rest}"))?;
    let listed = say("list --namespace charts --output json")?;
    ensure!(listed.contains(r#""status":"deployed""#), "{listed}");
    say(&format!("upgrade web chart {image},replicaCount=1 {rest}"))?;
    say("rollback web 1 --namespace charts --wait --timeout 60s")?;
    let history: serde_json::Value =
        serde_json::from_str(&say("history web --namespace charts --output json")?)?;
    ensure!(history[2]["description"] == "Rollback to 1", "{history}");
    let count = "get deployment web-chart --namespace charts -o jsonpath={.status.readyReplicas}";
    ensure!(kubectl(&count.split(' ').collect::<Vec<_>>())? == "2", "the rollback's replicas");
    say("uninstall web --namespace charts --wait")?;
    kubectl(&["delete", "namespace", "charts", "--timeout=60s"]).map(drop)
}

fn python(_: &mut Cluster) -> Result<()> {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", Path::new(TOOLS).join("python"));
    let said = run(command.args(["tests/e2e/client.py", KUBECONFIG, "python", IMAGE]))?;
    ensure!(said == "ok\n", "{said}");
    Ok(())
}

fn kube_rs(_: &mut Cluster) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(program())
}

async fn program() -> Result<()> {
    let client = client::connect(Path::new(KUBECONFIG)).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let post = PostParams::default();
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kube-rs"}}))?;
    namespaces.create(&post, &namespace).await?;

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-rs");
    let map = |value: &str| json!({"metadata": {"name": "a"}, "data": {"key": value}});
    let created = maps.create(&post, &serde_json::from_value(map("one"))?).await?;
    let since = created.metadata.resource_version.clone().context("resourceVersion")?;
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Merge(map("two"))).await?;
    ensure!(patched.data.as_ref().is_some_and(|data| data["key"] == "two"), "{patched:?}");
    let refused = maps.replace("a", &post, &created).await;
    ensure!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.code == 409),
        "a stale write: {refused:?}"
    );
    maps.delete("a", &DeleteParams::default()).await?;
    let mut events =
        pin!(maps.watch(&WatchParams::default().fields("metadata.name=a"), &since).await?);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match events.try_next().await?.context("the watch ended")? {
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            _ => {}
        }
    }
    ensure!(seen == ["modified", "deleted"], "{seen:?}");

    let deployments: Api<Deployment> = Api::namespaced(client, "kube-rs");
    let labels = json!({"app": "d"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": IMAGE}]}}},
    });
    let apply = PatchParams::apply("kube-rs");
    for _ in 0..2 {
        let applied = deployments.patch("d", &apply, &Patch::Apply(&deployment)).await?;
        ensure!(applied.metadata.generation == Some(1), "applying twice changed something");
    }
    let scale = json!({"spec": {"replicas": 1}});
    deployments.patch_scale("d", &PatchParams::default(), &Patch::Merge(scale)).await?;
    ensure!(
        deployments.get_scale("d").await?.spec.and_then(|spec| spec.replicas) == Some(1),
        "scale"
    );
    ensure!(
        deployments.list(&ListParams::default().labels("none=such")).await?.items.is_empty(),
        "list"
    );
    namespaces.delete("kube-rs", &DeleteParams::default()).await?;
    Ok(())
}
