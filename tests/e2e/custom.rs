//! Custom resources and policies: defined while the cluster runs, served, judged and collected.

use anyhow::{Context, Result, ensure};

use super::Step;
use crate::cluster::{Cluster, PATIENCE, apply, components, kill, kubectl, kubectl_fails};

pub(super) const STEPS: &[Step] = &[
    ("a custom resource is served, judged and collected", widgets),
    ("a quota is charged with the write", quota),
    ("an admission policy refuses", policy),
];

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: widgets.e2e.example.com }
spec:
  group: e2e.example.com
  scope: Namespaced
  names: { plural: widgets, kind: Widget, shortNames: [wd] }
  versions:
    - name: v1
      served: true
      storage: true
      subresources: { status: {} }
      additionalPrinterColumns: [{ name: Size, type: integer, jsonPath: .spec.size }]
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                size: { type: integer, minimum: 1, description: How big it is. }
                color: { type: string, default: red }
              x-kubernetes-validations: [{ rule: "self.size < 10", message: too big }]
"#;

fn widget(name: &str, size: &str, more: &str) -> String {
    format!(
        "apiVersion: e2e.example.com/v1\nkind: Widget\nmetadata: {{ name: {name}, namespace: widgets{more} }}\nspec: {{ size: {size} }}\n"
    )
}

fn owner(version: &str, kind: &str, name: &str, uid: &str) -> String {
    format!(
        ", ownerReferences: [{{ apiVersion: {version}, kind: {kind}, name: {name}, uid: {uid} }}]"
    )
}

fn widgets(cluster: &mut Cluster) -> Result<()> {
    apply(DEFINITION)?;
    kubectl(&["wait", "--for=condition=Established", "crd/widgets.e2e.example.com"])?;
    kubectl(&["create", "namespace", "widgets"])?;
    apply(&widget("a", "3", ""))?;
    let refused = apply(&widget("b", "12", "")).err().map(|err| err.to_string());
    ensure!(refused.as_ref().is_some_and(|text| text.contains("too big")), "{refused:?}");
    let refused = apply(&widget("b", "0", "")).err().map(|err| err.to_string());
    ensure!(
        refused.as_ref().is_some_and(|text| text.contains("greater than or equal to 1")),
        "{refused:?}"
    );
    let shown = kubectl(&["get", "wd", "-n", "widgets", "--no-headers"])?;
    ensure!(shown.split_whitespace().eq(["a", "3"]), "{shown}");
    let color = kubectl(&["get", "wd", "a", "-n", "widgets", "-o", "jsonpath={.spec.color}"])?;
    ensure!(color == "red", "{color}");
    // A new API server serves what is stored before it answers anybody.
    let components = components()?;
    let server = components.iter().find(|(name, _)| name == "k3s-apiserver");
    let (_, pid) = server.context("the API server's process")?;
    kill(*pid, rustix::process::Signal::KILL)?;
    kubectl(&["get", "wd", "a", "-n", "widgets"])?;
    let explained = kubectl(&["explain", "widget.spec.size"])?;
    ensure!(explained.contains("How big it is."), "{explained}");
    // An owner of a built-in object, which owns another custom one: all go with the first.
    let uid =
        |what: &str| kubectl(&["get", what, "-n", "widgets", "-o", "jsonpath={.metadata.uid}"]);
    let by_widget = owner("e2e.example.com/v1", "Widget", "a", &uid("wd/a")?);
    apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: child, namespace: widgets{by_widget} }}\n"
    ))?;
    let by_child = owner("v1", "ConfigMap", "child", &uid("cm/child")?);
    apply(&widget("grandchild", "1", &by_child))?;
    kubectl(&["delete", "wd", "a", "-n", "widgets"])?;
    cluster.wait("the collection of dependents", PATIENCE, || {
        Ok(kubectl(&["get", "wd", "-n", "widgets", "-o", "name"])?.is_empty())
    })?;
    apply(&widget("c", "1", ""))?;
    kubectl(&["delete", "namespace", "widgets", "--timeout=60s"])?;
    kubectl(&["delete", "crd", "widgets.e2e.example.com", "--timeout=60s"])?;
    kubectl_fails(&["get", "widgets.e2e.example.com"])?;
    Ok(())
}

fn quota(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "namespace", "charged"])?;
    kubectl(&["create", "quota", "few", "-n", "charged", "--hard=count/secrets=2"])?;
    cluster.wait("the quota's first count", PATIENCE, || {
        let used = "jsonpath={.status.used}";
        Ok(kubectl(&["get", "quota", "few", "-n", "charged", "-o", used])?.contains("count"))
    })?;
    // At once: the controller's count cannot have come in between.
    let secret = |name: usize| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s{name}, namespace: charged }}\n---\n"
        )
    };
    let all: String = (0..5).map(secret).collect();
    let refused = apply(&all).err().map(|err| err.to_string()).unwrap_or_default();
    ensure!(refused.matches("exceeded quota: few").count() == 3, "{refused}");
    kubectl(&["delete", "namespace", "charged"])?;
    Ok(())
}

fn policy(cluster: &mut Cluster) -> Result<()> {
    apply(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: e2e-names }
spec:
  matchConstraints:
    resourceRules:
      - { apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps] }
  validations: [{ expression: "!object.metadata.name.startsWith('bad')", message: bad name }]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: e2e-names }
spec: { policyName: e2e-names, validationActions: [Deny] }
"#,
    )?;
    cluster.wait("the policy's refusal", PATIENCE, || {
        Ok(kubectl_fails(&["create", "configmap", "bad-one"])?.contains("bad name"))
    })?;
    kubectl(&["create", "configmap", "good-one"])?;
    kubectl(&["delete", "configmap", "good-one"])?;
    kubectl(&[
        "delete",
        "validatingadmissionpolicy,validatingadmissionpolicybinding",
        "e2e-names",
    ])?;
    Ok(())
}
