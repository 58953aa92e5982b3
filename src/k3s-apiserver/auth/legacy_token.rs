//! Service account tokens that Secrets hold: they have no end, but are good only while the Secret
//! holds exactly that token and its account is the same.
//!
//! Their use is noted, a day at most once, in a label of the Secret, by which unused ones are found.
//! Invariant: checking a token waits for no write; the label is written by `track`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Span, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::objects::{Objects, text};
use super::service_account::account_user;
use crate::api_server::ApiServer;
use crate::storage::entry::{Entry, encode};
use crate::storage::keys::object_key;
use crate::storage::write::Change;
use crate::user::UserInfo;

/// The issuer that such tokens name.
pub const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const INVALID: &str = "service account token has been invalidated";

/// Secrets whose tokens were used and whose labels do not say so yet.
#[derive(Debug, Default)]
pub struct Used {
    secrets: Mutex<BTreeSet<(String, String)>>,
    more: Notify,
}

impl Used {
    fn note(&self, namespace: &str, name: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.insert((namespace.to_owned(), name.to_owned())) {
            self.more.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<(String, String)> {
        std::mem::take(&mut self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who a token with a good signature and these claims is.
pub(super) fn check(
    objects: &dyn Objects,
    token: &str,
    claims: &Value,
    now: Timestamp,
    used: &Used,
) -> Result<UserInfo, String> {
    let claim = |name: &str| {
        let found = text(claims, &[&format!("kubernetes.io/serviceaccount/{name}")]);
        if found.is_empty() { Err(format!("{name} claim is missing")) } else { Ok(found) }
    };
    let (namespace, secret) = (claim("namespace")?, claim("secret.name")?);
    let (account, uid) = (claim("service-account.name")?, claim("service-account.uid")?);
    if text(claims, &["sub"]) != format!("system:serviceaccount:{namespace}:{account}") {
        return Err("sub claim is invalid".to_owned());
    }
    let holder = objects.get("secrets", namespace, secret).ok_or(INVALID)?;
    let object = holder.object();
    if !text(&object, &["metadata", "deletionTimestamp"]).is_empty() {
        return Err(INVALID.to_owned());
    }
    let held = STANDARD.decode(text(&object, &["data", "token"])).unwrap_or_default();
    if held != token.as_bytes() {
        return Err("service account token does not match server's copy".to_owned());
    }
    let entry = objects
        .get("serviceaccounts", namespace, account)
        .ok_or_else(|| format!("serviceaccounts {account:?} not found"))?;
    if !text(&entry.object(), &["metadata", "deletionTimestamp"]).is_empty() {
        return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    if *entry.uid != *uid {
        return Err(format!("ServiceAccount UID ({}) does not match claim ({uid})", entry.uid));
    }
    if !says_used(&holder, now) {
        used.note(namespace, secret);
    }
    if holder.label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        return Err(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} \
             has been marked invalid. Use tokens from the TokenRequest API or manually created \
             secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to \
             temporarily allow use of this token"
        ));
    }
    let mut user = account_user(namespace, account);
    uid.clone_into(&mut user.uid);
    Ok(user)
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// Whether the label says today; or tomorrow, as a server whose clock is ahead writes.
fn says_used(secret: &Entry, now: Timestamp) -> bool {
    let tomorrow = now.checked_add(Span::new().hours(24)).unwrap_or(now);
    secret.label(LAST_USED).is_some_and(|used| used == day(now) || used == day(tomorrow))
}

/// Writes the labels of Secrets whose tokens were used, until `stop`.
pub async fn track(server: Arc<ApiServer>, stop: CancellationToken) {
    let used = &server.auth.authenticator.tokens.used;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = used.more.notified() => {}
        }
        for (namespace, name) in used.take() {
            label(&server, &namespace, &name).await;
        }
    }
}

async fn label(server: &ApiServer, namespace: &str, name: &str) {
    let Some(store) = server.storage.store("secrets") else { return };
    let key = object_key(namespace, name);
    let Some(entry) = store.get(&key).filter(|entry| !says_used(entry, server.now())) else {
        return;
    };
    let mut object = entry.object();
    object["metadata"]["labels"][LAST_USED] = json!(day(server.now()));
    let change = Change::Put { value: encode(&object).into(), lease: 0 };
    let path = format!("{}{key}", store.prefix);
    // Whoever wrote the Secret meanwhile is not overwritten: the next use notes it again.
    if let Err(err) = server.storage.write(&path, entry.revision, change).await {
        warn!(namespace, name, err = %err.message, "Could not note that a token was used, its next use will");
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::*;

    fn now() -> Timestamp {
        "2030-01-01T12:00:00Z".parse().expect("a time")
    }

    fn objects(labels: &Value, token: &str) -> Fake {
        let secret = json!({
            "metadata": {"name": "s", "namespace": "a", "uid": "u2", "labels": labels},
            "data": {"token": STANDARD.encode(token)},
        });
        let account = json!({"metadata": {"name": "robot", "namespace": "a", "uid": "u1"}});
        Fake::default().with("secrets", &secret).with("serviceaccounts", &account)
    }

    fn claims(uid: &str) -> Value {
        json!({
            "iss": ISSUER,
            "sub": "system:serviceaccount:a:robot",
            "kubernetes.io/serviceaccount/namespace": "a",
            "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "robot",
            "kubernetes.io/serviceaccount/service-account.uid": uid,
        })
    }

    #[test]
    fn a_token_is_good_while_its_secret_holds_it() {
        let check = |objects: Fake, claims: Value, want: &str, noted: usize| {
            let used = Used::default();
            let found = check(&objects, "TOKEN", &claims, now(), &used);
            let found = found.map_or_else(|why| why, |user| user.name);
            assert!(found.starts_with(want), "{found}");
            assert_eq!(used.take().len(), noted, "{found}");
        };
        let robot = "system:serviceaccount:a:robot";
        check(objects(&json!({}), "TOKEN"), claims("u1"), robot, 1);
        check(objects(&json!({LAST_USED: "2030-01-01"}), "TOKEN"), claims("u1"), robot, 0);
        check(objects(&json!({LAST_USED: "2030-01-02"}), "TOKEN"), claims("u1"), robot, 0);
        check(objects(&json!({LAST_USED: "2029-12-31"}), "TOKEN"), claims("u1"), robot, 1);
        let marked = json!({INVALID_SINCE: "2029-12-31"});
        check(objects(&marked, "TOKEN"), claims("u1"), "the token in secret a/s", 1);
        let copy = "service account token does not match server's copy";
        check(objects(&json!({}), "OTHER"), claims("u1"), copy, 0);
        let other = "ServiceAccount UID (u1) does not match claim (old)";
        check(objects(&json!({}), "TOKEN"), claims("old"), other, 0);
        check(Fake::default(), claims("u1"), INVALID, 0);
        let mut without = claims("u1");
        without["kubernetes.io/serviceaccount/secret.name"] = json!("");
        check(objects(&json!({}), "TOKEN"), without, "secret.name claim is missing", 0);
        let mut wrong = claims("u1");
        wrong["sub"] = json!("system:serviceaccount:b:robot");
        check(objects(&json!({}), "TOKEN"), wrong, "sub claim is invalid", 0);
    }
}
