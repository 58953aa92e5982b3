//! Probes: each is a timer of its own that reports when the verdict changes.
//!
//! Invariant: thresholds are counted here; the worker only hears of verdicts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tonic_prost::ProstCodec;

use super::http_get;
use super::state::age;
use crate::cri::rpc_error;
use crate::shared::Shared;

const OUTPUT_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What a probe found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// The verdict changed.
    Verdict { id: String, kind: ProbeKind, healthy: bool },
    /// One attempt failed.
    Unhealthy { container: String, kind: ProbeKind, output: String },
}

/// The container under probe.
pub(crate) struct Subject {
    pub(crate) container: Container,
    pub(crate) kind: ProbeKind,
    pub(crate) id: String,
    pub(crate) pod_ip: String,
    pub(crate) started_at: Timestamp,
}

/// Counts successes and failures against the thresholds.
struct Verdict {
    healthy: Option<bool>,
    run: u32,
    last: bool,
}

impl Verdict {
    /// The verdict, when this result changes it.
    fn add(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        self.run = if success == self.last { self.run + 1 } else { 1 };
        self.last = success;
        let needed = match success {
            true => probe.success_threshold.unwrap_or(1),
            false => probe.failure_threshold.unwrap_or(3),
        };
        let enough = i64::from(self.run) >= i64::from(needed.max(1));
        (enough && self.healthy != Some(success)).then(|| {
            self.healthy = Some(success);
            success
        })
    }
}

fn secs(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
    Duration::from_secs(value.unwrap_or(default))
}

/// Probes until it is aborted, or until a startup probe has its verdict.
pub(crate) async fn run(
    shared: std::sync::Arc<Shared>,
    subject: Subject,
    findings: mpsc::Sender<Finding>,
) {
    let kind = subject.kind;
    let Some(probe) = kind.of(&subject.container).cloned() else { return };
    let period = secs(probe.period_seconds, 10);
    let timeout = secs(probe.timeout_seconds, 1);
    let initial = Duration::from_secs(
        probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
    );
    let elapsed = age(subject.started_at, Timestamp::now());
    tokio::time::sleep(initial.saturating_sub(elapsed)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut verdict = Verdict { healthy: None, run: 0, last: false };
    loop {
        ticks.tick().await;
        let result = attempt(&shared, &subject, &probe, timeout).await;
        let success = result.is_ok();
        if let Err(output) = result {
            let container = subject.container.name.clone();
            let unhealthy = Finding::Unhealthy { container, kind, output };
            if findings.send(unhealthy).await.is_err() {
                return;
            }
        }
        if let Some(healthy) = verdict.add(success, &probe) {
            let found = Finding::Verdict { id: subject.id.clone(), kind, healthy };
            if findings.send(found).await.is_err() || kind == ProbeKind::Startup {
                return;
            }
        }
    }
}

async fn attempt(
    shared: &Shared,
    subject: &Subject,
    probe: &Probe,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = shared.runtime.exec_sync(&subject.id, &command, timeout).await;
        return match answer {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let mut output = answer.stdout;
                output.extend(answer.stderr);
                Err(clip(&String::from_utf8_lossy(&output)))
            }
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => Err(format!(
                "command timed out: \"{}\" timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            )),
            Err(status) => Err(rpc_error(&status)),
        };
    }
    if let Some(action) = &probe.http_get {
        let answer = http_get::get(action, &subject.container, &subject.pod_ip, timeout).await?;
        return match answer.status {
            200..=399 => Ok(()),
            status => {
                tracing::debug!(body = %answer.body, "Probe was answered with an error");
                Err(format!("HTTP probe failed with statuscode: {status}"))
            }
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = http_get::port(&action.port, &subject.container)?;
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&subject.pod_ip);
        return match tokio::time::timeout(timeout, http_get::dial(host, port)).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(format!("dial tcp {}: i/o timeout", http_get::authority(host, port))),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| "invalid port".to_owned())?;
        let service = action.service.clone().unwrap_or_default();
        return grpc(&http_get::authority(&subject.pod_ip, port), service, timeout).await;
    }
    Err("missing probe handler".to_owned())
}

fn clip(output: &str) -> String {
    output.chars().take(OUTPUT_MAX).collect()
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// Names of `HealthCheckResponse.ServingStatus`, by number.
const SERVING_STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// Pause between two attempts to connect within one probe.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Asks the gRPC health protocol (`grpc.health.v1.Health/Check`); connecting is tried until the
/// probe's time is over, as gRPC clients do.
async fn grpc(authority: &str, service: String, timeout: Duration) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + timeout;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|err| err.to_string())?;
    let connect = async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
            }
        }
    };
    let channel = tokio::time::timeout_at(deadline, connect).await.map_err(|_| {
        format!(
            "timeout: failed to connect service \"{authority}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )
    })?;
    let late = || format!("timeout: health rpc did not complete within {}s", timeout.as_secs());
    match tokio::time::timeout_at(deadline, check_health(channel, service)).await {
        Err(_) => Err(late()),
        Ok(Ok(SERVING)) => Ok(()),
        Ok(Ok(status)) => {
            let name = usize::try_from(status).ok().and_then(|index| SERVING_STATUS.get(index));
            let name = name.map_or_else(|| status.to_string(), |name| (*name).to_owned());
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
        Ok(Err(status)) => Err(match status.code() {
            tonic::Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            tonic::Code::DeadlineExceeded => late(),
            _ => format!("error: health rpc probe failed: {}", rpc_error(&status)),
        }),
    }
}

async fn check_health(
    channel: tonic::transport::Channel,
    service: String,
) -> Result<i32, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|err| tonic::Status::unavailable(err.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let answer = client.unary(tonic::Request::new(HealthCheckRequest { service }), path, codec);
    Ok(answer.await?.into_inner().status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_counted_in_a_row() {
        let probe =
            Probe { failure_threshold: Some(2), success_threshold: Some(1), ..Default::default() };
        let mut verdict = Verdict { healthy: None, run: 0, last: false };
        let results = [true, false, true, false, false, false, true];
        let heard: Vec<_> = results.iter().map(|ok| verdict.add(*ok, &probe)).collect();
        assert_eq!(heard, [Some(true), None, None, None, Some(false), None, Some(true)]);
    }
}
