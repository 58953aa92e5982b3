//! What went wrong with a server outside, in the words of Go's `net/http` and client-go. Pure.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use apimachinery::gotext::quote;
use rustls::{CertificateError, Error};
use serde_json::Value;

/// Why a connection was not made.
pub(super) fn connect(err: &io::Error) -> String {
    match err.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => format!("connect: {err}"),
    }
}

/// Why a handshake failed.
pub(super) fn tls(err: &io::Error, name: &str) -> String {
    let inner = err.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let why = match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        Some(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "x509: certificate has expired or is not yet valid".to_owned(),
        Some(Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            format!("x509: certificate is not valid for {name}")
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => {
            let presented = presented.iter().filter_map(|name| name.split('"').nth(1));
            let presented: Vec<&str> = presented.collect();
            format!("x509: certificate is valid for {}, not {name}", presented.join(", "))
        }
        Some(Error::InvalidCertificate(other)) => format!("x509: {other}"),
        Some(other) => return format!("remote error: tls: {other}"),
        None if err.kind() == ErrorKind::UnexpectedEof => return "EOF".to_owned(),
        None => return err.to_string(),
    };
    format!("tls: failed to verify certificate: {why}")
}

/// Why a request got no answer.
pub(super) fn http(err: &hyper::Error) -> String {
    if err.is_incomplete_message() || err.is_canceled() {
        return "EOF".to_owned();
    }
    let io = err.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
        Some(ErrorKind::UnexpectedEof) => "EOF".to_owned(),
        _ => err.to_string(),
    }
}

/// The object in an answer, or what client-go makes of an answer that has none.
pub(super) fn judge(status: u16, body: &[u8]) -> Result<Value, String> {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let refusal = parsed.as_ref().filter(|object| {
        object["kind"] == "Status" && object["apiVersion"] == "v1" && object["status"] == "Failure"
    });
    if let Some(message) = refusal.and_then(|refusal| refusal["message"].as_str()) {
        return Err(message.to_owned());
    }
    if (200..=206).contains(&status) {
        return match parsed {
            Some(object) if object["kind"].as_str().is_some_and(|kind| !kind.is_empty()) => {
                Ok(object)
            }
            Some(_) => {
                let shown = String::from_utf8_lossy(body);
                Err(format!("Object 'Kind' is missing in '{shown}'"))
            }
            None => {
                let why = serde_json::from_slice::<Value>(body).err();
                let why = why.map(|err| err.to_string()).unwrap_or_default();
                Err(format!("couldn't get version/kind; json parse error: {why}"))
            }
        };
    }
    let shown = String::from_utf8_lossy(body);
    let shown = shown.trim();
    Err(match status {
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 | 406 | 415 => shown.to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later"
            .to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be \
                processing the request"
            .to_owned(),
        500.. => {
            let why = if shown.is_empty() { "unknown" } else { shown };
            format!(
                "an error on the server ({}) has prevented the request from succeeding",
                quote(why)
            )
        }
        _ => "the server rejected our request for an unknown reason".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_without_an_object_are_client_gos_errors() {
        let check = |status: u16, body: &str, want: &str| {
            assert_eq!(judge(status, body.as_bytes()).unwrap_err(), want);
        };
        check(404, "x", "the server could not find the requested resource");
        let internal =
            "an error on the server (\"boom\") has prevented the request from succeeding";
        check(500, "boom\n", internal);
        check(200, "{}", "Object 'Kind' is missing in '{}'");
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no"}"#;
        check(200, status, "no");
        assert!(judge(200, br#"{"kind":"AdmissionReview"}"#).is_ok());
    }

    #[test]
    fn refused_connections_read_as_in_go() {
        let err = io::Error::from(ErrorKind::ConnectionRefused);
        assert_eq!(connect(&err), "connect: connection refused");
        let inner = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(
            tls(&io::Error::other(inner), "s.n.svc"),
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        );
    }
}
