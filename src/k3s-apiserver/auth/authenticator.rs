//! Who sends a request: every way to prove it, in upstream's order.
//!
//! The front proxy first, then the client certificate of the connection, then bearer tokens (file,
//! service account, bootstrap), then a password, then nobody. Invariant: credentials that are there
//! and wrong are refused, never passed over in favour of the anonymous user.

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;

use super::objects::Objects;
use super::service_account::{Identity, Tokens};
use super::users::{UserFile, bootstrap_user};
use crate::user::UserInfo;

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const INVALID: &str = "invalid bearer token";

/// What a request brings along.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// Who the connection's client certificate is, if `--client-ca-file` vouches for it.
    pub certificate: Option<&'a UserInfo>,
    /// The common name of the connection's client certificate, if
    /// `--requestheader-client-ca-file` vouches for it.
    pub proxy: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// Audiences to look for in place of the server's own.
    pub audiences: Option<&'a [String]>,
}

impl Credentials<'_> {
    /// Whether there is a token, which may have become good only now.
    pub fn carries_token(&self) -> bool {
        self.headers.contains_key(AUTHORIZATION)
            || self.headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
    }
}

/// `--requestheader-*`
#[derive(Clone, Debug, Default)]
pub struct FrontProxy {
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

/// All that it takes to know who asks.
#[derive(Debug)]
pub struct Authenticator {
    pub tokens: Tokens,
    pub token_file: UserFile,
    /// Replaced when the server token is rotated.
    pub basic_file: ArcSwap<UserFile>,
    pub bootstrap_tokens: bool,
    pub anonymous: bool,
    pub proxy: FrontProxy,
}

/// Nobody that we know; the text is for token reviews, clients are told only `Unauthorized`.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.0))]
pub struct Unauthenticated(Vec<String>);

fn join(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

impl Authenticator {
    /// Finds out who asks.
    pub fn authenticate(
        &self,
        objects: &dyn Objects,
        credentials: &Credentials<'_>,
        now: Timestamp,
    ) -> Result<Identity, Unauthenticated> {
        let known = |user| Ok(Identity { user: with_group(user), audiences: self.audiences() });
        if let Some(user) = self.by_front_proxy(credentials) {
            return known(user);
        }
        if let Some(user) = credentials.certificate {
            return known(user.clone());
        }
        let (scheme, value) = authorization(credentials.headers);
        let mut tried = false;
        if scheme.eq_ignore_ascii_case("bearer") && !value.is_empty() {
            return self.by_token(objects, value, credentials.audiences, now);
        }
        if scheme.eq_ignore_ascii_case("basic") {
            if let Some(user) = self.basic_file.load().by_basic(value) {
                return known(user);
            }
            tried = true;
        }
        if let Some(token) = websocket_token(credentials.headers) {
            return self.by_token(objects, &token, credentials.audiences, now);
        }
        if self.anonymous && !tried {
            let user = UserInfo {
                name: "system:anonymous".to_owned(),
                groups: vec![UNAUTHENTICATED.to_owned()],
                ..UserInfo::default()
            };
            return Ok(Identity { user, audiences: self.audiences() });
        }
        Err(Unauthenticated::default())
    }

    fn audiences(&self) -> Vec<String> {
        self.tokens.audiences.clone()
    }

    fn by_token(
        &self,
        objects: &dyn Objects,
        token: &str,
        wanted: Option<&[String]>,
        now: Timestamp,
    ) -> Result<Identity, Unauthenticated> {
        // Users of files and bootstrap tokens are good for the server's own audiences only.
        let own = || -> Vec<String> {
            let wanted = wanted.unwrap_or(&self.tokens.audiences);
            let ours = self.tokens.audiences.iter();
            ours.filter(|audience| wanted.contains(audience)).cloned().collect()
        };
        if let Some(user) = self.token_file.by_token(token) {
            return Ok(Identity { user: with_group(user), audiences: own() });
        }
        let refused = match self.tokens.authenticate(objects, token, wanted, now) {
            Ok(Some(identity)) => {
                return Ok(Identity { user: with_group(identity.user), ..identity });
            }
            Ok(None) => None,
            Err(why) => Some(why),
        };
        if self.bootstrap_tokens
            && let Some(user) = bootstrap_user(objects, token, now)
        {
            return Ok(Identity { user: with_group(user), audiences: own() });
        }
        let errors = std::iter::once(INVALID.to_owned()).chain(refused).collect();
        Err(Unauthenticated(errors))
    }

    fn by_front_proxy(&self, credentials: &Credentials<'_>) -> Option<UserInfo> {
        let proxy = credentials.proxy?;
        let allowed = &self.proxy.allowed_names;
        if !allowed.is_empty() && !allowed.iter().any(|name| name == proxy) {
            return None;
        }
        let headers = credentials.headers;
        let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
        let first = |name: &String| headers.get(name.as_str()).and_then(text);
        let name = self.proxy.username_headers.iter().find_map(first).filter(|n| !n.is_empty())?;
        let all = |name: &String| headers.get_all(name.as_str()).iter().filter_map(text);
        let groups = self.proxy.group_headers.iter().flat_map(all).collect();
        let mut user = UserInfo { name, groups, ..UserInfo::default() };
        for (header, value) in headers {
            let key = self.proxy.extra_prefixes.iter().find_map(|prefix| {
                header.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str())
            });
            if let (Some(key), Some(value)) = (key, text(value)) {
                user.extra.entry(super::impersonate::unescape(key)).or_default().push(value);
            }
        }
        Some(user)
    }
}

fn with_group(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn authorization(headers: &HeaderMap) -> (&str, &str) {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, value) = value.unwrap_or_default().trim().split_once(' ').unwrap_or_default();
    (scheme, value.trim())
}

/// A token among the protocols of a WebSocket, where browsers have no other place for it.
fn websocket_token(headers: &HeaderMap) -> Option<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|protocol| {
        protocol.trim().strip_prefix("base64url.bearer.authorization.k8s.io.")
    })?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::service_account::tests::{grant, objects, tokens};
    use super::*;

    fn authenticator() -> Authenticator {
        let file = |text| UserFile::parse(text).expect("users");
        let names = |name: &str| vec![name.to_owned()];
        Authenticator {
            tokens: tokens(),
            token_file: file("static,carol,c,ops"),
            basic_file: ArcSwap::from_pointee(file("pw,node,node,k3s:agent")),
            bootstrap_tokens: true,
            anonymous: false,
            proxy: FrontProxy {
                allowed_names: names("front"),
                username_headers: names("X-Remote-User"),
                group_headers: names("X-Remote-Group"),
                extra_prefixes: names("X-Remote-Extra-"),
            },
        }
    }

    fn ask(
        authenticator: &Authenticator,
        proxy: Option<&str>,
        headers: &[(&'static str, &str)],
    ) -> Result<UserInfo, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header"));
        }
        let credentials = Credentials { certificate: None, proxy, headers: &map, audiences: None };
        let now = Timestamp::from_second(1_700_000_001).expect("a time");
        let found = authenticator.authenticate(&objects(), &credentials, now);
        found.map(|identity| identity.user).map_err(|err| err.to_string())
    }

    #[test]
    fn every_way_leads_to_its_user() {
        let mut all = authenticator();
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        let (token, _) = all.tokens.issue(&grant(), now).expect("issues");
        let bearer = format!("Bearer {token}");
        let user = |headers: &[(&'static str, &str)]| {
            ask(&all, None, headers).map(|user| user.name).unwrap_or_else(|err| format!("!{err}"))
        };
        assert_eq!(user(&[("authorization", &bearer)]), "system:serviceaccount:a:robot");
        assert_eq!(user(&[("authorization", "Bearer static")]), "carol");
        assert_eq!(user(&[("authorization", "Bearer bogus")]), "!invalid bearer token");
        assert_eq!(user(&[("authorization", "Basic bm9kZTpwdw==")]), "node");
        assert_eq!(user(&[("authorization", "Basic eDp5")]), "![]");
        assert_eq!(user(&[("x-remote-user", "eve")]), "![]");
        assert_eq!(user(&[]), "![]");
        all.anonymous = true;
        let user = |headers: &[(&'static str, &str)]| ask(&all, None, headers).map(|u| u.name);
        assert_eq!(user(&[]), Ok("system:anonymous".to_owned()));
        assert!(user(&[("authorization", "Bearer bogus")]).is_err());
        assert!(user(&[("authorization", "Basic eDp5")]).is_err());
    }

    #[test]
    fn the_front_proxy_speaks_for_others() {
        let all = authenticator();
        let headers = [
            ("x-remote-user", "eve"),
            ("x-remote-group", "g1"),
            ("x-remote-group", "g2"),
            ("x-remote-extra-scope%2fx", "s"),
        ];
        let eve = ask(&all, Some("front"), &headers).expect("eve");
        assert_eq!(eve.name, "eve");
        assert_eq!(eve.groups, ["g1", "g2", "system:authenticated"]);
        assert_eq!(eve.extra["scope/x"], ["s"]);
        assert!(ask(&all, Some("other"), &headers).is_err());
    }
}
