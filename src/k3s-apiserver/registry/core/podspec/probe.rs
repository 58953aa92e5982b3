//! Probes and lifecycle hooks.

use apimachinery::field::{FieldErrors, Path};
use serde_json::Value;

use crate::registry::validate::{not_negative, port, port_or_name};
use crate::registry::value::{has, int, key, list, text};

/// One of the three probes of a container.
pub(super) fn validate(
    errs: &mut FieldErrors,
    path: &Path,
    container: &Value,
    field: &str,
    grace: Option<i64>,
) {
    let probe = key(container, field);
    if probe.is_null() {
        return;
    }
    let path = path.child(field);
    handler(errs, &path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(errs, &path.child(field), key(probe, field));
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds") {
        let here = path.child("terminationGracePeriodSeconds");
        if seconds <= 0 {
            errs.invalid(here.clone(), seconds, "must be greater than 0");
        }
        if field == "readinessProbe" {
            errs.invalid(here, seconds, "must not be set for readinessProbes");
        }
    }
    let success = int(probe, "successThreshold").unwrap_or_default();
    if field != "readinessProbe" && success != 1 {
        errs.invalid(path.child("successThreshold"), success, "must be 1");
    }
}

/// `postStart` and `preStop`.
pub(super) fn lifecycle(
    errs: &mut FieldErrors,
    path: &Path,
    lifecycle: &Value,
    grace: Option<i64>,
) {
    for hook in ["postStart", "preStop"] {
        if has(lifecycle, hook) {
            let allowed = &["exec", "httpGet", "tcpSocket", "sleep"];
            handler(errs, &path.child(hook), key(lifecycle, hook), allowed, grace);
        }
    }
}

fn handler(
    errs: &mut FieldErrors,
    path: &Path,
    holder: &Value,
    kinds: &[&str],
    grace: Option<i64>,
) {
    let mut count = 0;
    for kind in kinds.iter().filter(|kind| has(holder, kind)) {
        let path = path.child(kind);
        if count > 0 {
            errs.forbidden(path, "may not specify more than 1 handler type");
            continue;
        }
        count += 1;
        let action = key(holder, kind);
        match *kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    errs.required(path.child("command"), "");
                }
            }
            "httpGet" => http_get(errs, &path, action),
            "tcpSocket" => port_or_name(errs, &path.child("port"), key(action, "port")),
            "grpc" => port(errs, &path.child("port"), key(action, "port")),
            _ => {
                let seconds = int(action, "seconds").unwrap_or_default();
                if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errs.invalid(path, seconds, detail);
                }
            }
        }
    }
    if count == 0 {
        errs.required(path, "must specify a handler type");
    }
}

fn http_get(errs: &mut FieldErrors, path: &Path, action: &Value) {
    if text(action, "path").is_empty() {
        errs.required(path.child("path"), "");
    }
    port_or_name(errs, &path.child("port"), key(action, "port"));
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errs.not_supported(path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errs.invalid(path.child("httpHeaders"), name, detail);
        }
    }
}
