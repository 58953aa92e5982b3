//! `/version`, `/healthz`, `/livez`, `/readyz` and the issuer documents.

use std::net::SocketAddr;

use apimachinery::gotext::quote;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{Body, json, text};
use crate::filter::Call;

/// The version of the executable.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The level of the API that it serves.
pub const LEVEL: &str = "1.36";

/// What the server says it is: the API level in upstream's form.
pub fn version() -> Response<Body> {
    let full = VERSION;
    let mut parts = full.split('.');
    json(
        StatusCode::OK,
        &json!({
            "major": parts.next().unwrap_or_default(),
            "minor": parts.next().unwrap_or_default(),
            "emulationMajor": "1", "emulationMinor": "36",
            "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
            "gitVersion": format!("v{full}+k3s1"),
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "", "compiler": "rustc",
            "platform": concat!("linux/", "amd64"),
        }),
    )
}

/// How others check our service account tokens.
pub fn issuer(call: &Call<'_>, path: &str) -> Response<Body> {
    let tokens = &call.server.auth.authenticator.tokens;
    if path == "/openid/v1/jwks" {
        let mut response = json(StatusCode::OK, &tokens.jwks());
        let jwks = HeaderValue::from_static("application/jwk-set+json");
        response.headers_mut().insert(CONTENT_TYPE, jwks);
        return response;
    }
    let args = &call.server.args;
    let address = args.advertise_address.unwrap_or(args.bind_address);
    json(StatusCode::OK, &tokens.discovery(&SocketAddr::new(address, args.secure_port).to_string()))
}

/// What a check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// That we answer.
    Nothing,
    /// That the caches show what the store has.
    Caches,
    /// That the objects of a fresh cluster are written.
    Bootstrap,
    /// That nobody told us to stop.
    Running,
}

/// Where a check is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Everywhere,
    /// Only where it is asked whether we are ready.
    Ready,
    /// Only where it is asked whether we live.
    Live,
}

/// Upstream's checks in its order; a hook stands for the part of ours that does its work.
const CHECKS: &[(&str, Asks, Shown)] = &[
    ("ping", Asks::Nothing, Shown::Everywhere),
    ("log", Asks::Nothing, Shown::Everywhere),
    ("etcd", Asks::Caches, Shown::Everywhere),
    ("loopback-serving-certificate", Asks::Nothing, Shown::Live),
    ("etcd-readiness", Asks::Caches, Shown::Ready),
    ("informer-sync", Asks::Caches, Shown::Ready),
    ("poststarthook/start-apiserver-admission-initializer", Asks::Caches, Shown::Everywhere),
    ("poststarthook/generic-apiserver-start-informers", Asks::Caches, Shown::Everywhere),
    ("poststarthook/priority-and-fairness-config-consumer", Asks::Caches, Shown::Everywhere),
    ("poststarthook/priority-and-fairness-filter", Asks::Nothing, Shown::Everywhere),
    ("poststarthook/storage-object-count-tracker-hook", Asks::Caches, Shown::Everywhere),
    ("poststarthook/start-apiextensions-informers", Asks::Caches, Shown::Everywhere),
    ("poststarthook/start-apiextensions-controllers", Asks::Caches, Shown::Everywhere),
    ("poststarthook/crd-informer-synced", Asks::Caches, Shown::Everywhere),
    ("poststarthook/start-system-namespaces-controller", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/peer-endpoint-reconciler-controller", Asks::Bootstrap, Shown::Everywhere),
    (
        "poststarthook/start-cluster-authentication-info-controller",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    (
        "poststarthook/start-kube-apiserver-identity-lease-controller",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    (
        "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    ("poststarthook/storage-readiness", Asks::Caches, Shown::Everywhere),
    ("poststarthook/start-legacy-token-tracking-controller", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/start-service-ip-repair-controllers", Asks::Caches, Shown::Everywhere),
    ("poststarthook/rbac/bootstrap-roles", Asks::Bootstrap, Shown::Everywhere),
    (
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    ("poststarthook/priority-and-fairness-config-producer", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/bootstrap-controller", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/start-kubernetes-service-cidr-controller", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/aggregator-reload-proxy-client-cert", Asks::Nothing, Shown::Everywhere),
    ("poststarthook/start-kube-aggregator-informers", Asks::Caches, Shown::Everywhere),
    (
        "poststarthook/apiservice-status-local-available-controller",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    (
        "poststarthook/apiservice-status-remote-available-controller",
        Asks::Bootstrap,
        Shown::Everywhere,
    ),
    ("poststarthook/apiservice-registration-controller", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/apiservice-wait-for-first-sync", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/apiservice-discovery-controller", Asks::Caches, Shown::Everywhere),
    ("poststarthook/kube-apiserver-autoregistration", Asks::Bootstrap, Shown::Everywhere),
    ("autoregister-completion", Asks::Bootstrap, Shown::Everywhere),
    ("poststarthook/apiservice-openapi-controller", Asks::Caches, Shown::Everywhere),
    ("poststarthook/apiservice-openapiv3-controller", Asks::Caches, Shown::Everywhere),
    ("shutdown", Asks::Running, Shown::Ready),
];

fn shown(kind: &str) -> impl Iterator<Item = (&'static str, Asks)> {
    let ready = kind == "readyz";
    CHECKS.iter().filter_map(move |(name, asks, shown)| match shown {
        Shown::Ready if !ready => None,
        Shown::Live if ready => None,
        _ => Some((*name, *asks)),
    })
}

/// The paths of all checks.
pub fn paths() -> impl Iterator<Item = String> {
    ["healthz", "livez", "readyz"].into_iter().flat_map(|kind| {
        let whole = std::iter::once(format!("/{kind}"));
        whole.chain(shown(kind).map(move |(name, _)| format!("/{kind}/{name}")))
    })
}

/// One named check.
struct Check {
    name: &'static str,
    ok: bool,
}

fn checks(call: &Call<'_>, kind: &str) -> Vec<Check> {
    let loaded = call.server.storage.loaded();
    let started = call.server.started.load(std::sync::atomic::Ordering::Acquire);
    let running = !call.server.stop.is_cancelled();
    // Being alive is no matter of what is still being written.
    let bootstrap = if kind == "readyz" { started } else { loaded };
    shown(kind)
        .map(|(name, asks)| {
            let ok = match asks {
                Asks::Nothing => true,
                Asks::Caches => loaded,
                Asks::Bootstrap => bootstrap,
                Asks::Running => running,
            };
            Check { name, ok }
        })
        .collect()
}

/// `/readyz?verbose`, `/livez/etcd`, `/healthz?exclude=etcd` …
pub fn check(call: &Call<'_>, path: &str) -> Response<Body> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let kind = parts.next().unwrap_or_default();
    let only = parts.next();
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut report = String::new();
    let mut failed = false;
    let all = checks(call, kind);
    if let Some(name) = only
        && !all.iter().any(|check| check.name == name)
    {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    for check in all.iter().filter(|check| only.is_none_or(|name| name == check.name)) {
        call.server.metrics.note_check(check.name, kind, check.ok);
        if excluded.contains(&check.name) {
            report.push_str(&format!("[+]{} excluded: ok\n", check.name));
        } else if check.ok {
            report.push_str(&format!("[+]{} ok\n", check.name));
        } else {
            failed = true;
            report.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
        }
    }
    if only.is_none() {
        let unknown = excluded.iter().filter(|name| !all.iter().any(|check| check.name == **name));
        let mut unknown: Vec<&str> = unknown.copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let names = unknown.iter().map(|name| quote(name)).collect::<Vec<_>>().join(",");
            let text = "warn: some health checks cannot be excluded: no matches for";
            report.push_str(&format!("{text} {names}\n"));
        }
    }
    if failed {
        report.push_str(&format!("{kind} check failed\n"));
        return text(StatusCode::INTERNAL_SERVER_ERROR, report);
    }
    if only.is_none() && call.query.get("verbose").is_some() {
        report.push_str(&format!("{kind} check passed\n"));
        return text(StatusCode::OK, report);
    }
    text(StatusCode::OK, "ok")
}
