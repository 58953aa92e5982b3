//! The pod's status as the API shows it, and the smallest patch that brings it there.
//!
//! Pure. Invariant: what the runtime no longer knows but the API still has about a container
//! (its last termination) is carried over, and a transition time moves only with its condition.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::container::{Entry, Kind, entries};
use super::labels::PodNames;
use super::plan::{Outcome, outcome, restarts};
use super::resources;
use super::state::{ContainerView, Ending, Life, Memory, Observed};

const OOM_KILLED: &str = "OOMKilled";

/// What the node adds to a status.
pub(crate) struct NodeFacts<'a> {
    pub(crate) host_ips: &'a [String],
}

pub(crate) fn status(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    facts: &NodeFacts,
    now: Timestamp,
) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let entries = entries(pod);
    let of = |kinds: &[Kind], old: &Option<Vec<ContainerStatus>>| -> Option<Vec<ContainerStatus>> {
        let list: Vec<ContainerStatus> = entries
            .iter()
            .filter(|entry| kinds.contains(&entry.kind))
            .map(|entry| {
                let before = old.iter().flatten().find(|s| s.name == entry.container.name);
                container_status(pod, entry, observed, memory, before)
            })
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let init = of(&[Kind::Init, Kind::Sidecar], &old.init_container_statuses);
    let mains = of(&[Kind::Main], &old.container_statuses);
    let ephemeral = of(&[Kind::Ephemeral], &old.ephemeral_container_statuses);
    let (phase, reason, message) = phase(pod, &entries, observed, memory, &old);
    let ips = match observed.sandbox() {
        _ if pod.host_network() => facts.host_ips.to_vec(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => memory.ips.clone(),
    };
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: old.start_time.clone().or_else(|| memory.start_time.map(Time)),
        qos_class: Some(resources::qos(pod).name().to_owned()),
        observed_generation: pod.metadata.generation,
        init_container_statuses: init,
        container_statuses: mains,
        ephemeral_container_statuses: ephemeral,
        ..Default::default()
    };
    status.conditions = Some(conditions(pod, &entries, observed, &status, &old, now));
    status
}

fn default_waiting(entries: &[Entry]) -> ContainerStateWaiting {
    let init = entries.iter().any(|entry| matches!(entry.kind, Kind::Init | Kind::Sidecar));
    let reason = if init { "PodInitializing" } else { "ContainerCreating" };
    ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }
}

fn container_status(
    pod: &Pod,
    entry: &Entry,
    observed: &Observed,
    memory: &Memory,
    before: Option<&ContainerStatus>,
) -> ContainerStatus {
    let name = &entry.container.name;
    let views = observed.containers.get(name).map(Vec::as_slice).unwrap_or_default();
    let newest = views.first();
    let mut out = ContainerStatus {
        name: name.clone(),
        image: entry.container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        ready: false,
        restart_count: 0,
        started: Some(false),
        ..Default::default()
    };
    let waiting = |memory: &Memory| match memory.waiting.get(name) {
        Some(waiting) => ContainerStateWaiting {
            reason: Some(waiting.reason.clone()),
            message: Some(waiting.message.clone()).filter(|message| !message.is_empty()),
        },
        None => default_waiting(&entries(pod)),
    };
    if entry
        .container
        .resources
        .as_ref()
        .is_some_and(|r| r.limits.is_some() || r.requests.is_some())
    {
        out.resources = entry.container.resources.clone();
        if entry.kind != Kind::Init {
            out.allocated_resources =
                entry.container.resources.as_ref().and_then(|resources| resources.requests.clone());
        }
    }
    out.volume_mounts = volume_mounts(entry);
    let Some(view) = newest else {
        // Gone from the runtime but known to the API: its end is all that is left of it.
        if let Some(before) = before
            && before.state.as_ref().is_some_and(|state| state.terminated.is_some())
        {
            return before.clone();
        }
        let state = ContainerState { waiting: Some(waiting(memory)), ..Default::default() };
        out.state = Some(state);
        if let Some(before) = before {
            out.restart_count = before.restart_count;
            out.last_state = before.last_state.clone();
        }
        return out;
    };
    out.restart_count = i32::try_from(view.attempt).unwrap_or(i32::MAX);
    out.container_id = Some(format!("containerd://{}", view.id));
    out.image_id = view.image_id.clone();
    if !view.image.is_empty() && !view.image.starts_with("sha256:") {
        out.image = view.image.clone();
    }
    out.last_state = views
        .iter()
        .skip(1)
        .find(|view| view.life == Life::Exited)
        .map(|view| terminated_state(view, memory, before))
        .or_else(|| before.and_then(|before| before.last_state.clone()));
    match view.life {
        Life::Running => {
            out.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: view.started_at.map(Time) }),
                ..Default::default()
            });
            let started = memory.started.contains(&view.id);
            out.started = Some(started);
            out.ready = match entry.kind {
                Kind::Main | Kind::Sidecar => started && memory.ready.contains(&view.id),
                Kind::Init | Kind::Ephemeral => false,
            };
        }
        Life::Exited => {
            let ended = terminated_state(view, memory, before);
            let again = memory.ending.is_none()
                && outcome(pod, observed) == Outcome::Going
                && restarts(pod, entry.kind, &entry.container, view.exit_code);
            if again && memory.waiting.contains_key(name) {
                out.state =
                    Some(ContainerState { waiting: Some(waiting(memory)), ..Default::default() });
                out.last_state = Some(ended);
            } else {
                out.ready = entry.kind == Kind::Init && view.exit_code == 0;
                out.state = Some(ended);
            }
        }
        Life::Created | Life::Unknown => {
            out.state =
                Some(ContainerState { waiting: Some(waiting(memory)), ..Default::default() });
        }
    }
    out
}

fn volume_mounts(entry: &Entry) -> Option<Vec<VolumeMountStatus>> {
    let mounts = entry.container.volume_mounts.as_ref()?;
    Some(
        mounts
            .iter()
            .map(|mount| VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: mount.read_only.filter(|read_only| *read_only),
                recursive_read_only: mount
                    .read_only
                    .filter(|read_only| *read_only)
                    .map(|_| "Disabled".to_owned()),
                ..Default::default()
            })
            .collect(),
    )
}

fn terminated_state(
    view: &ContainerView,
    memory: &Memory,
    before: Option<&ContainerStatus>,
) -> ContainerState {
    let id = format!("containerd://{}", view.id);
    let reason = match (&view.reason[..], view.exit_code) {
        _ if memory.out_of_memory.contains(&view.id) || was_out_of_memory(&id, before) => {
            OOM_KILLED.to_owned()
        }
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    };
    let message = memory
        .messages
        .get(&view.id)
        .cloned()
        .filter(|message| !message.is_empty())
        .or_else(|| Some(view.message.clone()).filter(|message| !message.is_empty()));
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id),
            exit_code: view.exit_code,
            finished_at: view.finished_at.map(Time),
            started_at: view.started_at.map(Time),
            message,
            reason: Some(reason),
            signal: None,
        }),
        ..Default::default()
    }
}

/// What was said of a container's end stays true when this process remembers nothing of it.
fn was_out_of_memory(id: &str, before: Option<&ContainerStatus>) -> bool {
    let states = before.into_iter().flat_map(|before| [&before.state, &before.last_state]);
    states.flatten().filter_map(|state| state.terminated.as_ref()).any(|end| {
        end.container_id.as_deref() == Some(id) && end.reason.as_deref() == Some(OOM_KILLED)
    })
}

fn phase(
    pod: &Pod,
    entries: &[Entry],
    observed: &Observed,
    memory: &Memory,
    old: &PodStatus,
) -> (&'static str, Option<String>, Option<String>) {
    if let Some(Ending::Failed { reason, message, .. }) = &memory.ending {
        return ("Failed", Some(reason.clone()), Some(message.clone()));
    }
    match old.phase.as_deref() {
        Some("Failed") => return ("Failed", old.reason.clone(), old.message.clone()),
        Some("Succeeded") => return ("Succeeded", old.reason.clone(), old.message.clone()),
        _ => {}
    }
    let alive = observed.all().any(ContainerView::is_alive);
    match outcome(pod, observed) {
        Outcome::Failed if !alive => return ("Failed", None, None),
        Outcome::Succeeded if !alive => return ("Succeeded", None, None),
        Outcome::Failed | Outcome::Succeeded => return ("Running", None, None),
        Outcome::Going => {}
    }
    if memory.ending.is_some() && !alive && memory.finished {
        // Deleted: what was stopped by force has failed, as far as anyone can tell.
        let mains: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Main).collect();
        let ended: Vec<i32> = mains
            .iter()
            .filter_map(|entry| observed.newest(&entry.container.name))
            .map(|view| view.exit_code)
            .collect();
        if !ended.is_empty() && ended.len() == mains.len() {
            let failed = ended.iter().any(|code| *code != 0);
            return (if failed { "Failed" } else { "Succeeded" }, None, None);
        }
    }
    let mut waiting = false;
    let mut begun = false;
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Main) {
        match observed.newest(&entry.container.name) {
            None => waiting = true,
            Some(view) if view.life == Life::Created => waiting = true,
            Some(_) => begun = true,
        }
    }
    (if begun && !waiting { "Running" } else { "Pending" }, None, None)
}

fn conditions(
    pod: &Pod,
    entries: &[Entry],
    observed: &Observed,
    status: &PodStatus,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    let mut add = |type_: &str, state: bool, reason: Option<&str>, message: Option<String>| {
        let before = old.conditions.iter().flatten().find(|condition| condition.type_ == type_);
        let state = if state { "True" } else { "False" };
        let same = before.filter(|condition| condition.status == state);
        out.push(PodCondition {
            type_: type_.to_owned(),
            status: state.to_owned(),
            last_transition_time: same
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(now))),
            last_probe_time: None,
            reason: reason.map(str::to_owned),
            message,
            observed_generation: pod.metadata.generation,
        });
        state == "True"
    };
    let networked = observed.sandbox().is_some();
    add("PodReadyToStartContainers", networked, None, None);
    let unfinished: Vec<&str> = entries
        .iter()
        .filter(|entry| match entry.kind {
            Kind::Init => !is_done(status, &entry.container.name),
            Kind::Sidecar => !has_started(status, &entry.container.name),
            _ => false,
        })
        .map(|entry| entry.container.name.as_str())
        .collect();
    let mains_begun = entries
        .iter()
        .any(|entry| entry.kind == Kind::Main && observed.current(&entry.container.name).is_some());
    if phase == "Succeeded" {
        add("Initialized", true, Some("PodCompleted"), None);
    } else if unfinished.is_empty() || mains_begun {
        add("Initialized", true, None, None);
    } else {
        let message = format!("containers with incomplete status: [{}]", unfinished.join(" "));
        add("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    }
    let statuses = status.init_container_statuses.iter().flatten();
    let unready: Vec<&str> = statuses
        .filter(|s| entries.iter().any(|e| e.kind == Kind::Sidecar && e.container.name == s.name))
        .chain(status.container_statuses.iter().flatten())
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let (reason, message) = match phase {
        "Succeeded" => (Some("PodCompleted"), None),
        "Failed" => (Some("PodFailed"), None),
        _ if unready.is_empty() => (None, None),
        _ => (
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ),
    };
    let containers_ready = reason.is_none();
    let (ready, ready_reason, ready_message) = match gates(pod, old) {
        Some(message) if containers_ready => (false, Some("ReadinessGatesNotReady"), Some(message)),
        _ => (containers_ready, reason, message.clone()),
    };
    add("Ready", ready, ready_reason, ready_message);
    add("ContainersReady", containers_ready, reason, message);
    add("PodScheduled", true, None, None);
    out
}

fn gates(pod: &Pod, old: &PodStatus) -> Option<String> {
    let mut texts = Vec::new();
    for gate in pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()) {
        let wanted = &gate.condition_type;
        match old.conditions.iter().flatten().find(|condition| condition.type_ == *wanted) {
            None => {
                texts.push(format!(
                    "corresponding condition of pod readiness gate \"{wanted}\" does not exist."
                ));
            }
            Some(condition) if condition.status != "True" => texts.push(format!(
                "the status of pod readiness gate \"{wanted}\" is not \"True\", but {}",
                condition.status
            )),
            Some(_) => {}
        }
    }
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn is_done(status: &PodStatus, name: &str) -> bool {
    status.init_container_statuses.iter().flatten().any(|s| s.name == name && s.ready)
}

fn has_started(status: &PodStatus, name: &str) -> bool {
    let of = status.init_container_statuses.iter().flatten().find(|s| s.name == name);
    of.is_some_and(|status| status.started == Some(true))
}

/// The fields of a status that the kubelet owns.
const OWNED: &[&str] = &[
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "observedGeneration",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// The strategic merge patch from what the API has to what it shall have; `None` when equal.
pub(crate) fn patch(uid: &str, have: &PodStatus, want: &PodStatus) -> Option<Value> {
    let have = serde_json::to_value(have).unwrap_or_default();
    let want = serde_json::to_value(want).unwrap_or_default();
    let mut out = Map::new();
    for key in OWNED {
        match (have.get(key), want.get(key)) {
            (a, b) if a == b => {}
            (before, Some(value)) => {
                out.insert((*key).to_owned(), without_old_addresses(key, before, value));
            }
            (_, None) => {
                out.insert((*key).to_owned(), Value::Null);
            }
        }
    }
    let before = by_type(&have);
    let changed: Vec<Value> = by_type(&want)
        .into_iter()
        .filter(|(type_, condition)| before.get(type_) != Some(condition))
        .map(|(_, condition)| {
            with_nulls(condition, before.get(condition["type"].as_str().unwrap_or_default()))
        })
        .collect();
    if !changed.is_empty() {
        out.insert("conditions".to_owned(), Value::Array(changed));
    }
    (!out.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": out}))
}

/// Lists of addresses are merged by address: what is no longer there must be said.
fn without_old_addresses(key: &str, before: Option<&Value>, want: &Value) -> Value {
    let mut out = want.clone();
    if let (true, Some(list), Some(before)) =
        (key.ends_with("IPs"), out.as_array_mut(), before.and_then(Value::as_array))
    {
        let kept: Vec<Value> = list.iter().map(|item| item["ip"].clone()).collect();
        let gone = before.iter().map(|item| &item["ip"]).filter(|ip| !kept.contains(ip));
        list.extend(gone.map(|ip| json!({"$patch": "delete", "ip": ip})));
    }
    out
}

fn by_type(status: &Value) -> BTreeMap<String, &Value> {
    let list = status.get("conditions").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|condition| Some((condition.get("type")?.as_str()?.to_owned(), condition)))
        .collect()
}

/// A merged condition must lose the reason and message that it no longer has.
fn with_nulls(condition: &Value, before: Option<&&Value>) -> Value {
    let mut out = condition.clone();
    if let (Some(map), Some(before)) = (out.as_object_mut(), before) {
        for key in ["reason", "message"] {
            if before.get(key).is_some() && !map.contains_key(key) {
                map.insert(key.to_owned(), Value::Null);
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
