//! HorizontalPodAutoscalers: every 15 s as many replicas as the metrics ask for.
//!
//! Invariant: replicas change only on metrics that were read in the same look, or to get within
//! the limits; what could not be read is said in the condition ScalingActive.

mod metrics;
mod plan;
mod replicas;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use apimachinery::selector::LabelSelector;
use client::{
    Action, EventType, Key, ObjectReference, Resource, Time, WorkQueue, is_not_found, now,
};
use serde_json::{Value, json};

use self::{
    plan::{Memory, normalize, tolerances},
    replicas::{Proposal, Wanted, of_average, of_pods, of_value},
};
use crate::{
    Cx, Running,
    amounts::Amount,
    caches::AUTOSCALERS,
    discovery,
    types::{
        Condition,
        autoscaling::{
            Autoscaler, AutoscalerStatus, CrossReference, MetricSource, MetricSpec, ResourceSource,
            Scale,
        },
        condition,
        core::Pod,
    },
    workers,
};

const NAME: &str = "horizontal-pod-autoscaler-controller";
const WORKERS: usize = 5;
const PERIOD: Duration = Duration::from_secs(15);

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.autoscalers.on_event(move |event| {
        let object = event.object();
        // Our own writes of the status are no reason to look again.
        if event.old().is_none_or(|old| old.metadata.generation != object.metadata.generation) {
            filled.add(object.metadata.key());
        }
    });
    let shared = Arc::new(Controller { cx: cx.clone(), memories: Mutex::default() });
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let shared = Arc::clone(&shared);
        async move { shared.reconcile(&key).await }
    })
}

struct Controller {
    cx: Cx,
    /// By uid.
    memories: Mutex<HashMap<String, Memory>>,
}

/// One look at one autoscaler.
struct Look<'a> {
    cx: &'a Cx,
    hpa: &'a Autoscaler,
    scale: &'a Scale,
    pods: Vec<Arc<Pod>>,
    current: i32,
}

/// What a metric asks for, how that is called, and what is shown of it.
struct Metric {
    replicas: i32,
    name: String,
    status: Value,
}

/// Why a metric asks for nothing.
struct Unread {
    reason: &'static str,
    message: String,
}

/// What all metrics together ask for.
struct Wish {
    replicas: i32,
    name: String,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Action> {
        let Some(hpa) = self.cx.caches.autoscalers.lister().get(key) else {
            let known = self.cx.caches.autoscalers.lister().list();
            let alive = |uid: &String| known.iter().any(|it| it.metadata.uid == *uid);
            self.memories().retain(|uid, _| alive(uid));
            return Ok(Action::Done);
        };
        let mut status = hpa.status.clone();
        status.observed_generation = Some(hpa.metadata.generation);
        let outcome = self.look(&hpa, &mut status).await;
        if let Err(unread) = &outcome {
            self.event(&hpa, EventType::Warning, unread.reason, &unread.message);
            tracing::debug!(object = %key, err = unread.message, "Replicas were not computed");
        }
        self.write(&hpa, &status).await?;
        Ok(Action::RequeueAfter(PERIOD))
    }

    async fn look(&self, hpa: &Autoscaler, status: &mut AutoscalerStatus) -> Result<(), Unread> {
        let target = &hpa.spec.scale_target_ref;
        let namespace = &hpa.metadata.namespace;
        let unscalable = |message: String| Unread { reason: "FailedGetScale", message };
        let found = self.scale(namespace, target).await.map_err(unscalable);
        let (resource, scale) = match found {
            Ok(found) => found,
            Err(unread) => {
                let text = &unread.message;
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {text}"
                );
                set(status, Condition::new("AbleToScale", "False", "FailedGetScale", message));
                return Err(unread);
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        set(status, Condition::new("AbleToScale", "True", "SucceededGetScale", able));
        let current = scale.spec.replicas;
        let mut memory = self.memory(&hpa.metadata.uid);
        memory.begin(current, now());
        let least = plan::minimum(&hpa.spec);
        let (desired, reason) = if current == 0 && least != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            set(status, Condition::new("ScalingActive", "False", "ScalingDisabled", why));
            (0, String::new())
        } else if current > hpa.spec.max_replicas {
            (hpa.spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".into())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".into())
        } else {
            status.current_replicas = current;
            let wish = self.wish(hpa, &scale, status).await?;
            let reason = match wish.replicas.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{} above target", wish.name),
                _ => "All metrics below target".to_owned(),
            };
            let normal = normalize(&hpa.spec, &mut memory, current, wish.replicas, now());
            normal.conditions.into_iter().for_each(|it| set(status, it));
            (normal.replicas, reason)
        };
        status.current_replicas = current;
        status.desired_replicas = current;
        if desired != current {
            self.rescale(hpa, (&resource, &scale), desired, &reason, status).await?;
            memory.scaled(current, desired, now());
            status.desired_replicas = desired;
            status.last_scale_time = Some(Time(now()));
        }
        self.memories().insert(hpa.metadata.uid.clone(), memory);
        Ok(())
    }

    async fn rescale(
        &self,
        hpa: &Autoscaler,
        (resource, scale): (&Resource, &Scale),
        desired: i32,
        reason: &str,
        status: &mut AutoscalerStatus,
    ) -> Result<(), Unread> {
        let key = Key::new(&hpa.metadata.namespace, &hpa.spec.scale_target_ref.name);
        let body = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {
                "namespace": key.namespace, "name": key.name,
                "resourceVersion": scale.metadata.resource_version,
            },
            "spec": {"replicas": desired},
        });
        let current = scale.spec.replicas;
        let answer: Result<Scale, _> = self.cx.rest.update(resource, &key, "scale", &body).await;
        match answer {
            Ok(_) => {
                let message =
                    format!("the HPA controller was able to update the target scale to {desired}");
                set(status, Condition::new("AbleToScale", "True", "SucceededRescale", message));
                let message = format!("New size: {desired}; reason: {reason}");
                self.event(hpa, EventType::Normal, "SuccessfulRescale", &message);
                tracing::debug!(object = %key, current, desired, "Target was scaled");
                Ok(())
            }
            Err(err) => {
                let err = client::describe(&err);
                let message =
                    format!("the HPA controller was unable to update the target scale: {err}");
                set(status, Condition::new("AbleToScale", "False", "FailedUpdateScale", message));
                let message = format!("New size: {desired}; reason: {reason}; error: {err}");
                Err(Unread { reason: "FailedRescale", message })
            }
        }
    }

    /// The target's resource and scale.
    async fn scale(
        &self,
        namespace: &str,
        target: &CrossReference,
    ) -> Result<(Resource, Scale), String> {
        let resource = self.resource(target).await?;
        let key = Key::new(namespace, &target.name);
        let path = resource.object(&key, "scale");
        let scale = self.cx.rest.get_path::<Scale>(&path).await;
        scale.map(|scale| (resource, scale)).map_err(|err| client::describe(&err))
    }

    async fn resource(&self, target: &CrossReference) -> Result<Resource, String> {
        let (group, version) =
            target.api_version.split_once('/').unwrap_or(("", &target.api_version));
        let known = discovery::group_version(&self.cx.rest, group, version)
            .await
            .map_err(|err| format!("{err:#}"))?;
        let found = known.into_iter().find(|it| it.resource.kind == target.kind);
        found.map(|it| it.resource).ok_or_else(|| {
            format!("no matches for kind {:?} in version {:?}", target.kind, target.api_version)
        })
    }

    /// The most that any metric asks for.
    async fn wish(
        &self,
        hpa: &Autoscaler,
        scale: &Scale,
        status: &mut AutoscalerStatus,
    ) -> Result<Wish, Unread> {
        let selector = &scale.status.selector;
        let invalid = |message: String| Unread { reason: "SelectorRequired", message };
        if selector.is_empty() {
            let why = "the HPA target's scale is missing a selector";
            set(status, Condition::new("ScalingActive", "False", "InvalidSelector", why));
            return Err(invalid("selector is required".into()));
        }
        let parsed = LabelSelector::parse(selector).map_err(|err| {
            let message = format!(
                "couldn't convert selector into a corresponding internal selector object: {err}"
            );
            set(status, Condition::new("ScalingActive", "False", "InvalidSelector", &*message));
            Unread { reason: "InvalidSelector", message }
        })?;
        let pods = self.cx.caches.pods.lister().namespaced(&hpa.metadata.namespace);
        let selected = |pod: &Arc<Pod>| {
            parsed.matches(|key: &str| pod.metadata.labels.get(key).map(String::as_str))
        };
        let look = Look {
            cx: &self.cx,
            hpa,
            scale,
            pods: pods.into_iter().filter(selected).collect(),
            current: scale.spec.replicas,
        };
        let mut wish: Option<Wish> = None;
        let mut unread = Vec::new();
        let mut statuses = Vec::new();
        for spec in &hpa.spec.metrics {
            match look.metric(spec).await {
                Ok(metric) => {
                    statuses.push(metric.status);
                    if wish.as_ref().is_none_or(|it| metric.replicas > it.replicas) {
                        wish = Some(Wish { replicas: metric.replicas, name: metric.name });
                    }
                }
                Err(failed) => {
                    self.event(hpa, EventType::Warning, failed.reason, &failed.message);
                    unread.push(failed);
                }
            }
        }
        status.current_metrics = statuses;
        // With a part unread it is safe to grow, not to shrink.
        let usable = wish.filter(|it| unread.is_empty() || it.replicas >= look.current);
        if let Some(wish) = usable {
            let message = format!(
                "the HPA was able to successfully calculate a replica count from {}",
                wish.name
            );
            set(status, Condition::new("ScalingActive", "True", "ValidMetricFound", message));
            return Ok(wish);
        }
        let (bad, all) = (unread.len(), hpa.spec.metrics.len());
        let first = unread.into_iter().next();
        let (reason, first) =
            first.map_or(("InvalidMetricSourceType", String::new()), |it| (it.reason, it.message));
        let message = format!("the HPA was unable to compute the replica count: {first}");
        set(status, Condition::new("ScalingActive", "False", reason, message));
        let message =
            format!("invalid metrics ({bad} invalid out of {all}), first error is: {first}");
        Err(Unread { reason: "FailedComputeMetricsReplicas", message })
    }

    async fn write(&self, hpa: &Autoscaler, status: &AutoscalerStatus) -> Result<()> {
        if *status == hpa.status {
            return Ok(());
        }
        let key = hpa.metadata.key();
        // The whole object is written, so the whole object is read: the cache holds a part of it.
        let mut live: Value = match self.cx.rest.get(&AUTOSCALERS, &key).await {
            Ok(live) => live,
            Err(err) if is_not_found(&err) => return Ok(()),
            Err(err) => return Err(err).with_context(|| format!("reading {key}")),
        };
        if live["metadata"]["uid"] != hpa.metadata.uid {
            return Ok(());
        }
        live["status"] = serde_json::to_value(status).context("writing a status")?;
        match self.cx.rest.update::<Autoscaler>(&AUTOSCALERS, &key, "status", &live).await {
            Ok(updated) => self.cx.caches.autoscalers.observe(updated),
            Err(err) if is_not_found(&err) => {}
            Err(err) => return Err(err).with_context(|| format!("writing the status of {key}")),
        }
        Ok(())
    }

    fn event(&self, hpa: &Autoscaler, kind: EventType, reason: &str, message: &str) {
        let about = ObjectReference::new(&AUTOSCALERS, &hpa.metadata);
        let recorder = self.cx.recorder.named("horizontal-pod-autoscaler");
        recorder.event(&about, kind, reason, message);
    }

    fn memory(&self, uid: &str) -> Memory {
        self.memories().get(uid).cloned().unwrap_or_default()
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look<'_> {
    async fn metric(&self, spec: &MetricSpec) -> Result<Metric, Unread> {
        let unread = |reason| move |message| Unread { reason, message };
        match (spec.kind.as_str(), spec) {
            ("Resource", MetricSpec { resource: Some(it), .. }) => {
                self.resource(it).await.map_err(unread("FailedGetResourceMetric"))
            }
            ("ContainerResource", MetricSpec { container_resource: Some(it), .. }) => {
                self.resource(it).await.map_err(unread("FailedGetContainerResourceMetric"))
            }
            ("Pods", MetricSpec { pods: Some(it), .. }) => {
                self.of_pods(it).await.map_err(unread("FailedGetPodsMetric"))
            }
            ("Object", MetricSpec { object: Some(it), .. }) => {
                self.of_object(it).await.map_err(unread("FailedGetObjectMetric"))
            }
            ("External", MetricSpec { external: Some(it), .. }) => {
                self.of_external(it).await.map_err(unread("FailedGetExternalMetric"))
            }
            (kind, _) => Err(unread("InvalidMetricSourceType")(format!(
                "unknown metric source type {kind:?}"
            ))),
        }
    }

    fn namespace(&self) -> &str {
        &self.hpa.metadata.namespace
    }

    async fn resource(&self, it: &ResourceSource) -> Result<Metric, String> {
        let (name, container) = (it.name.as_str(), it.container.as_str());
        let what = match container {
            "" => format!("{name} resource"),
            _ => format!("{name} container resource"),
        };
        let (wanted, kind, called) = match (it.target.average_value, it.target.average_utilization)
        {
            (Some(value), _) => (Wanted::Average(value.0.milli_value()), "usage", what),
            (None, Some(percent)) => {
                let called = format!("{what} utilization (percentage of request)");
                (Wanted::Utilization { percent, container }, "utilization", called)
            }
            (None, None) => {
                return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
            }
        };
        let context = |err| format!("failed to get {name} {kind}: {err}");
        let selector = &self.scale.status.selector;
        let samples = metrics::resource(self.cx, self.namespace(), selector, name, container).await;
        let found = samples
            .and_then(|it| {
                of_pods(self.current, &self.pods, it, name, wanted, self.tolerances(), now())
            })
            .map_err(context)?;
        let mut source = json!({"name": name, "current": current(&found)});
        let mut status = json!({"type": "Resource"});
        if container.is_empty() {
            status["resource"] = source;
        } else {
            source["container"] = json!(container);
            status = json!({"type": "ContainerResource", "containerResource": source});
        }
        Ok(Metric { replicas: found.replicas, name: called, status })
    }

    async fn of_pods(&self, it: &MetricSource) -> Result<Metric, String> {
        let name = &it.metric.name;
        let target = it.target.average_value.ok_or("averageValue is missing")?;
        let selector = &self.scale.status.selector;
        let samples = metrics::pods(self.cx, self.namespace(), selector, &it.metric).await;
        let wanted = Wanted::Average(target.0.milli_value());
        let found = samples
            .and_then(|it| {
                of_pods(self.current, &self.pods, it, "", wanted, self.tolerances(), now())
            })
            .map_err(|err| format!("failed to get pods metric value: {err}"))?;
        let status = json!({"type": "Pods",
            "pods": {"metric": it.metric, "current": current(&found)}});
        Ok(Metric { replicas: found.replicas, name: format!("pods metric {name}"), status })
    }

    async fn of_object(&self, it: &MetricSource) -> Result<Metric, String> {
        let described = &it.described_object;
        let (group, version) =
            described.api_version.split_once('/').unwrap_or(("", &described.api_version));
        let known = discovery::group_version(&self.cx.rest, group, version).await;
        let known = known.map_err(|err| format!("{err:#}"))?;
        let found = known.into_iter().find(|known| known.resource.kind == described.kind);
        let resource = found.map(|it| it.resource).ok_or_else(|| {
            format!("no matches for kind {:?} in group {group:?}", described.kind)
        })?;
        let plural = match group {
            "" => resource.plural.to_string(),
            _ => format!("{}.{group}", resource.plural),
        };
        let usage =
            metrics::object(self.cx, self.namespace(), &plural, &described.name, &it.metric)
                .await
                .map_err(|err| format!("failed to get object metric value: {err}"))?;
        let (replicas, shown) = self.whole(it, usage, "object")?;
        let status = json!({"type": "Object", "object": {
            "metric": it.metric, "describedObject": described, "current": shown}});
        let name = format!("{} metric {}", described.kind, it.metric.name);
        Ok(Metric { replicas, name, status })
    }

    async fn of_external(&self, it: &MetricSource) -> Result<Metric, String> {
        let usage = metrics::external(self.cx, self.namespace(), &it.metric)
            .await
            .map_err(|err| format!("failed to get {} external metric: {err}", it.metric.name))?;
        let (replicas, shown) = self.whole(it, usage, "external")?;
        let status = json!({"type": "External",
            "external": {"metric": it.metric, "current": shown}});
        let selector = it.metric.selector.as_ref().map(metrics::query).unwrap_or_default();
        let name = format!("external metric {}({selector})", it.metric.name);
        Ok(Metric { replicas, name, status })
    }

    /// A metric of something as a whole: a value to keep, or one to share among replicas.
    fn whole(&self, it: &MetricSource, usage: i64, kind: &str) -> Result<(i32, Value), String> {
        let tolerances = self.tolerances();
        if let Some(target) = it.target.average_value {
            let replicas = self.scale.status.replicas;
            let average = usage / i64::from(replicas.max(1));
            let proposal = of_average(replicas, usage, target.0.milli_value(), tolerances);
            return Ok((proposal, json!({"averageValue": milli(average)})));
        }
        let target = it.target.value.ok_or_else(|| {
            format!("invalid {kind} metric source: neither a value target nor an average value target was set")
        })?;
        let target = target.0.milli_value();
        let replicas = of_value(self.current, &self.pods, usage, target, tolerances);
        Ok((replicas, json!({"value": milli(usage)})))
    }

    fn tolerances(&self) -> replicas::Tolerances {
        tolerances(&self.hpa.spec)
    }
}

/// What is shown of a metric of pods.
fn current(found: &Proposal) -> Value {
    let mut current = json!({"averageValue": milli(found.average)});
    if let Some(utilization) = found.utilization {
        current["averageUtilization"] = json!(utilization);
    }
    current
}

fn milli(value: i64) -> Amount {
    let format = apimachinery::quantity::Format::DecimalSi;
    Amount(apimachinery::quantity::Quantity::from_milli(value, format))
}

/// Puts a condition in its place; its time moves with its status.
fn set(status: &mut AutoscalerStatus, mut new: Condition) {
    let known = condition(&status.conditions, &new.kind);
    let same = known.filter(|known| known.status == new.status);
    new.last_transition_time =
        same.and_then(|it| it.last_transition_time.clone()).or_else(|| Some(Time(now())));
    match status.conditions.iter_mut().find(|it| it.kind == new.kind) {
        Some(known) => *known = new,
        None => status.conditions.push(new),
    }
}
