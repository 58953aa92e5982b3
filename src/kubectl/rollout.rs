//! `kubectl rollout`: status, restart, undo, history, pause and resume of workloads.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use jiff::{Timestamp, Unit};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::RolloutCommand;
use crate::discovery::{Type, Types, items, text};
use crate::logs::seconds;
use crate::select::targets;
use crate::server::{Server, with_query};

const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One workload.
struct Workload<'a> {
    server: &'a Server,
    of: &'a Type,
    name: String,
}

pub(crate) async fn run(server: &Server, command: &RolloutCommand) -> Result<()> {
    let target = match command {
        RolloutCommand::Status { target, .. } | RolloutCommand::Undo { target, .. } => target,
        RolloutCommand::Restart(target)
        | RolloutCommand::History(target)
        | RolloutCommand::Pause(target)
        | RolloutCommand::Resume(target) => target,
    };
    let types = Types::read(server).await?;
    for target in targets(&types, &target.targets)? {
        let (of, mut names) = (target.of, target.names);
        if names.is_empty() {
            let list = server.get(&of.path(&server.namespace, "")).await?;
            names = items(&list, "items").iter().map(|it| text(&it["metadata"]["name"])).collect();
        }
        for name in names {
            let workload = Workload { server, of, name };
            match command {
                RolloutCommand::Status { watch, timeout, .. } => {
                    workload.status(*watch, seconds(timeout)?).await?;
                }
                RolloutCommand::Restart(_) => workload.restart().await?,
                RolloutCommand::Undo { to_revision, .. } => workload.undo(*to_revision).await?,
                RolloutCommand::History(_) => workload.history().await?,
                RolloutCommand::Pause(_) => workload.pause(true).await?,
                RolloutCommand::Resume(_) => workload.pause(false).await?,
            }
        }
    }
    Ok(())
}

impl Workload<'_> {
    fn path(&self) -> String {
        self.of.path(&self.server.namespace, &self.name)
    }

    fn say(&self, what: &str) {
        println!("{} {what}", self.of.named(&self.name));
    }

    async fn status(&self, watch: bool, limit_secs: i64) -> Result<()> {
        let looking = async {
            let mut last = String::new();
            loop {
                let object = self.server.get(&self.path()).await?;
                let (said, done) = state(&self.of.resource.kind, &object)?;
                if said != last {
                    println!("{said}");
                }
                if done || !watch {
                    return Ok(());
                }
                last = said;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match u64::try_from(limit_secs) {
            Ok(secs) if secs > 0 => match timeout(Duration::from_secs(secs), looking).await {
                Ok(done) => done,
                Err(_) => bail!("timed out waiting for the condition"),
            },
            _ => looking.await,
        }
    }

    async fn restart(&self) -> Result<()> {
        let object = self.server.get(&self.path()).await?;
        if object["spec"]["paused"] == true {
            bail!("can't restart paused deployment (run rollout resume first)");
        }
        if !object["spec"]["template"].is_object() || self.of.resource.kind == "Job" {
            bail!("{} restarting is not supported", self.of.resource.plural);
        }
        let now = Timestamp::now().round(Unit::Second)?.to_string();
        let patch =
            json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
        self.server.merge(&self.path(), &patch).await?;
        self.say("restarted");
        Ok(())
    }

    async fn pause(&self, paused: bool) -> Result<()> {
        if self.of.resource.kind != "Deployment" {
            let verb = if paused { "pausing" } else { "resuming" };
            bail!("{} {verb} is not supported", self.of.resource.plural);
        }
        let object = self.server.get(&self.path()).await?;
        let word = if paused { "paused" } else { "resumed" };
        if (object["spec"]["paused"] == true) == paused {
            let state = if paused { "already paused" } else { "not paused" };
            bail!("{} {:?} is {state}", self.of.plural(), self.name);
        }
        self.server.merge(&self.path(), &json!({"spec": {"paused": paused}})).await?;
        self.say(word);
        Ok(())
    }

    /// The revisions that are kept, oldest first.
    async fn revisions(&self) -> Result<Vec<(i64, Value)>> {
        let plural = match self.of.resource.kind.as_ref() {
            "Deployment" => "replicasets",
            "DaemonSet" | "StatefulSet" => "controllerrevisions",
            _ => bail!("no history viewer has been implemented for {:?}", self.of.resource.kind),
        };
        let owner = self.server.get(&self.path()).await?;
        let path = format!("/apis/apps/v1/namespaces/{}/{plural}", self.server.namespace);
        let list = self.server.get(&path).await?;
        let owned = items(&list, "items").iter().filter(|it| {
            items(&it["metadata"], "ownerReferences")
                .iter()
                .any(|it| it["uid"] == owner["metadata"]["uid"])
        });
        let number = |it: &Value| match plural {
            "replicasets" => text(&it["metadata"]["annotations"][REVISION]).parse().ok(),
            _ => it["revision"].as_i64(),
        };
        let mut found: Vec<(i64, Value)> =
            owned.filter_map(|it| Some((number(it)?, it.clone()))).collect();
        found.sort_by_key(|(revision, _)| *revision);
        Ok(found)
    }

    async fn history(&self) -> Result<()> {
        let mut lines = format!("{} \nREVISION  CHANGE-CAUSE\n", self.of.named(&self.name));
        for (revision, object) in self.revisions().await? {
            let cause = object["metadata"]["annotations"][CAUSE].as_str().unwrap_or("<none>");
            lines += &format!("{revision:<10}{cause}\n");
        }
        println!("{lines}");
        Ok(())
    }

    async fn undo(&self, to: i64) -> Result<()> {
        let object = self.server.get(&self.path()).await?;
        if object["spec"]["paused"] == true {
            bail!(
                "cannot rollback a paused deployment; resume it first with 'kubectl rollout resume'"
            );
        }
        let revisions = self.revisions().await?;
        let wanted = match to {
            0 => revisions.iter().rev().nth(1),
            to => revisions.iter().find(|(revision, _)| *revision == to),
        };
        let (revision, wanted) = match (wanted, to) {
            (Some(wanted), _) => wanted,
            (None, 0) => bail!("no rollout history found for {}", self.of.named(&self.name)),
            (None, _) => bail!("unable to find specified revision {to} in history"),
        };
        if self.of.resource.kind == "Deployment" {
            let mut template = wanted["spec"]["template"].clone();
            if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
                labels.remove("pod-template-hash");
            }
            if template == object["spec"]["template"] {
                println!(
                    "{} skipped rollback (current template already matches revision {revision})",
                    self.of.named(&self.name)
                );
                return Ok(());
            }
            let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
            self.patch("application/json-patch+json", &patch).await?;
        } else {
            let data = wanted.get("data").context("the revision has no data")?;
            self.patch("application/strategic-merge-patch+json", data).await?;
        }
        self.say("rolled back");
        Ok(())
    }

    async fn patch(&self, content: &str, patch: &Value) -> Result<()> {
        let path = with_query(&self.path(), &[("fieldManager", "kubectl-rollout")]);
        let body = serde_json::to_vec(patch)?;
        self.server.send(Method::PATCH, &path, content, body).await.map(drop)
    }
}

/// What `rollout status` says of an object, and whether that is the end.
fn state(kind: &str, object: &Value) -> Result<(String, bool)> {
    let name = text(&object["metadata"]["name"]);
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let observed = number(&status["observedGeneration"]);
    let behind = number(&object["metadata"]["generation"]) > observed || observed == 0;
    let strategy = match kind {
        "Deployment" => "",
        _ => spec["updateStrategy"]["type"].as_str().unwrap_or("RollingUpdate"),
    };
    if strategy == "OnDelete" {
        bail!("rollout status is only available for RollingUpdate strategy type");
    }
    let waiting = |text: String| Ok((text, false));
    match kind {
        "Deployment" => {
            if behind {
                return waiting("Waiting for deployment spec update to be observed...".to_owned());
            }
            let late = items(status, "conditions").iter().any(|it| {
                it["type"] == "Progressing" && it["reason"] == "ProgressDeadlineExceeded"
            });
            if late {
                bail!("deployment {name:?} exceeded its progress deadline");
            }
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            let (updated, all) = (number(&status["updatedReplicas"]), number(&status["replicas"]));
            let available = number(&status["availableReplicas"]);
            let begin = format!("Waiting for deployment {name:?} rollout to finish:");
            if updated < wanted {
                return waiting(format!(
                    "{begin} {updated} out of {wanted} new replicas have been updated..."
                ));
            }
            if all > updated {
                let old = all - updated;
                return waiting(format!("{begin} {old} old replicas are pending termination..."));
            }
            if available < updated {
                return waiting(format!(
                    "{begin} {available} of {updated} updated replicas are available..."
                ));
            }
            Ok((format!("deployment {name:?} successfully rolled out"), true))
        }
        "DaemonSet" => {
            if behind {
                return waiting("Waiting for daemon set spec update to be observed...".to_owned());
            }
            let wanted = number(&status["desiredNumberScheduled"]);
            let updated = number(&status["updatedNumberScheduled"]);
            let available = number(&status["numberAvailable"]);
            let begin = format!("Waiting for daemon set {name:?} rollout to finish:");
            if updated < wanted {
                return waiting(format!(
                    "{begin} {updated} out of {wanted} new pods have been updated..."
                ));
            }
            if available < wanted {
                return waiting(format!(
                    "{begin} {available} of {wanted} updated pods are available..."
                ));
            }
            Ok((format!("daemon set {name:?} successfully rolled out"), true))
        }
        "StatefulSet" => {
            if behind {
                return waiting("Waiting for statefulset spec update to be observed...".to_owned());
            }
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            let (ready, updated) =
                (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
            if ready < wanted {
                return waiting(format!("Waiting for {} pods to be ready...", wanted - ready));
            }
            let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
            if partition > 0 {
                if updated < wanted - partition {
                    return waiting(format!(
                        "Waiting for partitioned roll out to finish: {updated} out of {} new pods \
                         have been updated...",
                        wanted - partition
                    ));
                }
                return Ok((
                    format!(
                        "partitioned roll out complete: {updated} new pods have been updated..."
                    ),
                    true,
                ));
            }
            let (next, now) = (text(&status["updateRevision"]), text(&status["currentRevision"]));
            if next != now {
                return waiting(format!(
                    "waiting for statefulset rolling update to complete {updated} pods at revision \
                     {next}..."
                ));
            }
            let current = number(&status["currentReplicas"]);
            Ok((
                format!("statefulset rolling update complete {current} pods at revision {now}..."),
                true,
            ))
        }
        other => bail!("no status viewer has been implemented for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_rollout_is_said_in_kubectls_words() {
        let check = |kind: &str, spec: Value, status: Value, expected: &str, ends: bool| {
            let object = json!({"metadata": {"name": "web", "generation": 2}, "spec": spec,
                "status": status});
            assert_eq!(state(kind, &object).unwrap(), (expected.to_owned(), ends));
        };
        let three = json!({"replicas": 3});
        check(
            "Deployment",
            three.clone(),
            json!({"observedGeneration": 1}),
            "Waiting for deployment spec update to be observed...",
            false,
        );
        check(
            "Deployment",
            three.clone(),
            json!({"observedGeneration": 2, "updatedReplicas": 1}),
            "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
            false,
        );
        check(
            "Deployment",
            three.clone(),
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
            "deployment \"web\" successfully rolled out",
            true,
        );
        check(
            "DaemonSet",
            json!({}),
            json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}),
            "Waiting for daemon set \"web\" rollout to finish: 1 of 2 updated pods are available...",
            false,
        );
        check(
            "StatefulSet",
            three,
            json!({"observedGeneration": 2, "readyReplicas": 1}),
            "Waiting for 2 pods to be ready...",
            false,
        );
    }
}
