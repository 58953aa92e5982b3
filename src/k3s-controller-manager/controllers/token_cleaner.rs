//! Bootstrap tokens whose time is over are deleted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use client::{
    Action, Event, HasMeta, Key, Labels, Meta, Preconditions, Propagation, WorkQueue, is_conflict,
    is_not_found, null_default,
};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{Cx, Running, caches::SECRETS, workers};

const NAME: &str = "token-cleaner-controller";

/// A Secret of type `bootstrap.kubernetes.io/token`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BootstrapToken {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub data: Labels,
}

impl HasMeta for BootstrapToken {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.bootstrap_tokens.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            filled.add(event.object().metadata.key());
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// How long the token lasts; `None` for ever. One that says nothing sensible is over.
fn left(token: &BootstrapToken, now: Timestamp) -> Option<Duration> {
    let text = token.data.get("expiration")?;
    let bytes = BASE64.decode(text).unwrap_or_default();
    let until = std::str::from_utf8(&bytes).ok().and_then(|it| it.parse::<Timestamp>().ok());
    let left = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
    Some(left.unwrap_or_default())
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(token) = cx.caches.bootstrap_tokens.lister().get(key) else {
        return Ok(Action::Done);
    };
    match left(&token, client::now()) {
        None => return Ok(Action::Done),
        Some(left) if !left.is_zero() => return Ok(Action::RequeueAfter(left)),
        Some(_) => {}
    }
    let meta = &token.metadata;
    let when = Preconditions { uid: &meta.uid, resource_version: &meta.resource_version };
    match cx.rest.delete(&SECRETS, key, Propagation::Background, when).await {
        Ok(()) => {}
        Err(err) if is_not_found(&err) || is_conflict(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("deleting bootstrap token {key}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_last_until_they_say() {
        let check = |expiration: Option<&str>, want: Option<u64>| {
            let mut token = BootstrapToken::default();
            token.data.extend(expiration.map(|it| ("expiration".into(), BASE64.encode(it))));
            let found = left(&token, "2030-01-01T00:00:00Z".parse().unwrap());
            assert_eq!(found.map(|it| it.as_secs()), want, "{expiration:?}");
        };
        check(None, None);
        check(Some("2030-01-01T00:01:00Z"), Some(60));
        check(Some("2029-12-31T23:59:00Z"), Some(0));
        check(Some("soon"), Some(0));
    }
}
