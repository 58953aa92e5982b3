//! Priority and fairness: which requests wait while others are served.
//!
//! `schema` finds the flow of a request, `level` holds its seats and queues, `share` divides the
//! server's seats among the levels, `controller` follows the configuration. Invariant: a level that
//! has free seats and nobody waiting costs a request two atomic operations and no lock.

pub mod controller;
mod level;
mod schema;
mod share;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderName, Response, StatusCode};
use tokio::sync::Notify;

use self::level::{Level, Refused, Seat};
use self::schema::Schema;
use crate::body::{Body, text};
use crate::request::RequestInfo;
use crate::user::UserInfo;

/// Upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const SEATS: u32 = 600;
/// How long a request may wait for a seat: a quarter of upstream's request timeout.
const PATIENCE: Duration = Duration::from_secs(15);

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// What is counted of one FlowSchema.
#[derive(Debug, Default)]
struct Counts {
    dispatched: AtomicU64,
    /// By `level::Refused`.
    refused: [AtomicU64; 3],
    waited_micros: AtomicU64,
}

/// One FlowSchema with its level.
struct Flow {
    schema: Schema,
    level: Arc<Level>,
    level_uid: HeaderValue,
    counts: Arc<Counts>,
}

/// The configuration in force, replaced as a whole.
#[derive(Default)]
struct Config {
    /// By precedence.
    flows: Vec<Flow>,
}

/// Seats for everybody, fairly.
#[derive(Default)]
pub struct FlowControl {
    config: ArcSwap<Config>,
    /// Rung when a request found no free seat.
    pressed: Arc<Notify>,
}

/// A request that may be served; its seat is free again when this is dropped.
#[derive(Default)]
pub struct Admitted {
    schema: Option<HeaderValue>,
    level: Option<HeaderValue>,
    _seat: Option<Seat>,
}

impl Admitted {
    fn of(flow: &Flow, seat: Option<Seat>) -> Self {
        let schema = Some(flow.schema.uid.clone());
        Self { schema, level: Some(flow.level_uid.clone()), _seat: seat }
    }

    /// Says in the answer which flow the request was in.
    pub fn mark(&self, response: &mut Response<Body>) {
        for (name, uid) in [(SCHEMA_UID, &self.schema), (LEVEL_UID, &self.level)] {
            if let Some(uid) = uid {
                response.headers_mut().insert(name, uid.clone());
            }
        }
    }
}

impl FlowControl {
    /// Waits for a seat; the error is the answer to a request that gets none.
    pub async fn admit(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
    ) -> Result<Admitted, Box<Response<Body>>> {
        if is_long_running(info) {
            return Ok(Admitted::default());
        }
        let config = self.config.load_full();
        let Some(flow) = config.flows.iter().find(|flow| flow.schema.matches(user, info)) else {
            return Ok(Admitted::default());
        };
        let admitted = |seat: Option<Seat>| {
            flow.counts.dispatched.fetch_add(1, Ordering::Relaxed);
            Admitted::of(flow, seat)
        };
        if flow.level.is_exempt() {
            return Ok(admitted(None));
        }
        if let Some(seat) = flow.level.try_seat() {
            return Ok(admitted(Some(seat)));
        }
        self.pressed.notify_one();
        let flow_id = flow.schema.flow(user, info);
        let begun = std::time::Instant::now();
        let waited = flow.level.wait(flow_id, PATIENCE).await;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        flow.counts.waited_micros.fetch_add(micros, Ordering::Relaxed);
        match waited {
            Ok(seat) => Ok(admitted(Some(seat))),
            Err(why) => {
                flow.counts.refused[why as usize].fetch_add(1, Ordering::Relaxed);
                let mut response = text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "Too many requests, please try again later.\n",
                );
                Admitted::of(flow, None).mark(&mut response);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                Err(Box::new(response))
            }
        }
    }

    /// Adds what Prometheus reads.
    pub fn render(&self, out: &mut String) {
        let config = self.config.load();
        let mut line = |name: &str, kind: &str, rows: &[(String, u64)]| {
            let _infallible = writeln!(out, "# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _infallible = writeln!(out, "{name}{{{labels}}} {value}");
            }
        };
        let labels = |flow: &Flow| {
            format!("flow_schema=\"{}\",priority_level=\"{}\"", flow.schema.name, flow.level.name())
        };
        let by_flow = |value: &dyn Fn(&Flow) -> u64| -> Vec<(String, u64)> {
            config.flows.iter().map(|flow| (labels(flow), value(flow))).collect()
        };
        let count = |at: usize| move |flow: &Flow| flow.counts.refused[at].load(Ordering::Relaxed);
        line(
            "apiserver_flowcontrol_dispatched_requests_total",
            "counter",
            &by_flow(&|flow| flow.counts.dispatched.load(Ordering::Relaxed)),
        );
        let mut refused = Vec::new();
        for why in Refused::ALL {
            for (labels, value) in by_flow(&count(why as usize)) {
                if value > 0 {
                    refused.push((format!("{labels},reason=\"{}\"", why.name()), value));
                }
            }
        }
        line("apiserver_flowcontrol_rejected_requests_total", "counter", &refused);
        let mut levels: HashMap<String, Arc<Level>> = HashMap::new();
        for flow in &config.flows {
            if !flow.level.is_exempt() {
                levels.insert(flow.level.name().to_owned(), flow.level.clone());
            }
        }
        let mut levels: Vec<(String, Arc<Level>)> = levels.into_iter().collect();
        levels.sort_by(|a, b| a.0.cmp(&b.0));
        let by_level = |value: &dyn Fn(&Level) -> u64| -> Vec<(String, u64)> {
            let label = |name: &str| format!("priority_level=\"{name}\"");
            levels.iter().map(|(name, level)| (label(name), value(level))).collect()
        };
        for (name, value) in [
            (
                "apiserver_flowcontrol_nominal_limit_seats",
                by_level(&|level| u64::from(level.share().nominal)),
            ),
            (
                "apiserver_flowcontrol_lower_limit_seats",
                by_level(&|level| u64::from(level.share().least)),
            ),
            (
                "apiserver_flowcontrol_upper_limit_seats",
                by_level(&|level| u64::from(level.share().most)),
            ),
            (
                "apiserver_flowcontrol_current_limit_seats",
                by_level(&|level| u64::from(level.limit())),
            ),
            (
                "apiserver_flowcontrol_current_executing_seats",
                by_level(&|level| u64::from(level.in_use())),
            ),
            (
                "apiserver_flowcontrol_current_inqueue_requests",
                by_level(&|level| u64::from(level.waiting())),
            ),
        ] {
            line(name, "gauge", &value);
        }
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        let _infallible = writeln!(out, "# TYPE {name} summary");
        for flow in &config.flows {
            let seconds = Duration::from_micros(flow.counts.waited_micros.load(Ordering::Relaxed));
            let _infallible =
                writeln!(out, "{name}_sum{{{}}} {:.6}", labels(flow), seconds.as_secs_f64());
        }
    }

    /// `/debug/api_priority_and_fairness/dump_priority_levels`
    pub fn dump(&self) -> String {
        let config = self.config.load();
        let mut out = String::from(
            "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, \
             ExecutingRequests, DispatchedRequests\n",
        );
        let mut seen: Vec<&str> = Vec::new();
        for flow in &config.flows {
            let level = &flow.level;
            if seen.contains(&level.name()) {
                continue;
            }
            seen.push(level.name());
            let of_level = config.flows.iter().filter(|other| Arc::ptr_eq(&other.level, level));
            let done: u64 =
                of_level.map(|other| other.counts.dispatched.load(Ordering::Relaxed)).sum();
            let (waiting, running) = (level.waiting(), level.in_use());
            let _infallible = writeln!(
                out,
                "{}, {}, {}, false, {waiting}, {running}, {done}",
                level.name(),
                level.active_queues(),
                waiting == 0 && running == 0
            );
        }
        out
    }
}

/// Requests that last as long as their client wants, as upstream's check has it; a watch counts
/// until its answer has begun.
fn is_long_running(info: &RequestInfo) -> bool {
    let sub =
        matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward");
    (info.is_resource && sub) || (!info.is_resource && info.path.starts_with("/debug/pprof"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn control(shares: i64, limit: serde_json::Value) -> FlowControl {
        let level = json!({"metadata": {"name": "l", "uid": "lu"}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": shares, "limitResponse": limit}}});
        let schema = json!({"metadata": {"name": "s", "uid": "su"}, "spec": {
            "priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 1,
            "rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        let control = FlowControl::default();
        control.configure(&[schema], &[level], 1);
        control
    }

    #[tokio::test]
    async fn who_gets_no_seat_is_told_when_to_come_back() {
        let control = control(1, json!({"type": "Reject"}));
        let user = UserInfo { groups: vec!["g".to_owned()], ..UserInfo::default() };
        let info = RequestInfo { path: "/x".to_owned(), verb: "get", ..RequestInfo::default() };
        let first = control.admit(&user, &info).await.ok().unwrap();
        let refused = control.admit(&user, &info).await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()[RETRY_AFTER], "1");
        assert_eq!(refused.headers()[&SCHEMA_UID], "su");
        drop(first);
        assert!(control.admit(&user, &info).await.is_ok());
        let mut out = String::new();
        control.render(&mut out);
        assert!(out.contains("reason=\"concurrency-limit\"} 1"), "{out}");
    }
}
