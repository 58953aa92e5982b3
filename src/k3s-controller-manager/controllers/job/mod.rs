//! Jobs: pods until enough have succeeded or too many have failed. `plan.rs` decides, with
//! `policy.rs` on what counts and `retry.rs` on when to try again.

mod indexes;
mod plan;
mod policy;
mod retry;
#[cfg(test)]
mod simulation;

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{Action, HasMeta, Key, Patch, WorkQueue, is_invalid, is_not_found, now};
use serde_json::{Value, json};

use self::{
    indexes::INDEX,
    plan::{FINALIZER, NewPod, plan},
    retry::{FAILURES, IGNORED_FAILURES},
};
use crate::{
    Cx, Running,
    caches::{JOBS, PODS, controller_key, owned_and_orphans},
    ownership::claim_all,
    pod_control::{self, Owner},
    types::{batch::Job, core::Pod},
    workers,
};

const NAME: &str = "job-controller";
const WORKERS: usize = 8;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.jobs.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, jobs) = (queue.clone(), cx.caches.jobs.lister());
    cx.caches.pods.on_event(move |event| {
        for pod in event.old().into_iter().chain([event.object()]) {
            if let Some(key) = controller_key(pod.as_ref(), "Job") {
                filled.add(key);
            } else if pod.meta().controller().is_none() && !pod.metadata.labels.is_empty() {
                for job in jobs.namespaced(&pod.metadata.namespace) {
                    if !job.spec.selector.is_empty()
                        && job.spec.selector.matches(&pod.metadata.labels)
                    {
                        filled.add(job.metadata.key());
                    }
                }
            }
        }
    });
    // Pods that outlived their Job must not be held by its finalizer.
    let orphans = WorkQueue::new();
    let (filled, jobs) = (orphans.clone(), cx.caches.jobs.lister());
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        if pod.metadata.has_finalizer(FINALIZER)
            && !matches!(event, client::Event::Deleted(_))
            && (pod.metadata.is_deleting()
                || controller_key(pod.as_ref(), "Job").is_none_or(|key| jobs.get(&key).is_none()))
        {
            filled.add(pod.metadata.key());
        }
    });
    let (filled, pods, by_owner) =
        (orphans.clone(), cx.caches.pods.lister(), cx.caches.pods_by_owner);
    cx.caches.jobs.on_event(move |event| {
        if let client::Event::Deleted(job) = event {
            for pod in pods.by_index(by_owner, &job.metadata.uid) {
                filled.add(pod.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    let main = workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    });
    let shared = Arc::new(cx.clone());
    let orphans = workers(cx, NAME, WORKERS, &orphans, move |key| {
        let cx = Arc::clone(&shared);
        async move { free(&cx, &key).await }
    });
    Box::pin(async move {
        tokio::join!(main, orphans);
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(job) = cx.caches.jobs.lister().get(key) else { return Ok(Action::Done) };
    if job.spec.managed_by.as_deref().is_some_and(|it| it != "kubernetes.io/job-controller") {
        return Ok(Action::Done);
    }
    let caches = &cx.caches;
    let candidates = owned_and_orphans(
        &caches.pods.lister(),
        caches.pods_by_owner,
        &job.metadata.uid,
        &key.namespace,
    );
    let owner = (&JOBS, &job.metadata);
    let pods = claim_all(cx, owner, &job.spec.selector, &caches.pods, candidates).await?;
    let plan = plan(&job, &pods, now());
    let recorder = cx.recorder.named(NAME);
    let owner = Owner { resource: &JOBS, meta: &job.metadata, recorder: &recorder };
    // The ends are recorded first: only then may the finalizers go.
    write_status(cx, &job, &plan.status).await?;
    if let Some((kind, reason, message)) = plan.event {
        owner.event(kind, &reason, message);
    }
    for pod in &plan.release {
        release(cx, pod).await?;
    }
    pod_control::delete_many(cx, &owner, plan.delete).await?;
    if !plan.create.is_empty() {
        let template = pod_control::from_template(job.spec.template.as_ref(), &owner)?;
        let bodies = plan.create.iter().map(|new| body(&job, template.clone(), *new)).collect();
        pod_control::create_many(cx, &owner, bodies).await.1?;
    }
    Ok(plan.again.map_or(Action::Done, |seconds| {
        let seconds = u64::try_from(seconds).unwrap_or(0).max(1);
        Action::RequeueAfter(std::time::Duration::from_secs(seconds))
    }))
}

/// The pod of a template, tracked, and with its index.
fn body(job: &Job, mut pod: Value, new: NewPod) -> Value {
    let finalizers = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let all: Vec<Value> = finalizers.into_iter().chain([json!(FINALIZER)]).collect();
    pod["metadata"]["finalizers"] = json!(all);
    let Some(index) = new.index else { return pod };
    let name = &job.metadata.name;
    pod["metadata"]["generateName"] = json!(format!("{name}-{index}-"));
    pod["metadata"]["annotations"][INDEX] = json!(index.to_string());
    pod["metadata"]["labels"][INDEX] = json!(index.to_string());
    if let Some(failures) = new.failures {
        pod["metadata"]["annotations"][FAILURES] = json!(failures.counted.to_string());
        if failures.ignored > 0 {
            pod["metadata"]["annotations"][IGNORED_FAILURES] = json!(failures.ignored.to_string());
        }
    }
    pod["spec"]["hostname"] = json!(format!("{name}-{index}"));
    let variable = json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}},
    });
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            match container.get_mut("env").and_then(Value::as_array_mut) {
                Some(env) if env.iter().any(|it| it["name"] == "JOB_COMPLETION_INDEX") => {}
                Some(env) => env.push(variable.clone()),
                None => container["env"] = json!([variable]),
            }
        }
    }
    pod
}

async fn write_status(cx: &Cx, job: &Job, status: &crate::types::batch::JobStatus) -> Result<()> {
    if job.status == *status {
        return Ok(());
    }
    let key = job.metadata.key();
    let mut status = serde_json::to_value(status).context("writing a job status")?;
    for field in ["startTime", "completionTime", "completedIndexes"] {
        if status.get(field).is_none() {
            status[field] = Value::Null;
        }
    }
    let body = json!({
        "metadata": {"resourceVersion": job.metadata.resource_version},
        "status": status,
    });
    match cx.rest.patch::<Job>(&JOBS, &key, "status", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.jobs.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

async fn release(cx: &Cx, pod: &Pod) -> Result<()> {
    let key = pod.metadata.key();
    let left: Vec<&String> = pod.metadata.finalizers.iter().filter(|it| *it != FINALIZER).collect();
    let body = json!({"metadata": {
        "uid": pod.metadata.uid,
        "resourceVersion": pod.metadata.resource_version,
        "finalizers": left,
    }});
    match cx.rest.patch::<Pod>(&PODS, &key, "", Patch::Merge, &body).await {
        Ok(updated) if updated.metadata.is_deleting() && updated.metadata.finalizers.is_empty() => {
            Ok(())
        }
        Ok(updated) => {
            cx.caches.pods.observe(updated);
            Ok(())
        }
        Err(err) if is_not_found(&err) || is_invalid(&err) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("releasing pod {key}")),
    }
}

async fn free(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(pod) = cx.caches.pods.lister().get(key) else { return Ok(Action::Done) };
    let jobs = cx.caches.jobs.lister();
    let owned =
        controller_key(pod.as_ref(), "Job").and_then(|key| jobs.get(&key)).is_some_and(|job| {
            pod.metadata.controller().is_some_and(|owner| owner.uid == job.metadata.uid)
                && !job.metadata.is_deleting()
        });
    if !owned && pod.metadata.has_finalizer(FINALIZER) {
        release(cx, &pod).await?;
    }
    Ok(Action::Done)
}
