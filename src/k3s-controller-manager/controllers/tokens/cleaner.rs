//! Tokens that older clusters made unasked: one that nobody has used for long is marked first,
//! which refuses it, and deleted after as long again.
//!
//! Invariant: a token that somebody made for themselves, or that a pod mounts, is never touched.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use client::{Key, Patch, Preconditions, Propagation, is_conflict, is_not_found};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::{Value, json};

use super::TokenSecret;
use crate::{
    Cx, Running,
    caches::{CONFIG_MAPS, PODS, SECRETS},
    types::core::ServiceAccount,
};

const NAME: &str = "legacy-serviceaccount-token-cleaner-controller";
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the API server says since when it notes the use of tokens.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

pub(crate) fn start_cleaning(cx: &Cx) -> Running {
    let cx = cx.clone();
    Box::pin(async move {
        loop {
            if let Err(err) = clean(&cx, client::now()).await {
                let err = format!("{err:#}");
                tracing::warn!(
                    controller = NAME,
                    err,
                    "Unused tokens were not judged, retrying tomorrow"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = cx.stop.cancelled() => return,
            }
        }
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    Mark,
    Delete,
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// The first moment that may count as unused for long, when use has been noted for long enough.
fn horizon(since: &str, now: Timestamp, period: Duration) -> Option<Timestamp> {
    let since: Date = since.parse().ok()?;
    let noted = since.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let horizon = now.checked_sub(period).ok()?;
    (noted <= horizon).then_some(horizon)
}

fn plan(
    secret: &TokenSecret,
    account: Option<&ServiceAccount>,
    mounted: &dyn Fn(&str) -> bool,
    horizon: Timestamp,
) -> Step {
    let meta = &secret.metadata;
    if meta.is_deleting() || meta.created() >= horizon {
        return Step::Keep;
    }
    if let Some(used) = meta.labels.get(LAST_USED)
        && used.parse::<Date>().map_or(true, |used| used >= day(horizon))
    {
        return Step::Keep;
    }
    let unasked =
        account.is_some_and(|account| secret.is_for(account) && account.names(&meta.name));
    if !unasked || mounted(&meta.name) {
        return Step::Keep;
    }
    match meta.labels.get(INVALID_SINCE).map(|since| since.parse::<Date>()) {
        Some(Ok(since)) if since < day(horizon) => Step::Delete,
        Some(Ok(_)) => Step::Keep,
        _ => Step::Mark,
    }
}

async fn clean(cx: &Cx, now: Timestamp) -> Result<()> {
    let secrets = cx.caches.token_secrets.lister();
    if secrets.is_empty() {
        return Ok(());
    }
    let tracking = Key::new("kube-system", TRACKING);
    let map: Value = cx
        .rest
        .get(&CONFIG_MAPS, &tracking)
        .await
        .with_context(|| format!("reading configmap {tracking}"))?;
    let since = map["data"]["since"].as_str().unwrap_or_default();
    let period = cx.args.legacy_service_account_token_clean_up_period;
    let Some(horizon) = horizon(since, now, period) else { return Ok(()) };
    for secret in secrets.list() {
        let key = secret.metadata.key();
        let account = Key::new(&key.namespace, secret.account());
        let account = cx.caches.service_accounts.lister().get(&account);
        // Who mounts what is asked only where it would decide.
        if plan(&secret, account.as_deref(), &|_| false, horizon) == Step::Keep {
            continue;
        }
        let mounted = mounted(cx, &key.namespace).await?;
        let step = plan(&secret, account.as_deref(), &|name| mounted.contains(name), horizon);
        perform(cx, &key, &secret, step, now).await?;
    }
    Ok(())
}

async fn perform(
    cx: &Cx,
    key: &Key,
    secret: &TokenSecret,
    step: Step,
    now: Timestamp,
) -> Result<()> {
    let meta = &secret.metadata;
    let done = match step {
        Step::Keep => return Ok(()),
        Step::Mark => {
            let labels = json!({INVALID_SINCE: day(now).to_string()});
            let body = json!({"metadata": {"uid": meta.uid, "labels": labels}});
            let marked = cx.rest.patch(&SECRETS, key, "", Patch::Merge, &body).await;
            marked.map(|secret| cx.caches.token_secrets.observe(secret))
        }
        Step::Delete => {
            let when = Preconditions { uid: &meta.uid, resource_version: &meta.resource_version };
            cx.rest.delete(&SECRETS, key, Propagation::Background, when).await
        }
    };
    match done {
        Ok(()) => {
            tracing::info!(object = %key, step = ?step, "Unused token of a service account was judged");
            Ok(())
        }
        Err(err) if is_not_found(&err) || is_conflict(&err) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("judging secret {key}")),
    }
}

/// The Secrets that pods of a namespace name, wherever they do.
async fn mounted(cx: &Cx, namespace: &str) -> Result<BTreeSet<String>> {
    let pods: client::List<Value> = cx
        .rest
        .list(&PODS, namespace, &[])
        .await
        .with_context(|| format!("listing pods of {namespace}"))?;
    let mut names = BTreeSet::new();
    pods.items.iter().for_each(|pod| collect(&pod["spec"], &mut names));
    Ok(names)
}

fn collect(value: &Value, names: &mut BTreeSet<String>) {
    let mut take = |name: &Value| names.extend(name.as_str().map(str::to_owned));
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                match field.as_str() {
                    "secretName" => take(value),
                    "secretRef" | "secretKeyRef" | "secret" => take(&value["name"]),
                    field if field.ends_with("SecretRef") => take(&value["name"]),
                    "imagePullSecrets" => {
                        value.as_array().into_iter().flatten().for_each(|it| take(&it["name"]));
                    }
                    _ => {}
                }
            }
            fields.values().for_each(|value| collect(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_unused_before_use_was_noted_for_long() {
        let now = at("2031-06-01T12:00:00Z");
        let check = |since: &str, want: bool| {
            assert_eq!(horizon(since, now, YEAR).is_some(), want, "{since}");
        };
        check("2030-05-30", true);
        check("2030-06-01", false);
        check("soon", false);
    }

    #[test]
    fn unused_tokens_are_marked_and_then_deleted() {
        let horizon = at("2030-06-01T12:00:00Z");
        let account: ServiceAccount = serde_json::from_value(json!({
            "metadata": {"name": "robot", "uid": "u"}, "secrets": [{"name": "s"}, {"name": "m"}],
        }))
        .unwrap();
        let check = |name: &str, created: &str, labels: Value, want| {
            let secret: TokenSecret = serde_json::from_value(json!({"metadata": {
                "name": name, "creationTimestamp": created, "labels": labels,
                "annotations": {super::super::ACCOUNT_NAME: "robot"},
            }}))
            .unwrap();
            let mounted = |name: &str| name == "m";
            assert_eq!(plan(&secret, Some(&account), &mounted, horizon), want, "{labels}");
            assert_eq!(plan(&secret, None, &mounted, horizon), Step::Keep);
        };
        let old = "2029-01-01T00:00:00Z";
        check("s", old, json!({}), Step::Mark);
        check("m", old, json!({}), Step::Keep);
        check("own", old, json!({}), Step::Keep);
        check("s", "2030-12-01T00:00:00Z", json!({}), Step::Keep);
        check("s", old, json!({LAST_USED: "2030-06-01"}), Step::Keep);
        check("s", old, json!({LAST_USED: "never"}), Step::Keep);
        check("s", old, json!({LAST_USED: "2030-05-01"}), Step::Mark);
        check("s", old, json!({INVALID_SINCE: "2030-05-01"}), Step::Delete);
        check("s", old, json!({INVALID_SINCE: "2030-06-02"}), Step::Keep);
        check("s", old, json!({INVALID_SINCE: "x"}), Step::Mark);
    }

    #[test]
    fn what_pods_name_is_found_everywhere() {
        let mut names = BTreeSet::new();
        let pod = json!({
            "imagePullSecrets": [{"name": "a"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "c"}}]}],
            "volumes": [{"secret": {"secretName": "d"}},
                {"projected": {"sources": [{"secret": {"name": "e"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "f"}}}],
        });
        collect(&pod, &mut names);
        assert_eq!(names.into_iter().collect::<String>(), "abcdef");
    }
}
