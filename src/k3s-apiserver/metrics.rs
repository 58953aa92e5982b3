//! `/metrics`: counters under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is counted about requests. The label sets are bounded by the tables of kinds and verbs.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
    /// Requests in progress, without watches.
    pub inflight: AtomicI64,
    pub watches: AtomicI64,
}

/// The labels of `apiserver_request_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub code: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Series {
    count: u64,
    seconds: f64,
}

impl Metrics {
    /// Counts one answered request.
    pub fn count(&self, labels: Labels, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let series = requests.entry(labels).or_default();
        series.count += 1;
        series.seconds += took.as_secs_f64();
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::new();
        out.push_str("# TYPE apiserver_request_total counter\n");
        for (labels, series) in &requests {
            let _infallible =
                writeln!(out, "apiserver_request_total{{{}}} {}", labels.render(), series.count);
        }
        out.push_str("# TYPE apiserver_request_duration_seconds summary\n");
        for (labels, series) in &requests {
            let labels = labels.render();
            let _infallible = writeln!(
                out,
                "apiserver_request_duration_seconds_sum{{{labels}}} {:.6}\n\
                 apiserver_request_duration_seconds_count{{{labels}}} {}",
                series.seconds, series.count
            );
        }
        let inflight = self.inflight.load(Ordering::Relaxed);
        let watches = self.watches.load(Ordering::Relaxed);
        let _infallible = write!(
            out,
            "# TYPE apiserver_current_inflight_requests gauge\n\
             apiserver_current_inflight_requests{{request_kind=\"all\"}} {inflight}\n\
             # TYPE apiserver_longrunning_requests gauge\n\
             apiserver_longrunning_requests{{verb=\"WATCH\"}} {watches}\n"
        );
        out
    }
}

impl Labels {
    fn render(&self) -> String {
        format!(
            "code=\"{}\",group=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.code,
            self.group,
            self.resource,
            self.subresource,
            self.verb.to_ascii_uppercase(),
            self.version
        )
    }
}
