//! `/version`, `/healthz`, `/livez`, `/readyz` and the issuer documents.

use std::net::SocketAddr;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::{Body, json, text};
use crate::filter::Call;

/// What the server says it is: the API level in upstream's form.
pub fn version() -> Response<Body> {
    let full = env!("CARGO_PKG_VERSION");
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

/// One named check.
struct Check {
    name: &'static str,
    ok: bool,
}

fn checks(call: &Call<'_>, kind: &str) -> Vec<Check> {
    let loaded = call.server.storage.loaded();
    let mut all = vec![Check { name: "ping", ok: true }, Check { name: "log", ok: true }];
    all.push(Check { name: "etcd", ok: loaded });
    if kind == "readyz" {
        let started = call.server.started.load(std::sync::atomic::Ordering::Acquire);
        all.push(Check { name: "poststarthook/rbac/bootstrap-roles", ok: started });
        all.push(Check { name: "etcd-readiness", ok: loaded });
        all.push(Check { name: "informer-sync", ok: loaded });
        all.push(Check { name: "shutdown", ok: !call.server.stop.is_cancelled() });
    }
    all
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
        if excluded.contains(&check.name) {
            report.push_str(&format!("[+]{} excluded: ok\n", check.name));
        } else if check.ok {
            report.push_str(&format!("[+]{} ok\n", check.name));
        } else {
            failed = true;
            report.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
        }
    }
    if failed {
        report.push_str(&format!("{kind} check failed\n"));
        return text(StatusCode::INTERNAL_SERVER_ERROR, report);
    }
    if call.query.get("verbose").is_some() {
        report.push_str(&format!("{kind} check passed\n"));
        return text(StatusCode::OK, report);
    }
    text(StatusCode::OK, "ok")
}
