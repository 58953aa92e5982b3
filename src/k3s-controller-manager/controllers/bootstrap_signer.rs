//! The ConfigMap `kube-public/cluster-info` is signed with every bootstrap token that may sign, so
//! that a machine that joins can trust what it reads without credentials.
//!
//! Invariant: only keys of signatures are written, and only when they differ.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD},
};
use client::{Action, Key, WorkQueue, is_conflict, is_not_found};
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use super::BootstrapToken;
use crate::{Cx, Running, caches::CONFIG_MAPS, workers};

const NAME: &str = "bootstrap-signer-controller";
const PREFIX: &str = "jws-kubeconfig-";
const SECRET_PREFIX: &str = "bootstrap-token-";

type Signatures = BTreeMap<String, String>;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let only = || Key::new("kube-public", "cluster-info");
    let filled = queue.clone();
    cx.caches.cluster_info.on_event(move |_| filled.add(only()));
    let filled = queue.clone();
    cx.caches.bootstrap_tokens.on_event(move |_| filled.add(only()));
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// What the ConfigMap must hold beside its own data; `None` when it has nothing to sign.
fn plan(
    data: &BTreeMap<String, String>,
    tokens: &[Arc<BootstrapToken>],
    now: Timestamp,
) -> Option<Signatures> {
    let content = data.get("kubeconfig")?;
    let signed = tokens.iter().filter_map(|token| {
        let (id, secret) = signing_token(token, now)?;
        Some((format!("{PREFIX}{id}"), sign(content, &id, &secret)))
    });
    Some(signed.collect())
}

/// Id and secret of a token that may sign now.
fn signing_token(token: &BootstrapToken, now: Timestamp) -> Option<(String, String)> {
    let text = |name: &str| {
        let bytes = BASE64.decode(token.data.get(name)?).ok()?;
        String::from_utf8(bytes).ok().filter(|it| !it.is_empty())
    };
    let (id, secret) = (text("token-id")?, text("token-secret")?);
    let named = token.metadata.name.strip_prefix(SECRET_PREFIX) == Some(&id);
    let alive = !token.metadata.is_deleting()
        && text("expiration").is_none_or(|it| it.parse::<Timestamp>().is_ok_and(|at| at > now));
    let signs = text("usage-bootstrap-signing").as_deref() == Some("true");
    (named && alive && signs).then_some((id, secret))
}

/// A detached JSON web signature (HS256).
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(info) = cx.caches.cluster_info.lister().get(key) else { return Ok(Action::Done) };
    let tokens = cx.caches.bootstrap_tokens.lister().list();
    let Some(wanted) = plan(&info.data, &tokens, client::now()) else { return Ok(Action::Done) };
    let have: Signatures = info
        .data
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if have == wanted {
        return Ok(Action::Done);
    }
    let mut live: Value = match cx.rest.get(&CONFIG_MAPS, key).await {
        Ok(live) => live,
        Err(err) if is_not_found(&err) => return Ok(Action::Done),
        Err(err) => return Err(err).with_context(|| format!("reading {key}")),
    };
    if let Some(data) = live["data"].as_object_mut() {
        data.retain(|name, _| !name.starts_with(PREFIX));
        data.extend(wanted.into_iter().map(|(name, value)| (name, json!(value))));
    }
    match cx.rest.update(&CONFIG_MAPS, key, "", &live).await {
        Ok(updated) => cx.caches.cluster_info.observe(updated),
        Err(err) if is_not_found(&err) || is_conflict(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("signing {key}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, pairs: &[(&str, &str)]) -> Arc<BootstrapToken> {
        let data: BTreeMap<&str, String> =
            pairs.iter().map(|(name, value)| (*name, BASE64.encode(value))).collect();
        let value = json!({"metadata": {"name": name}, "data": data});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn signatures_are_detached_json_web_signatures() {
        assert_eq!(
            sign("payload", "joshua", "my voice is my passcode"),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..eeKgyWv81WPZulH43SX4JufLpaCPIm3jTW6HgVd3UZ4"
        );
    }

    #[test]
    fn tokens_that_may_sign_do() {
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        let data = BTreeMap::from([("kubeconfig".to_owned(), "x".to_owned())]);
        let check = |name: &str, extra: (&str, &str), want: bool| {
            let basic = [("token-id", "abcdef"), ("token-secret", "s")];
            let pairs = [basic[0], basic[1], ("usage-bootstrap-signing", "true"), extra];
            let found = plan(&data, &[token(name, &pairs)], now).unwrap();
            assert_eq!(found.contains_key("jws-kubeconfig-abcdef"), want, "{name} {extra:?}");
        };
        check("bootstrap-token-abcdef", ("x", "y"), true);
        check("bootstrap-token-other", ("x", "y"), false);
        check("bootstrap-token-abcdef", ("usage-bootstrap-signing", "false"), false);
        check("bootstrap-token-abcdef", ("expiration", "2029-01-01T00:00:00Z"), false);
        check("bootstrap-token-abcdef", ("expiration", "2031-01-01T00:00:00Z"), true);
        assert!(plan(&BTreeMap::new(), &[], now).is_none());
    }
}
