//! Statuses as a table: what the API shows for a view of the runtime.

use super::super::state::{SandboxView, Waiting};
use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3}, "spec": spec
    }))
    .unwrap()
}

fn view(name: &str, life: Life, exit_code: i32) -> ContainerView {
    ContainerView {
        id: format!("{name}-id"),
        sandbox_id: "s".into(),
        name: name.into(),
        attempt: 0,
        life,
        created_at: Timestamp::UNIX_EPOCH,
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(Timestamp::UNIX_EPOCH),
        exit_code,
        reason: String::new(),
        message: String::new(),
        hash: String::new(),
        image: "docker.io/library/x:1".into(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
        mounts: Vec::new(),
    }
}

fn of(spec: Value, views: Vec<ContainerView>, memory: &Memory) -> Value {
    let sandbox = SandboxView {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: Timestamp::UNIX_EPOCH,
        ips: vec!["10.42.0.2".into()],
    };
    let mut observed = Observed { sandboxes: vec![sandbox], ..Default::default() };
    for view in views {
        observed.containers.insert(view.name.clone(), vec![view]);
    }
    let facts = NodeFacts { host_ips: &["192.0.2.1".to_owned()] };
    let status = status(&pod(spec), &observed, memory, &facts, Timestamp::UNIX_EPOCH);
    serde_json::to_value(status).unwrap()
}

fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    let list = status["conditions"].as_array().unwrap();
    list.iter().find(|condition| condition["type"] == type_).unwrap()
}

fn inits() -> Value {
    json!({"initContainers": [{"name": "init1"}, {"name": "init2"}], "containers": [{"name": "run1"}]})
}

#[test]
fn a_running_container_is_ready_only_when_its_probe_says_so() {
    let spec = json!({"containers": [{"name": "c"}]});
    let mut memory = Memory::default();
    memory.started.insert("c-id".into());
    let status = of(spec.clone(), vec![view("c", Life::Running, 0)], &memory);
    assert_eq!(status["phase"], "Running");
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [c]");
    memory.ready.insert("c-id".into());
    let status = of(spec, vec![view("c", Life::Running, 0)], &memory);
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(status["podIP"], "10.42.0.2");
    assert_eq!(status["observedGeneration"], 3);
}

#[test]
fn init_containers_hold_the_pod_in_pending() {
    let mut memory = Memory::default();
    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "m".into() };
    memory.waiting.insert("init1".into(), waiting);
    let status = of(inits(), vec![view("init1", Life::Exited, 1)], &memory);
    assert_eq!(status["phase"], "Pending");
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [init1 init2]");
    let first = &status["initContainerStatuses"][0];
    assert_eq!(first["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(first["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut spec = inits();
    spec["restartPolicy"] = "Never".into();
    let views = vec![view("init1", Life::Exited, 0), view("init2", Life::Exited, 1)];
    let status = of(spec, views, &Memory::default());
    assert_eq!(status["phase"], "Failed");
    let message = &condition(&status, "Initialized")["message"];
    assert_eq!(message, "containers with incomplete status: [init2]");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn a_finished_pod_has_succeeded() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let status = of(spec, vec![view("c", Life::Exited, 0)], &Memory::default());
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(condition(&status, "Initialized")["reason"], "PodCompleted");
    assert_eq!(condition(&status, "Ready")["reason"], "PodCompleted");
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["reason"], "Completed");
}

#[test]
fn the_patch_holds_only_what_changed() {
    let have: PodStatus = serde_json::from_value(json!({
        "phase": "Pending", "message": "old", "podIP": "1",
        "conditions": [{"type": "Ready", "status": "False", "reason": "r"},
            {"type": "Other", "status": "True"}]
    }))
    .unwrap();
    let mut want = have.clone();
    assert_eq!(patch("u", &have, &want), None);
    want.phase = Some("Running".into());
    want.message = None;
    want.conditions = serde_json::from_value(json!([{"type": "Ready", "status": "True"}])).unwrap();
    let expected = json!({"metadata": {"uid": "u"}, "status": {
        "phase": "Running", "message": null,
        "conditions": [{"type": "Ready", "status": "True", "reason": null}]
    }});
    assert_eq!(patch("u", &have, &want), Some(expected));
}

#[test]
fn an_address_that_is_gone_is_taken_away() {
    let status = |ip: &str| -> PodStatus {
        serde_json::from_value(json!({"podIP": ip, "podIPs": [{"ip": ip}]})).unwrap()
    };
    let expected = json!({"metadata": {"uid": "u"}, "status": {
        "podIP": "new", "podIPs": [{"ip": "new"}, {"$patch": "delete", "ip": "old"}]
    }});
    assert_eq!(patch("u", &status("old"), &status("new")), Some(expected));
}

#[test]
fn what_ran_out_of_memory_did_so_after_a_restart_of_the_kubelet_as_well() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let reason =
        |status: &Value| status["containerStatuses"][0]["state"]["terminated"]["reason"].clone();
    let mut memory = Memory::default();
    memory.out_of_memory.insert("c-id".into());
    let before = of(spec.clone(), vec![view("c", Life::Exited, 137)], &memory);
    assert_eq!(reason(&before), "OOMKilled");
    let mut known = pod(spec.clone());
    known.status = Some(serde_json::from_value(before).unwrap());
    let mut observed = Observed::default();
    for (id, expected) in [("c-id", "OOMKilled"), ("other", "Error")] {
        let view = ContainerView { id: id.into(), ..view("c", Life::Exited, 137) };
        observed.containers.insert("c".into(), vec![view]);
        let facts = NodeFacts { host_ips: &[] };
        let now = Timestamp::UNIX_EPOCH;
        let status = status(&known, &observed, &Memory::default(), &facts, now);
        assert_eq!(reason(&serde_json::to_value(status).unwrap()), expected, "{id}");
    }
}
