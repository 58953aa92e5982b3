//! What single objects come to, without a kernel.

#![allow(clippy::unwrap_used)]

use k3s_proxy::objects::{EndpointSlice, Pod, Service};
use k3s_proxy::plan::{self, Place, Plan};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// `set key : value` for each element of IPv4, hairpin entries left out.
fn show(plan: &Plan) -> Vec<String> {
    let wanted = plan.elements.iter().filter(|(slot, _)| slot.set != plan::HAIRPIN);
    let line = wanted.map(|(slot, found)| {
        let mut line = String::new();
        write!(line, "{} ", slot.set).unwrap();
        slot.key.write(&mut line);
        found.write(&mut line);
        line
    });
    line.collect()
}

fn service(spec: Value) -> Service {
    let mut all = json!({"clusterIP": "10.43.0.10", "ports": [{"port": 80}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": all})).unwrap()
}

fn here() -> Place {
    Place { node: "n1".into(), zone: "z1".into() }
}

fn slices(endpoints: Value) -> Vec<Arc<EndpointSlice>> {
    let ports = json!([{"port": 8080}]);
    let slice = json!({"metadata": {"name": "s"}, "endpoints": endpoints, "ports": ports});
    vec![Arc::new(serde_json::from_value(slice).unwrap())]
}

fn check(spec: Value, endpoints: Value, want: &[&str]) {
    let plan = plan::service(&service(spec.clone()), &slices(endpoints.clone()), &here());
    assert_eq!(show(&plan), want, "{spec} {endpoints}");
}

fn endpoint(ip: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [ip], "nodeName": node,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

const REFUSED: &str = "no-endpoints 10.43.0.10 . tcp . 80 : goto refuse";
const IGNORED: &str = "no-endpoints 10.43.0.10 . tcp . 80 : goto ignore";
const ONE: &str = "services 10.43.0.10 . tcp . 80 : goto a-own1";

#[test]
fn endpoints_are_chosen_as_upstream_does() {
    let ready = endpoint("10.42.0.1", "n1", true, true, false);
    let away = endpoint("10.42.1.1", "n2", true, true, false);
    let leaving = endpoint("10.42.0.2", "n1", false, true, true);
    let dead = endpoint("10.42.0.3", "n1", false, false, true);
    let unready = endpoint("10.42.0.4", "n1", false, false, false);
    let to = |ip: &str| format!("a-endpoint0 10.43.0.10 . tcp . 80 : {ip} . 8080");
    check(json!({}), json!([]), &[REFUSED]);
    check(json!({}), json!([unready, dead]), &[REFUSED]);
    check(json!({}), json!([ready, leaving, unready]), &[&to("10.42.0.1"), ONE]);
    // Nobody is ready: those that leave still serve.
    check(json!({}), json!([leaving, dead]), &[&to("10.42.0.2"), ONE]);
    // No conditions at all count as ready.
    check(json!({}), json!([{"addresses": ["10.42.0.9"]}]), &[&to("10.42.0.9"), ONE]);
    let local = json!({"internalTrafficPolicy": "Local"});
    check(local.clone(), json!([away]), &[IGNORED]);
    check(local.clone(), json!([away, ready]), &[&to("10.42.0.1"), ONE]);
    check(local, json!([away, leaving]), &[&to("10.42.0.2"), ONE]);
}

#[test]
fn hints_count_when_all_endpoints_have_them() {
    let hinted =
        |ip: &str, hints: Value| json!({"addresses": [ip], "nodeName": "n2", "hints": hints});
    let zones = |zone: &str| json!({"forZones": [{"name": zone}]});
    let to = |ip: &str| format!("a-endpoint0 10.43.0.10 . tcp . 80 : {ip} . 8080");
    let near = hinted("10.42.0.1", zones("z1"));
    let far = hinted("10.42.1.1", zones("z2"));
    let two = &[
        "a-endpoint0 10.43.0.10 . tcp . 80 : 10.42.0.1 . 8080",
        "a-endpoint1 10.43.0.10 . tcp . 80 : 10.42.1.1 . 8080",
        "services 10.43.0.10 . tcp . 80 : goto a-own2",
    ];
    check(json!({}), json!([near, far]), &[&to("10.42.0.1"), ONE]);
    // Some have none, or none is for this zone.
    check(json!({}), json!([near, {"addresses": ["10.42.1.1"]}]), two);
    check(json!({}), json!([hinted("10.42.0.1", zones("z3")), far]), two);
    // A node's hint goes before a zone's.
    let both = |node: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": "z1"}]});
    let nodes = json!([hinted("10.42.0.1", both("n2")), hinted("10.42.1.1", both("n1"))]);
    check(json!({}), nodes, &[&to("10.42.1.1"), ONE]);
    let nodes = json!([hinted("10.42.0.1", both("n2")), hinted("10.42.1.1", both("n3"))]);
    check(json!({}), nodes, two);
    // An endpoint that is not ready has no say.
    let leaving = json!({"addresses": ["10.42.2.1"],
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    check(json!({}), json!([near, far, leaving]), &[&to("10.42.0.1"), ONE]);
    // The local policy knows no hints.
    let here = json!({"addresses": ["10.42.0.7"], "nodeName": "n1", "hints": zones("z2")});
    check(json!({"internalTrafficPolicy": "Local"}), json!([near, here]), &[&to("10.42.0.7"), ONE]);
}

#[test]
fn load_balancers_are_guarded_where_they_say_so() {
    let guards = |spec: Value, ingress: Value| -> Vec<String> {
        let mut service = service(spec);
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
        let plan = plan::service(&service, &[], &here());
        let guarded = plan.elements.iter().filter(|(slot, _)| slot.set == plan::GUARDED);
        assert_eq!(guarded.clone().count(), plan.sources.len());
        guarded.map(|(slot, _)| format!("{:?}", slot.key)).collect()
    };
    let ip = || json!([{"ip": "192.0.2.7"}]);
    let ranges =
        |ranges: &[&str]| json!({"loadBalancerSourceRanges": ranges, "externalIPs": ["192.0.2.8"]});
    assert_eq!(guards(ranges(&["10.0.0.0/8", "fd00::/8"]), ip()), ["Address(192.0.2.7, Tcp, 80)"]);
    assert!(guards(ranges(&["fd00::/8"]), ip()).is_empty());
    assert!(guards(ranges(&["10.0.0.0/8", "0.0.0.0/0"]), ip()).is_empty());
    assert!(guards(ranges(&["nonsense"]), ip()).is_empty());
    assert!(
        guards(ranges(&["10.0.0.0/8"]), json!([{"ip": "192.0.2.7", "ipMode": "Proxy"}])).is_empty()
    );
}

#[test]
fn services_of_others_are_left_alone() {
    let ready = json!([endpoint("10.42.0.1", "n1", true, true, false)]);
    check(json!({"clusterIP": "None"}), ready.clone(), &[]);
    check(json!({"clusterIP": ""}), ready.clone(), &[]);
    check(json!({"type": "ExternalName", "externalName": "x"}), ready.clone(), &[]);
    let mut labelled = service(json!({}));
    labelled.metadata.labels.insert(k3s_proxy::objects::PROXY_NAME.into(), "k3s-dns".into());
    assert_eq!(plan::service(&labelled, &slices(ready), &here()), Plan::default());
}

#[test]
fn health_checks_count_the_endpoints_of_this_node() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    let endpoints = json!([
        endpoint("10.42.0.1", "n1", true, true, false),
        endpoint("10.42.0.2", "n1", false, true, true),
        endpoint("10.42.1.1", "n2", true, true, false)
    ]);
    let plan = plan::service(&service(spec), &slices(endpoints), &here());
    assert_eq!(plan.health_check, Some((32000, 1)));
}

#[test]
fn host_ports_live_as_long_as_their_pods_run() {
    let pod = |phase: &str, host_network: bool| -> Pod {
        let ports = json!([
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"containerPort": 9}]);
        serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"hostNetwork": host_network, "containers": [{"ports": ports}]},
            "status": {"phase": phase, "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}}))
        .unwrap()
    };
    let running = show(&plan::pod(&pod("Running", false)));
    assert_eq!(
        running,
        [
            "hostports tcp . 8080 : 10.42.0.5 . 80",
            "hostports-by-address 192.0.2.1 . udp . 53 : 10.42.0.5 . 53",
        ]
    );
    assert!(show(&plan::pod(&pod("Succeeded", false))).is_empty());
    assert!(show(&plan::pod(&pod("Running", true))).is_empty());
}
