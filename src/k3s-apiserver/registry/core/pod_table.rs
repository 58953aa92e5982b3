//! `kubectl get pods`: the STATUS that sums up phase, conditions and containers.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name, or, since, wide};
use crate::registry::value::{at, flag, has, int, key, list, text};
use crate::registry::{AGE, Column, NAME, Object};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    column("Status"),
    column("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn row(pod: &Object, now: Timestamp) -> Vec<Value> {
    let sum = summary(pod);
    let restarts = match (sum.restarts, sum.last_restart) {
        (0, _) | (_, "") => sum.restarts.to_string(),
        (n, last) => format!("{n} ({} ago)", since(&json!(last), now)),
    };
    let ip = list(pod, "status.podIPs").first().map_or("", |ip| text(ip, "ip"));
    let ip = if ip.is_empty() { or(pod, "status.podIP", "<none>") } else { ip };
    vec![
        name(pod),
        json!(format!("{}/{}", sum.ready, sum.total)),
        json!(sum.reason),
        json!(restarts),
        age(pod, now),
        json!(ip),
        json!(or(pod, "spec.nodeName", "<none>")),
        json!(or(pod, "status.nominatedNodeName", "<none>")),
        json!(readiness_gates(pod)),
    ]
}

struct Summary<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: &'a str,
}

impl<'a> Summary<'a> {
    fn count(&mut self, status: &'a Value) {
        self.restarts += int(status, "restartCount").unwrap_or_default();
        let ended = text(status, "lastState.terminated.finishedAt");
        self.last_restart = self.last_restart.max(ended);
    }
}

fn summary(pod: &Object) -> Summary<'_> {
    let phase = text(pod, "status.phase");
    let inits = list(pod, "spec.initContainers");
    let sidecars = inits.iter().filter(|c| is_sidecar(c)).count();
    let mut sum = Summary {
        reason: or(pod, "status.reason", phase).to_owned(),
        ready: 0,
        total: list(pod, "spec.containers").len() + sidecars,
        restarts: 0,
        last_restart: "",
    };
    let gated = condition(pod, "PodScheduled")
        .is_some_and(|scheduled| text(scheduled, "reason") == "SchedulingGated");
    if gated {
        sum.reason = "SchedulingGated".to_owned();
    }
    let mut of_sidecars =
        Summary { reason: String::new(), ready: 0, total: 0, restarts: 0, last_restart: "" };
    let mut initializing = false;
    for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        sum.count(status);
        let sidecar = inits.iter().any(|c| key(c, "name") == key(status, "name") && is_sidecar(c));
        if sidecar {
            of_sidecars.count(status);
        }
        let ended = at(status, "state.terminated");
        if has(status, "state.terminated") && int(ended, "exitCode") == Some(0) {
            continue;
        }
        if sidecar && flag(status, "started") {
            sum.ready += usize::from(flag(status, "ready"));
            continue;
        }
        let waiting = text(status, "state.waiting.reason");
        sum.reason = if has(status, "state.terminated") {
            format!("Init:{}", ended_as(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", inits.len())
        };
        initializing = true;
        break;
    }
    let initialized = condition(pod, "Initialized").is_some_and(|c| text(c, "status") == "True");
    if !initializing || initialized {
        sum.restarts = of_sidecars.restarts;
        sum.last_restart = of_sidecars.last_restart;
        containers(pod, &mut sum);
    }
    let terminal = matches!(phase, "Failed" | "Succeeded");
    if has(pod, "metadata.deletionTimestamp") {
        if text(pod, "status.reason") == "NodeLost" {
            sum.reason = "Unknown".to_owned();
        } else if !terminal {
            sum.reason = "Terminating".to_owned();
        }
    }
    sum
}

fn containers<'a>(pod: &'a Object, sum: &mut Summary<'a>) {
    let mut running = false;
    for status in list(pod, "status.containerStatuses").iter().rev() {
        sum.count(status);
        let waiting = text(status, "state.waiting.reason");
        if !waiting.is_empty() {
            sum.reason = waiting.to_owned();
        } else if has(status, "state.terminated") {
            sum.reason = ended_as(at(status, "state.terminated"));
        } else if flag(status, "ready") && has(status, "state.running") {
            running = true;
            sum.ready += 1;
        }
    }
    if sum.reason == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|c| text(c, "status") == "True");
        sum.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended_as(terminated: &Value) -> String {
    let reason = text(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match int(terminated, "signal").unwrap_or_default() {
        0 => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or_default()),
        signal => format!("Signal:{signal}"),
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn condition<'a>(pod: &'a Object, kind: &str) -> Option<&'a Value> {
    crate::registry::table::condition(pod, kind)
}

fn readiness_gates(pod: &Object) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| {
            condition(pod, text(gate, "conditionType")).is_some_and(|c| text(c, "status") == "True")
        })
        .count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(pod: Value) -> String {
        let sum = summary(&pod);
        format!("{}/{} {} {}", sum.ready, sum.total, sum.reason, sum.restarts)
    }

    #[test]
    fn the_status_sums_up_containers() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let running = json!({"ready": true, "restartCount": 2, "state": {"running": {}}});
        let crashed =
            json!({"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(
            status_of(json!({"spec": spec, "status": {"phase": "Running",
                "containerStatuses": [running, crashed]}})),
            "1/2 CrashLoopBackOff 3"
        );
        assert_eq!(
            status_of(json!({"spec": spec, "status": {"phase": "Pending"}})),
            "0/2 Pending 0"
        );
        assert_eq!(
            status_of(json!({"metadata": {"deletionTimestamp": "x"}, "spec": spec,
                "status": {"phase": "Running", "containerStatuses": [running, running]}})),
            "2/2 Terminating 4"
        );
    }

    #[test]
    fn init_containers_come_first() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let waits = json!({"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}});
        assert_eq!(
            status_of(json!({"spec": spec, "status": {"phase": "Pending",
                "initContainerStatuses": [done, waits]}})),
            "0/1 Init:1/2 0"
        );
    }
}
