//! How many replicas one metric asks for: upstream's replica calculator, without any IO.
//!
//! Invariant: pods without a usable sample never turn a decision round, they only soften it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::types::{condition, core::Pod};

/// A pod's CPU is not trusted so long after its start unless it was ready for a whole window.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready within this time of its start was never ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
const TOLERANCE: f64 = 0.1;

/// A pod's sample, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// How far off the target the usage may be without consequences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Tolerances { down: TOLERANCE, up: TOLERANCE }
    }
}

impl Tolerances {
    pub(super) fn hold(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What is wanted of a metric of pods.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// This percentage of what the pods (or this container of each) request.
    Utilization { percent: i32, container: &'a str },
    /// This much on average.
    Average(i64),
}

/// The outcome for one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Percentage of requests, where that was wanted.
    pub utilization: Option<i64>,
    /// The average over pods, in thousandths.
    pub average: i64,
}

struct Groups {
    ready: usize,
    unready: Vec<Arc<Pod>>,
    missing: Vec<Arc<Pod>>,
    ignored: Vec<Arc<Pod>>,
}

/// Replicas for a metric of which each pod has a sample.
pub(super) fn of_pods(
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    resource: &str,
    wanted: Wanted<'_>,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, &samples, resource, now);
    for pod in groups.ignored.iter().chain(&groups.unready) {
        samples.remove(&pod.metadata.name);
    }
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let requests = match wanted {
        Wanted::Utilization { container, .. } => requests(pods, resource, container)?,
        Wanted::Average(_) => BTreeMap::new(),
    };
    let values: BTreeMap<&str, i64> =
        samples.iter().map(|(name, it)| (name.as_str(), it.value)).collect();
    let first = ratio(&values, &requests, wanted)?;
    let average = values.values().sum::<i64>() / i64::try_from(values.len()).unwrap_or(1);
    let proposal = |replicas| Proposal { replicas, utilization: first.utilization, average };
    let ups = !groups.unready.is_empty() && first.ratio > 1.0;
    if !ups && groups.missing.is_empty() {
        let held = tolerances.hold(first.ratio);
        return Ok(proposal(if held { current } else { times(first.ratio, groups.ready) }));
    }
    let mut assumed = values;
    for pod in &groups.missing {
        let name = pod.metadata.name.as_str();
        if first.ratio < 1.0 {
            // As if it used all that it should, so that nothing is taken away by mistake.
            let value = match wanted {
                Wanted::Utilization { percent, .. } => {
                    requests.get(name).map_or(0, |it| it * i64::from(percent.max(100)) / 100)
                }
                Wanted::Average(target) => target,
            };
            assumed.insert(name, value);
        } else if first.ratio > 1.0 {
            assumed.insert(name, 0);
        }
    }
    if ups {
        assumed.extend(groups.unready.iter().map(|pod| (pod.metadata.name.as_str(), 0)));
    }
    let second = ratio(&assumed, &requests, wanted)?.ratio;
    let turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if tolerances.hold(second) || turned {
        return Ok(proposal(current));
    }
    let replicas = times(second, assumed.len());
    let against = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    Ok(proposal(if against { current } else { replicas }))
}

/// Replicas for a value of the whole, divided among nobody.
pub(super) fn of_value(
    current: i32,
    pods: &[Arc<Pod>],
    usage: i64,
    target: i64,
    tolerances: Tolerances,
) -> i32 {
    let ratio = usage as f64 / target as f64;
    if current == 0 {
        return times(ratio, 1);
    }
    if tolerances.hold(ratio) {
        return current;
    }
    times(ratio, pods.iter().filter(|pod| pod.is_ready()).count())
}

/// Replicas for a value of the whole of which each replica takes its part.
pub(super) fn of_average(replicas: i32, usage: i64, target: i64, tolerances: Tolerances) -> i32 {
    let ratio = usage as f64 / (target as f64 * f64::from(replicas));
    if replicas > 0 && tolerances.hold(ratio) {
        return replicas;
    }
    times(usage as f64 / target as f64, 1)
}

fn times(ratio: f64, count: usize) -> i32 {
    (ratio * count as f64).ceil() as i32
}

struct Ratio {
    ratio: f64,
    utilization: Option<i64>,
}

fn ratio(
    values: &BTreeMap<&str, i64>,
    requests: &BTreeMap<String, i64>,
    wanted: Wanted<'_>,
) -> Result<Ratio, String> {
    match wanted {
        Wanted::Average(target) => {
            let mean = values.values().sum::<i64>() as f64 / values.len().max(1) as f64;
            Ok(Ratio { ratio: mean / target as f64, utilization: None })
        }
        Wanted::Utilization { percent, .. } => {
            let (mut used, mut requested) = (0, 0);
            for (name, value) in values {
                let Some(request) = requests.get(*name) else { continue };
                used += value;
                requested += request;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = used * 100 / requested;
            let ratio = utilization as f64 / f64::from(percent);
            Ok(Ratio { ratio, utilization: Some(utilization) })
        }
    }
}

/// What every pod requests, in thousandths; all have to.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = &pod.metadata.name;
        let missing = |container: &str| {
            format!("missing request for {resource} in container {container} of Pod {name}")
        };
        let all = pod
            .spec
            .containers
            .iter()
            .chain(pod.spec.init_containers.iter().filter(|it| it.restart_policy == "Always"));
        let mut sum = 0;
        let whole = pod.spec.resources.requests.get(resource);
        if let Some(whole) = whole.filter(|_| container.is_empty()) {
            sum = whole.0.milli_value();
        } else {
            for it in all.filter(|it| container.is_empty() || it.name == container) {
                let request = it.resources.requests.get(resource);
                sum += request.ok_or_else(|| missing(&it.name))?.0.milli_value();
            }
        }
        requests.insert(name.clone(), sum);
    }
    Ok(requests)
}

fn group(pods: &[Arc<Pod>], samples: &Samples, resource: &str, now: Timestamp) -> Groups {
    let mut groups =
        Groups { ready: 0, unready: Vec::new(), missing: Vec::new(), ignored: Vec::new() };
    for pod in pods {
        if pod.metadata.is_deleting() || pod.status.phase == "Failed" {
            groups.ignored.push(Arc::clone(pod));
        } else if pod.status.phase == "Pending" {
            groups.unready.push(Arc::clone(pod));
        } else if let Some(sample) = samples.get(&pod.metadata.name) {
            if resource == "cpu" && is_settling(pod, sample, now) {
                groups.unready.push(Arc::clone(pod));
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.push(Arc::clone(pod));
        }
    }
    groups
}

/// Whether the CPU that a pod uses says more about its start than about its work.
fn is_settling(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let ready = condition(&pod.status.conditions, "Ready");
    let (Some(ready), Some(started)) = (ready, &pod.status.start_time) else { return true };
    let (started, unready) = (started.0, ready.status == "False");
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |it| it.0);
    if started + CPU_INITIALIZATION > now {
        unready || sample.at < since + sample.window
    } else {
        unready && started + INITIAL_READINESS > since
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2030-01-01T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    /// A pod of an hour's age with half a core requested.
    fn pod(name: &str, phase: &str, ready: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
                "status": {"phase": phase, "startTime": "2030-01-01T00:00:00Z", "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2030-01-01T00:30:00Z"}]},
            }))
            .unwrap(),
        )
    }

    fn check(current: i32, pods: &[(&str, Option<i64>)], want: Result<i32, &str>) {
        let mut list = Vec::new();
        let mut samples = Samples::new();
        for (at, (phase, value)) in pods.iter().enumerate() {
            let name = format!("p{at}");
            list.push(pod(&name, phase, "True"));
            let sample = |value| Sample { value, at: now(), window: SignedDuration::from_secs(30) };
            samples.extend(value.map(|value| (name, sample(value))));
        }
        let half = Wanted::Utilization { percent: 50, container: "" };
        let found = of_pods(current, &list, samples, "cpu", half, Tolerances::default(), now());
        assert_eq!(found.map(|it| it.replicas), want.map_err(str::to_owned), "{pods:?}");
    }

    #[test]
    fn utilization_moves_replicas_and_missing_pods_soften_it() {
        let running = |value| ("Running", Some(value));
        check(2, &[running(250), running(250)], Ok(2));
        check(2, &[running(270), running(270)], Ok(2));
        check(2, &[running(500), running(500)], Ok(4));
        check(2, &[running(100), running(100)], Ok(1));
        // Halved by one that has no sample yet: no change of direction, but less of a change.
        check(2, &[running(500), ("Running", None)], Ok(2));
        check(3, &[running(500), running(500), ("Pending", None)], Ok(4));
        check(2, &[running(100), ("Running", None)], Ok(2));
        check(1, &[], Err("no pods returned by selector while calculating replica count"));
        check(
            1,
            &[("Pending", None)],
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        );
    }

    #[test]
    fn whole_values_are_divided_or_shared() {
        let ready = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        let plain = Tolerances::default();
        assert_eq!(of_value(2, &ready, 300, 100, plain), 6);
        assert_eq!(of_value(2, &ready, 105, 100, plain), 2);
        assert_eq!(of_value(0, &[], 250, 100, plain), 3);
        assert_eq!(of_average(2, 500, 100, plain), 5);
        assert_eq!(of_average(2, 210, 100, plain), 2);
    }

    #[test]
    fn a_container_without_request_is_named() {
        let mut bare = (*pod("p", "Running", "True")).clone();
        bare.spec.containers[0].resources.requests.clear();
        let found = requests(&[Arc::new(bare)], "cpu", "").unwrap_err();
        assert_eq!(found, "missing request for cpu in container c of Pod p");
    }
}
