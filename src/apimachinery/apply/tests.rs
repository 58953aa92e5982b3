//! Whole requests, as clients send them, against the built-in schema.

use serde_json::json;

use super::*;

fn manager_of<'a>(
    group: &str,
    version: &str,
    kind: &'a str,
    api_version: &'a str,
) -> FieldManager<'a> {
    FieldManager {
        node: api::schema::kind(group, version, kind).expect("kind"),
        api_version,
        kind,
        subresource: "",
        reset: Reset::Nothing,
        versions: &OneVersion,
    }
}

fn config_maps() -> FieldManager<'static> {
    manager_of("", "v1", "ConfigMap", "v1")
}

fn deployments() -> FieldManager<'static> {
    manager_of("apps", "v1", "Deployment", "apps/v1")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// What storage adds to an object.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = json!("u1");
    object["metadata"]["creationTimestamp"] = json!("2023-11-14T22:13:20Z");
    object
}

/// `name operation fields` of every entry.
fn owners(object: &Value) -> Vec<String> {
    let entries = managed_fields(object).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |entry: &Value| {
        let part = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", part("manager"), part("operation"), entry["fieldsV1"])
    };
    entries.iter().map(text).collect()
}

fn apply(live: Option<&Value>, config: &Value, manager: &str) -> Result<Value, ApplyError> {
    config_maps().apply(live, config, manager, false, at(0))
}

#[test]
fn an_apply_owns_what_it_names_and_removes_what_it_stops_naming() {
    let first = apply(None, &map(json!({"a": "1", "b": "2"})), "m1").expect("applies");
    assert_eq!(owners(&first), [r#"m1 Apply {"f:data":{"f:a":{},"f:b":{}}}"#]);
    let second = apply(Some(&stored(first)), &map(json!({"b": "2"})), "m1").expect("applies");
    assert_eq!(second["data"], json!({"b": "2"}));
    let gone = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let third = apply(Some(&stored(second)), &gone, "m1").expect("applies");
    assert_eq!(third.get("data"), None);
    assert_eq!(managed_fields(&third), None);
}

#[test]
fn another_value_is_a_conflict_until_forced() {
    let live = stored(apply(None, &map(json!({"a": "1", "b": "2"})), "m1").expect("applies"));
    let Err(ApplyError::Conflicts(conflicts)) = apply(Some(&live), &map(json!({"a": "x"})), "m2")
    else {
        panic!("no conflict");
    };
    assert_eq!(conflicts.message(), r#"Apply failed with 1 conflict: conflict with "m1": .data.a"#);
    let forced = config_maps()
        .apply(Some(&live), &map(json!({"a": "x"})), "m2", true, at(0))
        .expect("forced");
    assert_eq!(
        owners(&forced),
        [r#"m1 Apply {"f:data":{"f:b":{}}}"#, r#"m2 Apply {"f:data":{"f:a":{}}}"#]
    );
}

#[test]
fn the_same_value_is_shared_without_a_time_and_stays_when_one_owner_leaves() {
    let live = stored(apply(None, &map(json!({"a": "1", "b": "2"})), "m1").expect("applies"));
    let shared = stored(apply(Some(&live), &map(json!({"a": "1", "b": "2"})), "m2").expect("ok"));
    assert_eq!(managed_fields(&shared).unwrap()[0].get("time"), None);
    let left = stored(apply(Some(&shared), &map(json!({})), "m1").expect("applies"));
    assert_eq!(left["data"], json!({"a": "1", "b": "2"}));
    let alone = apply(Some(&left), &map(json!({})), "m2").expect("applies");
    assert_eq!(alone["data"], json!({}));
    assert_eq!(owners(&alone), [r#"m1 Apply {"f:data":{}}"#, r#"m2 Apply {"f:data":{}}"#]);
}

#[test]
fn an_update_takes_what_it_changes_and_nothing_else() {
    let manager = config_maps();
    let mut created = map(json!({"a": "1", "b": "2"}));
    manager.update(None, &mut created, "creator", at(0));
    assert_eq!(owners(&created), [r#"creator Update {"f:data":{".":{},"f:a":{},"f:b":{}}}"#]);
    let live = stored(created);
    let mut patched = live.clone();
    patched["data"]["n"] = json!("1");
    manager.update(Some(&live), &mut patched, "patcher", at(1));
    let live = patched;
    let mut put = map(json!({"a": "q"}));
    manager.update(Some(&live), &mut put, "putter", at(2));
    assert_eq!(
        owners(&put),
        [r#"creator Update {"f:data":{}}"#, r#"putter Update {"f:data":{"f:a":{}}}"#]
    );
}

#[test]
fn an_update_that_changes_nothing_leaves_the_managers_alone() {
    let live = stored(apply(None, &map(json!({"a": "1"})), "m1").expect("applies"));
    let mut put = map(json!({"a": "1"}));
    config_maps().update(Some(&live), &mut put, "other", at(9));
    assert_eq!(managed_fields(&put), managed_fields(&live));
}

#[test]
fn a_single_empty_entry_forgets_all_managers() {
    let live = stored(apply(None, &map(json!({"a": "1"})), "m1").expect("applies"));
    let mut put = live.clone();
    put["metadata"]["managedFields"] = json!([{}]);
    config_maps().update(Some(&live), &mut put, "other", at(9));
    assert_eq!(managed_fields(&put), None);
    let mut kept = live.clone();
    kept["metadata"]["managedFields"] = json!([]);
    config_maps().update(Some(&live), &mut kept, "other", at(9));
    assert_eq!(managed_fields(&kept), managed_fields(&live));
    let Err(conflict) = apply(Some(&put), &map(json!({"a": "2"})), "m") else { panic!() };
    assert_eq!(
        conflict.to_string(),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a"#
    );
}

#[test]
fn old_updates_are_folded_together() {
    let mut object = map(json!({"k0": "0"}));
    let manager = config_maps();
    manager.update(None, &mut object, "m0", at(0));
    let mut object = stored(object);
    for turn in 1..14 {
        let mut next = object.clone();
        next["data"][format!("k{turn}")] = json!("x");
        manager.update(Some(&object), &mut next, &format!("m{turn}"), at(turn));
        object = next;
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert!(owners[0].starts_with("ancient-changes Update"), "{owners:?}");
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn web(containers: Value) -> Value {
    deployment(json!({
        "selector": {"matchLabels": {"tier": "web"}},
        "template": {"metadata": {"labels": {"tier": "web"}}, "spec": {"containers": containers}},
    }))
}

#[test]
fn items_of_a_list_have_owners_of_their_own() {
    let manager = deployments();
    let run = |live: Option<&Value>, config: &Value, who: &str| {
        manager.apply(live, config, who, false, at(0)).map(stored)
    };
    let first = run(None, &web(json!([{"name": "main", "image": "a:1"}])), "m1").expect("ok");
    let side = deployment(
        json!({"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}}}),
    );
    let both = run(Some(&first), &side, "m2").expect("ok");
    assert_eq!(both["spec"]["template"]["spec"]["containers"][1]["name"], "side");
    let changed =
        run(Some(&both), &web(json!([{"name": "main", "image": "n:2"}])), "m1").expect("ok");
    assert_eq!(
        changed["spec"]["template"]["spec"]["containers"],
        json!([{"name": "main", "image": "n:2"}, {"name": "side", "image": "s:1"}])
    );
    let gone = run(Some(&changed), &deployment(json!({})), "m2").expect("ok");
    assert_eq!(
        gone["spec"]["template"]["spec"]["containers"],
        json!([{"name": "main", "image": "n:2"}])
    );
    assert_eq!(owners(&gone)[1], r#"m2 Apply {"f:spec":{}}"#);
}

#[test]
fn conflicts_are_listed_members_first() {
    let manager = deployments();
    let env = |value: &str| json!([{"name": "A", "value": value}]);
    let first = web(json!([{"name": "main", "image": "a:1", "env": env("1")}]));
    let live = stored(manager.apply(None, &first, "m1", false, at(0)).expect("ok"));
    let other = deployment(json!({"template": {"spec": {"containers":
        [{"name": "main", "image": "z", "env": env("3")}]}}}));
    let Err(refused) = manager.apply(Some(&live), &other, "m2", false, at(0)) else { panic!() };
    assert_eq!(
        refused.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .spec.template.spec.containers[name=\"main\"].image\n- .spec.template.spec.containers[name=\"main\"].env[name=\"A\"].value"
    );
}

#[test]
fn an_object_that_does_not_fit_is_refused_in_upstreams_words() {
    let check = |manager: FieldManager<'_>, config: &Value, expected: &str| {
        let Err(refused) = manager.apply(None, config, "m", false, at(0)) else { panic!() };
        assert_eq!(refused.to_string(), expected);
    };
    check(
        config_maps(),
        &map(json!({"a": 5})),
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:5}",
    );
    let mut bogus = map(json!({}));
    bogus["bogus"] = json!(1);
    check(
        config_maps(),
        &bogus,
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .bogus: field not declared in schema",
    );
    check(
        deployments(),
        &web(
            json!([{"name": "main", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]}]),
        ),
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"main\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]",
    );
    check(config_maps(), &json!({"metadata": {}}), "invalid object type: /, Kind=");
}

#[test]
fn a_created_deployment_is_owned_as_upstream_shows_it() {
    let mut created = web(
        json!([{"name": "main", "image": "a:1", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]),
    );
    created["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    created["spec"]["replicas"] = json!(1);
    deployments().update(None, &mut created, "kubectl-create", at(0));
    let fields = &managed_fields(&created).expect("managers")[0]["fieldsV1"];
    assert_eq!(
        *fields,
        json!({"f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {
                "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                "f:type": {},
            },
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:tier": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {
                        ".": {},
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                    },
                }}},
            },
        }})
    );
}

#[test]
fn reset_fields_belong_to_nobody() {
    let status = Set::of_fields(&[&["status"]]);
    let mut manager = deployments();
    manager.reset = Reset::Fields(&status);
    let mut config = web(json!([{"name": "main", "image": "a"}]));
    config["status"] = json!({"replicas": 3});
    let live = stored(manager.apply(None, &config, "m", false, at(0)).expect("ok"));
    assert!(!owners(&live)[0].contains("status"));
    manager.reset = Reset::AllBut(&status);
    manager.subresource = "status";
    let mut next = live.clone();
    next["spec"]["replicas"] = json!(7);
    next["status"] = json!({"observedGeneration": 1});
    manager.update(Some(&live), &mut next, "ctl", at(1));
    assert_eq!(owners(&next)[1], r#"ctl Update {"f:status":{"f:observedGeneration":{}}}"#);
}

#[test]
fn kubectl_takes_over_what_client_side_apply_wrote() {
    let mut object = map(json!({"a": "1"}));
    let last = object.to_string();
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    config_maps().update(None, &mut object, "kubectl-client-side-apply", at(0));
    let live = stored(object);
    assert!(apply(Some(&live), &map(json!({"a": "2"})), "other").is_err());
    let taken = apply(Some(&live), &map(json!({"a": "2"})), "kubectl").expect("takes over");
    assert_eq!(taken["data"]["a"], "2");
    let annotation =
        &taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().is_some_and(|text| text.contains(r#""a":"2""#)));
}

#[test]
fn times_stay_when_nothing_else_changed() {
    let entry = |time: &str| json!([{"manager": "m", "time": time}]);
    let object = |time: &str, data: &str| json!({"metadata": {"name": "c", "managedFields": entry(time)}, "data": {"a": data}});
    let old = object("2023-11-14T22:13:20Z", "1");
    let mut same = object("2024-11-14T22:13:20Z", "1");
    keep_timestamps(&old, &mut same);
    assert_eq!(same, old);
    let mut changed = object("2024-11-14T22:13:20Z", "2");
    keep_timestamps(&old, &mut changed);
    assert_eq!(managed_fields(&changed).unwrap()[0]["time"], "2024-11-14T22:13:20Z");
}

#[test]
fn the_replica_count_changes_hands_through_scale() {
    let mut live = deployment(json!({"replicas": 2}));
    let config = live.clone();
    live = stored(deployments().apply(None, &config, "m1", false, at(0)).expect("ok"));
    let path = ["spec", "replicas"];
    let mut scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"uid": "u"}, "spec": {"replicas": 2}});
    set_managed_fields(&mut scale, to_scale(&live, &path));
    let mut scaled = scale.clone();
    scaled["spec"]["replicas"] = json!(5);
    let manager = FieldManager {
        subresource: "scale",
        ..manager_of("autoscaling", "v1", "Scale", "autoscaling/v1")
    };
    manager.update(Some(&scale), &mut scaled, "scaler", at(1));
    let fields = from_scale(&live, &scaled, &path, "apps/v1");
    set_managed_fields(&mut live, fields);
    assert_eq!(owners(&live), [r#"scaler Update {"f:spec":{"f:replicas":{}}}"#]);
    assert_eq!(managed_fields(&live).unwrap()[0]["apiVersion"], "apps/v1");
    assert_eq!(managed_fields(&live).unwrap()[0].get("time"), None);
}

#[test]
fn the_manager_of_a_request_is_its_parameter_or_its_user_agent() {
    assert_eq!(manager_or_user_agent("", "my-tool/v1.2 (linux) x/y"), "my-tool");
    assert_eq!(manager_or_user_agent("m", "my-tool/v1.2"), "m");
    assert_eq!(manager_or_user_agent("", &"x".repeat(200)).len(), 128);
}
