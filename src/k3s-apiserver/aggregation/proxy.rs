//! Requests on their way to an aggregated API server, as the user that was authenticated here.
//!
//! Invariant: who the user is comes from us alone; headers of the client that say so are dropped.

use apimachinery::status::Status;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;

use super::Delegate;
use crate::body::{Body, text};
use crate::filter::Call;
use crate::proxy::relay;
use crate::remote::dial;
use crate::user::UserInfo;

/// Hands the request on and the answer back.
pub async fn serve(
    call: &Call<'_>,
    delegate: &Delegate,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let unavailable = |why: &str| Ok(text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")));
    let Ok(server) = &delegate.server else { return unavailable("service unavailable") };
    if !delegate.available {
        return unavailable("service unavailable");
    }
    let config = match call.server.remote.config(server) {
        Ok(config) => config,
        Err(err) => return unavailable(&format!("error trying to reach service: {err:#}")),
    };
    let stream = match dial(&call.server.cluster, server, config).await {
        Ok(stream) => stream,
        Err(why) => return unavailable(&format!("error trying to reach service: {why}")),
    };
    let mut headers = identified(&call.parts.headers, &call.user);
    let host = HeaderValue::from_str(&server.authority()).map_err(Status::internal)?;
    headers.insert(HOST, host);
    let path = call.parts.uri.path().to_owned();
    let query = call.parts.uri.query().unwrap_or_default().to_owned();
    relay(call, Box::pin(stream), headers, "", &path, &query, body).await
}

/// The client's headers with the user that we know, in place of what says who the client is.
fn identified(headers: &HeaderMap, user: &UserInfo) -> HeaderMap {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let own = name.as_str().starts_with("x-remote-")
            || name.as_str().starts_with("impersonate-")
            || *name == AUTHORIZATION;
        if !own {
            sent.append(name.clone(), value.clone());
        }
    }
    let mut put = |name: String, text: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(text)) {
            sent.append(name, value);
        }
    };
    put("x-remote-user".to_owned(), &user.name);
    if !user.uid.is_empty() {
        put("x-remote-uid".to_owned(), &user.uid);
    }
    for group in &user.groups {
        put("x-remote-group".to_owned(), group);
    }
    for (key, values) in &user.extra {
        for value in values {
            put(format!("x-remote-extra-{}", escaped(key)), value);
        }
    }
    sent
}

/// A key as the name of a header has it: what names may not have is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::new();
    for byte in key.to_ascii_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_says_who_the_user_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("impersonate-user", "x"),
            ("authorization", "Bearer t"),
            ("accept", "a/b"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut user = UserInfo { name: "alice".to_owned(), ..UserInfo::default() };
        user.groups = vec!["a".to_owned(), "b".to_owned()];
        user.extra.insert("example.org/Scopes".to_owned(), vec!["s".to_owned()]);
        let sent = identified(&headers, &user);
        assert_eq!(sent.get_all("x-remote-user").iter().count(), 1);
        assert_eq!(sent["x-remote-user"], "alice");
        assert_eq!(sent.get_all("x-remote-group").iter().count(), 2);
        assert_eq!(sent["x-remote-extra-example.org%2Fscopes"], "s");
        assert!(!sent.contains_key(AUTHORIZATION) && !sent.contains_key("impersonate-user"));
        assert_eq!(sent["accept"], "a/b");
    }
}
