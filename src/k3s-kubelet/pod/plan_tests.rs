//! The plan as a table: pod, runtime view, memory, and the steps that follow.

use serde_json::json;

use super::super::state::{Backoff, SandboxView};
use super::*;

const SANDBOX: &str = "s";

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec
    }))
    .unwrap()
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).unwrap()
}

fn view(name: &str, attempt: u32, life: Life, exit_code: i32) -> ContainerView {
    ContainerView {
        id: format!("{name}-{attempt}"),
        sandbox_id: SANDBOX.into(),
        name: name.into(),
        attempt,
        life,
        created_at: at(0),
        started_at: Some(at(0)),
        finished_at: (life == Life::Exited).then(|| at(0)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        hash: String::new(),
        image: String::new(),
        image_id: String::new(),
        log_path: String::new(),
        mounts: Vec::new(),
    }
}

fn observed(containers: Vec<ContainerView>) -> Observed {
    let sandbox = SandboxView {
        id: SANDBOX.into(),
        attempt: 0,
        ready: true,
        created_at: at(0),
        ips: Vec::new(),
    };
    let mut observed = Observed { sandboxes: vec![sandbox], ..Default::default() };
    for container in containers {
        observed.containers.entry(container.name.clone()).or_default().push(container);
    }
    observed
}

fn ready() -> Memory {
    Memory { volumes_ready: true, ..Default::default() }
}

fn check(spec: serde_json::Value, observed: Observed, memory: Memory, expected: &[&str]) {
    let plan = plan(&pod(spec), &observed, &memory, at(5));
    let steps: Vec<String> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::SetUpVolumes => "volumes".to_owned(),
            Step::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Step::Start { name, attempt, .. } => format!("start {name} {attempt}"),
            Step::Kill { id, grace_secs, .. } => format!("kill {id} {grace_secs}"),
            Step::Resize { id, .. } => format!("resize {id}"),
            Step::RemoveContainer { id } => format!("remove {id}"),
            Step::StopSandbox { .. } => "stop sandbox".to_owned(),
            Step::RemoveSandbox { id } => format!("remove sandbox {id}"),
            Step::Finish => "finish".to_owned(),
        })
        .chain(plan.waiting.iter().map(|(name, w)| format!("{name} waits: {}", w.reason)))
        .collect();
    assert_eq!(steps, expected);
}

fn two() -> serde_json::Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}]})
}

fn with_init() -> serde_json::Value {
    json!({
        "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]
    })
}

#[test]
fn volumes_come_first_then_the_sandbox_then_all_containers_at_once() {
    check(two(), Observed::default(), Memory::default(), &["volumes"]);
    check(two(), Observed::default(), ready(), &["sandbox 0"]);
    check(two(), observed(vec![]), ready(), &["start a 0", "start b 0"]);
    check(two(), observed(vec![view("a", 0, Life::Running, 0)]), ready(), &["start b 0"]);
}

#[test]
fn stale_volumes_are_set_up_again_once_the_setup_under_way_is_done() {
    let check = |busy: bool, expected: &[&str]| {
        let mut memory = Memory { volumes_stale: true, ..ready() };
        if busy {
            memory.busy.insert(Target::Volumes, 0);
        }
        check(two(), observed(vec![view("a", 0, Life::Running, 0)]), memory, expected);
    };
    check(false, &["volumes", "start b 0"]);
    check(true, &["start b 0"]);
}

#[test]
fn init_containers_run_in_order_and_sidecars_must_have_started() {
    check(with_init(), observed(vec![]), ready(), &["start i 0"]);
    let done = || view("i", 0, Life::Exited, 0);
    check(with_init(), observed(vec![done()]), ready(), &["start side 0"]);
    let up = || observed(vec![done(), view("side", 0, Life::Running, 0)]);
    check(with_init(), up(), ready(), &[]);
    let mut memory = ready();
    memory.started.insert("side-0".into());
    check(with_init(), up(), memory, &["start a 0"]);
}

#[test]
fn a_failed_init_container_is_retried_or_ends_the_pod() {
    let failed = || observed(vec![view("i", 0, Life::Exited, 1)]);
    check(with_init(), failed(), ready(), &["start i 1"]);
    let mut never = with_init();
    never["restartPolicy"] = "Never".into();
    check(never, failed(), ready(), &["stop sandbox"]);
}

#[test]
fn restarts_follow_the_policy_and_the_back_off() {
    let failed = || observed(vec![view("a", 0, Life::Exited, 1), view("b", 0, Life::Running, 0)]);
    check(two(), failed(), ready(), &["start a 1"]);
    let mut memory = ready();
    let backoff = Backoff { delay: Duration::from_secs(10), since: at(0) };
    memory.backoff.insert("a".into(), backoff);
    check(two(), failed(), memory, &["a waits: CrashLoopBackOff"]);
    let mut never = two();
    never["restartPolicy"] = "Never".into();
    check(never.clone(), failed(), ready(), &[]);
    let all = observed(vec![view("a", 0, Life::Exited, 0), view("b", 0, Life::Exited, 0)]);
    check(never, all, ready(), &["stop sandbox"]);
}

#[test]
fn a_lost_sandbox_is_replaced_after_its_containers_are_gone() {
    let mut lost = observed(vec![view("a", 0, Life::Running, 0)]);
    lost.sandboxes[0].ready = false;
    check(two(), lost, ready(), &["kill a-0 30"]);
    let mut lost = observed(vec![view("a", 0, Life::Exited, 137)]);
    lost.sandboxes[0].ready = false;
    check(two(), lost, ready(), &["sandbox 1"]);
}

#[test]
fn deletion_stops_mains_then_sidecars_then_the_sandbox() {
    let ending = Memory { ending: Some(Ending::Deleted { grace_secs: 7 }), ..ready() };
    let both = observed(vec![view("a", 0, Life::Running, 0), view("side", 0, Life::Running, 0)]);
    check(with_init(), both, ending.clone(), &["kill a-0 7"]);
    let side = observed(vec![view("a", 0, Life::Exited, 0), view("side", 0, Life::Running, 0)]);
    check(with_init(), side, ending.clone(), &["kill side-0 7"]);
    check(with_init(), observed(vec![]), ending.clone(), &["stop sandbox"]);
    let mut gone = observed(vec![]);
    gone.sandboxes[0].ready = false;
    check(with_init(), gone, ending, &["finish"]);
}

#[test]
fn a_shorter_grace_overtakes_a_kill_under_way() {
    let mut memory = Memory { ending: Some(Ending::Deleted { grace_secs: 1 }), ..ready() };
    memory.busy.insert(Target::Kill("a-0".into()), 30);
    let running = || observed(vec![view("a", 0, Life::Running, 0)]);
    check(two(), running(), memory.clone(), &["kill a-0 1"]);
    memory.busy.insert(Target::Kill("a-0".into()), 1);
    check(two(), running(), memory, &[]);
}

#[test]
fn an_unhealthy_container_is_killed_and_a_changed_image_too() {
    let running = || observed(vec![view("a", 0, Life::Running, 0), view("b", 0, Life::Running, 0)]);
    let mut memory = ready();
    memory.unhealthy.insert("a-0".into(), "failed".into());
    check(two(), running(), memory, &["kill a-0 30"]);
    let mut changed = running();
    changed.containers.get_mut("b").unwrap()[0].hash = "other".into();
    check(two(), changed, ready(), &["kill b-0 30"]);
}

#[test]
fn changed_resources_are_given_to_the_running_container() {
    let running = || observed(vec![view("a", 0, Life::Running, 0), view("b", 0, Life::Running, 0)]);
    let mut memory = ready();
    memory.applied.insert("a-0".into(), None);
    check(two(), running(), memory.clone(), &[]);
    let mut bigger = two();
    bigger["containers"][0]["resources"] = json!({"limits": {"memory": "1Mi"}});
    check(bigger.clone(), running(), memory.clone(), &["resize a-0"]);
    memory.busy.insert(Target::Resize("a-0".into()), 0);
    check(bigger, running(), memory, &[]);
}

#[test]
fn old_attempts_are_removed() {
    let many = observed(vec![
        view("a", 2, Life::Running, 0),
        view("a", 1, Life::Exited, 1),
        view("a", 0, Life::Exited, 1),
        view("b", 0, Life::Running, 0),
    ]);
    check(two(), many, ready(), &["remove a-0"]);
}

#[test]
fn durations_read_as_go_prints_them() {
    assert_eq!(go_duration(Duration::from_secs(10)), "10s");
    assert_eq!(go_duration(Duration::from_secs(160)), "2m40s");
    assert_eq!(go_duration(Duration::from_secs(300)), "5m0s");
}
