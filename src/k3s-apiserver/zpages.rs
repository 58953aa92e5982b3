//! `/flagz` and `/statusz`: with which flags this server runs, since when, and where else to look.
//!
//! Texts for people unless a client asks for one of the recognised kinds. Invariant: nothing here is
//! in no other place; a flag shows what is in effect.

use std::collections::BTreeMap;

use apimachinery::decode::Media;
use apimachinery::status::Status;
use http::header::{ACCEPT, HeaderMap};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::{Body, text};
use crate::filter::Call;
use crate::negotiate::Accept;
use crate::verbs::render;
use crate::{documents, health};

const NAME: &str = "apiserver";
const GROUP: &str = "config.k8s.io";
const ACCEPTED: &str = "application/json, application/yaml, text/plain";
/// What is no debugging page.
const OTHERS: [&str; 5] = ["/apis", "/api", "/openid", "/openapi", "/.well-known"];

/// The form that a client wants a page in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// An object of this version.
    Object(Media, &'static str),
}

/// `GET /flagz`
pub fn flags(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let flags = &call.server.configuration;
    match form(&call.parts.headers, "Flagz")? {
        Form::Text => {
            let lines: String =
                flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            Ok(page("flagz", &lines))
        }
        Form::Object(media, version) => {
            let body = json!({"flags": flags});
            Ok(object(media, version, "Flagz", body))
        }
    }
}

/// `GET /statusz`
pub fn status(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let (begun, now) = (call.server.begun, call.server.now());
    let paths = debugging(&documents::paths(call));
    let version = health::VERSION;
    match form(&call.parts.headers, "Statusz")? {
        Form::Text => Ok(page("statusz", &status_text(begun, now, version, &paths))),
        Form::Object(media, api_version) => {
            let body = json!({
                "startTime": format!("{begun:.0}"), "uptimeSeconds": uptime(begun, now),
                "goVersion": "", "binaryVersion": version, "emulationVersion": health::LEVEL,
                "paths": paths,
            });
            Ok(object(media, api_version, "Statusz", body))
        }
    }
}

fn uptime(begun: Timestamp, now: Timestamp) -> i64 {
    (now.as_second() - begun.as_second()).max(0)
}

fn status_text(begun: Timestamp, now: Timestamp, version: &str, paths: &[String]) -> String {
    let up = uptime(begun, now);
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    let begun = begun.strftime("%a %b %e %H:%M:%S UTC %Y");
    format!(
        "\nStarted: {begun}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\nGo version: \nBinary \
         version: {version}\nEmulation version: {}\nPaths: {}\n",
        health::LEVEL,
        paths.join(" ")
    )
}

/// The first parts of the paths that say how the server is.
fn debugging(paths: &[String]) -> Vec<String> {
    let first = |path: &String| path.split('/').nth(1).map(|part| format!("/{part}"));
    let mut firsts: Vec<String> = paths.iter().filter_map(first).collect();
    firsts.retain(|path| path != "/" && !OTHERS.contains(&path.as_str()));
    firsts.sort();
    firsts.dedup();
    firsts
}

fn page(kind: &str, lines: &str) -> Response<Body> {
    let head = format!(
        "\n{NAME} {kind}\nWarning: This endpoint is not meant to be machine parseable, has no \
         formatting compatibility guarantees and is for debugging purposes only.\n"
    );
    text(StatusCode::OK, head + lines)
}

fn object(media: Media, version: &str, kind: &str, body: Value) -> Response<Body> {
    let mut whole = json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": NAME},
    });
    if let (Some(whole), Value::Object(body)) = (whole.as_object_mut(), body) {
        whole.extend(body);
    }
    let accept = Accept { media, ..Accept::JSON };
    let mut response = render::status(accept, StatusCode::OK, &whole);
    if version == "v1alpha1" {
        let page = kind.to_lowercase();
        let warning = format!(
            "This version of the {page} endpoint is deprecated. Please use a newer version."
        );
        render::warn(&mut response, &[warning]);
    }
    response
}

/// The form of the first clause that can be served.
fn form(headers: &HeaderMap, kind: &str) -> Result<Form, Status> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header.trim().is_empty() {
        return Ok(Form::Text);
    }
    let clauses = header.split(',').take(64);
    clauses.filter_map(|one| clause(one, kind)).next().ok_or(Status::not_acceptable(ACCEPTED))
}

fn clause(clause: &str, kind: &str) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let said: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
    let Some(form) = said.get("as") else {
        return matches!(media, "*/*" | "text/*" | "text/plain").then_some(Form::Text);
    };
    let version = match *said.get("v")? {
        "v1beta1" => "v1beta1",
        "v1alpha1" => "v1alpha1",
        _ => return None,
    };
    let media = match media {
        "*/*" | "application/*" | "application/json" => Media::Json,
        "application/yaml" => Media::Yaml,
        _ => return None,
    };
    (*form == kind && said.get("g") == Some(&GROUP)).then_some(Form::Object(media, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_texts_unless_a_known_kind_is_asked_for() {
        let check = |header: &str, want: Option<Form>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, header.parse().unwrap());
            assert_eq!(form(&headers, "Flagz").ok(), want, "{header}");
        };
        check("", Some(Form::Text));
        check("*/*", Some(Form::Text));
        check("application/json", None);
        check("application/json, text/plain;q=0.5", Some(Form::Text));
        let json = Form::Object(Media::Json, "v1beta1");
        check("application/json;as=Flagz;v=v1beta1;g=config.k8s.io", Some(json));
        check("application/json;as=Statusz;v=v1beta1;g=config.k8s.io", None);
    }

    #[test]
    fn the_status_says_since_when() {
        let begun: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let now: Timestamp = "2026-01-02T05:05:08Z".parse().unwrap();
        let paths =
            debugging(&["/", "/apis/apps", "/livez/ping", "/livez", "/metrics"].map(Into::into));
        assert_eq!(
            status_text(begun, now, "1.36.0", &paths),
            "\nStarted: Fri Jan  2 03:04:05 UTC 2026\nUp: 2 hr 01 min 03 sec\nGo version: \nBinary \
             version: 1.36.0\nEmulation version: 1.36\nPaths: /livez /metrics\n"
        );
    }
}
