//! The audit log, by the policy file that the API server was given.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, apply, kubectl};

/// Runs after the cluster of the other steps has stopped.
pub(super) const STEP: (&str, fn() -> Result<()>) =
    ("the audit log says what its policy asks for", audited);

const HOME: &str = "/run/audited";

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  - level: RequestResponse
    resources: [{ group: "", resources: [configmaps] }]
    namespaces: [default]
    verbs: [create, delete]
  - level: Metadata
    resources: [{ group: "", resources: [secrets] }]
    namespaces: [default]
  - level: None
"#;

fn audited() -> Result<()> {
    fs::create_dir_all(HOME)?;
    let (policy, log) = (format!("{HOME}/policy.yaml"), format!("{HOME}/audit.log"));
    fs::write(&policy, POLICY)?;
    let flags = [
        format!("--kube-apiserver-arg=audit-policy-file={policy}"),
        format!("--kube-apiserver-arg=audit-log-path={log}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start_with(Path::new(super::LOG), "audited", &flags)?;
    cluster.api_ready()?;
    kubectl(&["create", "configmap", "seen", "--from-literal=a=b"])?;
    kubectl(&["get", "configmap", "seen"])?;
    kubectl(&["create", "secret", "generic", "hidden", "--from-literal=password=geheim"])?;
    let refused = apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: Wrong }\n");
    ensure!(refused.is_err(), "a wrong name was accepted");
    cluster.stop()?;
    let text = fs::read_to_string(&log).with_context(|| log.clone())?;
    fs::remove_dir_all(HOME)?;
    let events: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
    let of = |verb: &str, name: &str| {
        let found = events.iter().find(|event| {
            let about = &event["objectRef"];
            // A creation has no name in its URL.
            event["verb"] == verb
                && (about["name"] == name
                    || event["responseObject"]["metadata"]["name"] == name
                    || about["resource"] == name)
        });
        found.with_context(|| format!("{verb} of {name} was not logged: {text}"))
    };
    let created = of("create", "seen")?;
    ensure!(
        created["level"] == "RequestResponse" && created["stage"] == "ResponseComplete",
        "{created}"
    );
    ensure!(created["requestObject"]["data"]["a"] == "b", "{created}");
    ensure!(created["responseObject"]["metadata"].get("managedFields").is_none(), "{created}");
    ensure!(created["user"]["username"] == "system:admin", "{created}");
    ensure!(created["responseStatus"]["code"] == 201, "{created}");
    ensure!(created["annotations"]["authorization.k8s.io/decision"] == "allow", "{created}");
    let secret = of("create", "secrets")?;
    ensure!(secret["level"] == "Metadata" && secret.get("requestObject").is_none(), "{secret}");
    ensure!(!text.contains("geheim") && !text.contains("Z2VoZWlt"), "a secret is in the log");
    let wrong = events.iter().find(|event| event["responseStatus"]["code"] == 422);
    let wrong = wrong.context("the refusal was not logged")?;
    ensure!(wrong["responseStatus"]["reason"] == "Invalid", "{wrong}");
    ensure!(of("get", "seen").is_err(), "a read was logged");
    Ok(())
}
