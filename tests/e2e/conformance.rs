//! Promises of the conformance suite that no other step keeps an eye on.
//!
//! Invariant: each step has a namespace of its own, which goes with it.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Step;
use crate::cluster::{Cluster, IMAGE, PATIENCE, apply, kubectl, run};

pub(super) const STEPS: &[Step] = &[
    ("a downward API volume follows its pod", downward),
    ("an image's files are a volume that nobody can change", image_volume),
    ("a container's last words are what it said", last_words),
    ("a circle of owners goes with the first of them", circle),
    ("a namespace's pods go before the rest of it", pods_first),
    ("an event is found by whoever reported it", reporters),
    ("a page seen through the proxy leads back to it", pages),
];

fn within(namespace: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    kubectl(&["create", "namespace", namespace])?;
    test()?;
    kubectl(&["delete", "namespace", namespace, "--timeout=60s"])?;
    Ok(())
}

fn pod(namespace: &str, spec: &str) -> Result<()> {
    let head = "apiVersion: v1\nkind: Pod\nmetadata: { name: p, labels: { color: red }";
    let spec = spec.replace("IMAGE", IMAGE);
    apply(&format!(
        "{head}, namespace: {namespace} }}\nspec: {{ terminationGracePeriodSeconds: 0, {spec} }}\n"
    ))?;
    Ok(())
}

fn ready(namespace: &str) -> Result<()> {
    kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "--timeout=60s", "pod/p"])?;
    Ok(())
}

fn downward(cluster: &mut Cluster) -> Result<()> {
    within("downward", || {
        pod(
            "downward",
            "containers: [{ name: c, image: IMAGE, command: [sleep, '1000'], \
             volumeMounts: [{ name: v, mountPath: /v }] }], volumes: [{ name: v, downwardAPI: \
             { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] } }]",
        )?;
        ready("downward")?;
        kubectl(&["-n", "downward", "label", "--overwrite", "pod/p", "color=blue"])?;
        cluster.wait("the new label in the volume", PATIENCE, || {
            let shown = kubectl(&["-n", "downward", "exec", "p", "--", "cat", "/v/labels"])?;
            Ok(shown.trim() == "color=\"blue\"")
        })
    })
}

fn image_volume(cluster: &mut Cluster) -> Result<()> {
    let snapshots = || {
        let socket = "/run/k3s/containerd/containerd.sock";
        run(Command::new("ctr").args(["--address", socket, "--namespace", "k8s.io"]).args([
            "snapshots",
            "--snapshotter=overlayfs",
            "list",
        ]))
    };
    within("images", || {
        pod(
            "images",
            "containers: [{ name: c, image: IMAGE, command: [sleep, '1000'], volumeMounts: \
             [{ name: v, mountPath: /v }, { name: v, mountPath: /part, subPath: bin }] }], \
             volumes: [{ name: v, image: { reference: IMAGE, pullPolicy: IfNotPresent } }]",
        )?;
        ready("images")?;
        let script = "ls /v/bin/busybox /part/busybox; touch /v/x; exit 0";
        let said =
            kubectl(&["-n", "images", "exec", "p", "--", "sh", "-c", &format!("({script}) 2>&1")])?;
        for part in ["/v/bin/busybox\n", "/part/busybox\n", "Read-only"] {
            ensure!(said.contains(part), "{part:?} is not in {said:?}");
        }
        ensure!(snapshots()?.contains("k3s-image-volume"), "{}", snapshots()?);
        Ok(())
    })?;
    cluster.wait("the image to be let go of", PATIENCE, || {
        Ok(!snapshots()?.contains("k3s-image-volume"))
    })
}

fn last_words(cluster: &mut Cluster) -> Result<()> {
    within("words", || {
        pod(
            "words",
            "restartPolicy: Never, containers: [{ name: c, image: IMAGE, \
             terminationMessagePolicy: FallbackToLogsOnError, \
             command: [sh, -c, 'printf DONE; exit 1'] }]",
        )?;
        let path = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
        cluster.wait("the container's last words", PATIENCE, || {
            Ok(kubectl(&["-n", "words", "get", "pod", "p", "-o", path])? == "DONE")
        })
    })
}

fn circle(cluster: &mut Cluster) -> Result<()> {
    within("circle", || {
        for name in ["a", "b", "c"] {
            kubectl(&["-n", "circle", "create", "configmap", name])?;
        }
        for (name, owner) in [("a", "b"), ("b", "c"), ("c", "a")] {
            let uid = kubectl(&[
                "-n",
                "circle",
                "get",
                "configmap",
                owner,
                "-o",
                "jsonpath={.metadata.uid}",
            ])?;
            let patch = format!(
                r#"{{"metadata": {{"ownerReferences": [{{"apiVersion": "v1", "kind": "ConfigMap",
                "name": "{owner}", "uid": "{uid}", "blockOwnerDeletion": true}}]}}}}"#
            );
            kubectl(&["-n", "circle", "patch", "configmap", name, "-p", &patch])?;
        }
        kubectl(&[
            "-n",
            "circle",
            "delete",
            "configmap",
            "a",
            "--cascade=foreground",
            "--wait=false",
        ])?;
        cluster.wait("the end of the circle", PATIENCE, || {
            let left = kubectl(&["-n", "circle", "get", "configmaps", "-o", "name"])?;
            Ok(left.trim() == "configmap/kube-root-ca.crt")
        })
    })
}

fn pods_first(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "namespace", "order"])?;
    kubectl(&["-n", "order", "create", "configmap", "needed"])?;
    pod("order", "containers: [{ name: c, image: IMAGE, command: [sleep, '1000'] }]")?;
    ready("order")?;
    let finalizers = |list: &str| {
        let patch = format!(r#"{{"metadata": {{"finalizers": {list}}}}}"#);
        kubectl(&["-n", "order", "patch", "pod", "p", "--type=merge", "-p", &patch])
    };
    finalizers(r#"["e2e.example.com/kept"]"#)?;
    kubectl(&["delete", "namespace", "order", "--wait=false"])?;
    cluster.wait("word of what remains", PATIENCE, || {
        let path = "jsonpath={.status.conditions[?(@.type=='NamespaceContentRemaining')].message}";
        Ok(kubectl(&["get", "namespace", "order", "-o", path])?.contains("pods. has 1 resource"))
    })?;
    kubectl(&["-n", "order", "get", "configmap", "needed"])?;
    finalizers("[]")?;
    kubectl(&["wait", "--for=delete", "--timeout=60s", "namespace/order"])?;
    Ok(())
}

fn reporters(_: &mut Cluster) -> Result<()> {
    within("reports", || {
        apply(
            "apiVersion: events.k8s.io/v1\nkind: Event\n\
             metadata: { name: told, namespace: reports }\n\
             eventTime: '2026-01-02T03:04:05.000006Z'\naction: Told\nreason: Asked\n\
             type: Normal\nreportingController: e2e-reporter\nreportingInstance: e2e\n\
             regarding: { namespace: reports }\n",
        )?;
        for (resource, field) in
            [("events.v1.", "source"), ("events.v1.events.k8s.io", "reportingController")]
        {
            let selector = format!("--field-selector={field}=e2e-reporter");
            let found = kubectl(&["-n", "reports", "get", resource, &selector, "-o", "name"])?;
            ensure!(found.lines().count() == 1, "{resource} by {field}: {found:?}");
        }
        Ok(())
    })
}

fn pages(cluster: &mut Cluster) -> Result<()> {
    within("pages", || {
        pod(
            "pages",
            r#"containers: [{ name: c, image: IMAGE, ports: [{ containerPort: 8000 }], command:
             [sh, -c, 'mkdir /w; echo "<a href=\"/x\">" >/w/index.html; httpd -f -p 8000 -h /w'] }]"#,
        )?;
        ready("pages")?;
        let proxy = "/api/v1/namespaces/pages/pods/p/proxy";
        cluster.wait("the page through the proxy", PATIENCE, || {
            let page = kubectl(&["get", "--raw", &format!("{proxy}/")])?;
            Ok(page.trim() == format!("<a href=\"{proxy}/x\">"))
        })
    })
}
