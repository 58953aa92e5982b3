//! Secrets of type `kubernetes.io/service-account-token`: whoever makes one gets the token of the
//! account that it names, for as long as both are there.
//!
//! Invariant: a token in a Secret is never replaced; only what is missing is filled in.

mod cleaner;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use client::{
    Action, Event, HasMeta, Key, Labels, Lister, Meta, Patch, Preconditions, Propagation,
    WorkQueue, is_conflict, is_not_found, null_default,
};
use pki::{Live, jwt::SigningKey};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use self::cleaner::start_cleaning;
use super::root_ca;
use crate::{
    Cx, Running,
    caches::{SECRETS, SERVICE_ACCOUNTS},
    types::core::ServiceAccount,
    workers,
};

const NAME: &str = "serviceaccount-token-controller";
const WORKERS: usize = 4;
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// A Secret that holds a ServiceAccount's token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenSecret {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub data: Labels,
}

impl HasMeta for TokenSecret {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl TokenSecret {
    fn account(&self) -> &str {
        self.metadata.annotation(ACCOUNT_NAME).unwrap_or_default()
    }

    /// Whether it is for exactly this account, not for one of that name that was there before.
    fn is_for(&self, account: &ServiceAccount) -> bool {
        let uid = self.metadata.annotation(ACCOUNT_UID).unwrap_or_default();
        self.account() == account.metadata.name && (uid.is_empty() || uid == account.metadata.uid)
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    let Some(signer) = signer(cx) else { return Box::pin(async {}) };
    let bundle = root_ca::bundle(cx);
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.token_secrets.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, secrets) = (queue.clone(), cx.caches.token_secrets.lister());
    cx.caches.service_accounts.on_event(move |event| {
        // A token waits for its account, and goes with it.
        if matches!(event, Event::Updated { .. }) || secrets.is_empty() {
            return;
        }
        let account = event.object();
        for secret in secrets.namespaced(&account.metadata.namespace) {
            if secret.account() == account.metadata.name {
                filled.add(secret.metadata.key());
            }
        }
    });
    let shared = Arc::new(Shared {
        cx: cx.clone(),
        signer,
        ca: bundle.as_ref().map(|(_, live)| Arc::clone(live)),
    });
    let work = workers(cx, NAME, WORKERS, &queue, move |key| {
        let shared = Arc::clone(&shared);
        async move { reconcile(&shared, &key).await }
    });
    let references = forget_references(cx);
    let secrets = cx.caches.token_secrets.lister();
    Box::pin(async move {
        let all = || secrets.list().iter().for_each(|it| queue.add(it.metadata.key()));
        tokio::select! {
            () = work => {}
            () = references => {}
            () = follow(bundle.as_ref().map(|(path, _)| path.as_path()), all) => {}
        }
    })
}

async fn follow(path: Option<&Path>, changed: impl Fn()) {
    match path {
        Some(path) => root_ca::follow(path, changed).await,
        None => std::future::pending().await,
    }
}

fn signer(cx: &Cx) -> Option<Live<SigningKey>> {
    let path: PathBuf = cx.args.service_account_private_key_file.clone()?;
    let file = path.clone();
    match Live::new(vec![path.clone()], move || SigningKey::load(&file)) {
        Ok(signer) => Some(signer),
        Err(err) => {
            let (path, err) = (path.display(), format!("{err:#}"));
            tracing::error!(%path, err, "Service account key was not read, making no tokens for Secrets");
            None
        }
    }
}

struct Shared {
    cx: Cx,
    signer: Live<SigningKey>,
    ca: Option<Arc<Live<String>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// The account is not there, or is another one by now.
    Delete,
    Fill(Fill),
}

/// What a Secret lacks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fill {
    token: bool,
    namespace: bool,
    ca: bool,
}

fn plan(secret: &TokenSecret, account: Option<&ServiceAccount>, ca: Option<&str>) -> Step {
    if secret.metadata.is_deleting() {
        return Step::Nothing;
    }
    if !account.is_some_and(|account| secret.is_for(account)) {
        return Step::Delete;
    }
    let lacks = |key: &str| secret.data.get(key).is_none_or(String::is_empty);
    let fill = Fill {
        token: lacks("token"),
        namespace: lacks("namespace"),
        ca: ca.is_some_and(|ca| secret.data.get("ca.crt") != Some(&BASE64.encode(ca))),
    };
    if fill == Fill::default() { Step::Nothing } else { Step::Fill(fill) }
}

async fn reconcile(shared: &Shared, key: &Key) -> Result<Action> {
    let cx = &shared.cx;
    let Some(secret) = cx.caches.token_secrets.lister().get(key) else { return Ok(Action::Done) };
    let ca = shared.ca.as_ref().map(|ca| ca.get());
    let ca = ca.as_deref().map(String::as_str);
    let at = Key::new(&key.namespace, secret.account());
    let mut account = cx.caches.service_accounts.lister().get(&at);
    if plan(&secret, account.as_deref(), ca) == Step::Delete {
        // The cache may lag: a deletion is decided on what the server says.
        account = match cx.rest.get::<ServiceAccount>(&SERVICE_ACCOUNTS, &at).await {
            Ok(account) => Some(Arc::new(account)),
            Err(err) if is_not_found(&err) => None,
            Err(err) => return Err(err).with_context(|| format!("reading service account {at}")),
        };
    }
    let meta = &secret.metadata;
    match (plan(&secret, account.as_deref(), ca), account) {
        (Step::Fill(fill), Some(account)) => {
            let body = body(shared, &secret, &account.metadata, &fill, ca)?;
            match cx.rest.patch(&SECRETS, key, "", Patch::Merge, &body).await {
                Ok(secret) => cx.caches.token_secrets.observe(secret),
                Err(err) if is_not_found(&err) => {}
                Err(err) => return Err(err).with_context(|| format!("filling secret {key}")),
            }
        }
        (Step::Delete, _) => {
            let when = Preconditions { uid: &meta.uid, ..Preconditions::default() };
            match cx.rest.delete(&SECRETS, key, Propagation::Background, when).await {
                Ok(()) => cx.caches.token_secrets.observe_deleted(key, &meta.uid),
                Err(err) if is_not_found(&err) || is_conflict(&err) => {}
                Err(err) => return Err(err).with_context(|| format!("deleting secret {key}")),
            }
        }
        _ => {}
    }
    Ok(Action::Done)
}

fn body(
    shared: &Shared,
    secret: &TokenSecret,
    account: &Meta,
    fill: &Fill,
    ca: Option<&str>,
) -> Result<Value> {
    let mut data = json!({});
    if fill.token {
        let claims = claims(&secret.metadata, account);
        let token = shared.signer.get().sign(&claims).context("signing a token")?;
        data["token"] = json!(BASE64.encode(token));
    }
    if fill.namespace {
        data["namespace"] = json!(BASE64.encode(&secret.metadata.namespace));
    }
    if fill.ca {
        data["ca.crt"] = json!(ca.map(|ca| BASE64.encode(ca)));
    }
    Ok(json!({
        "metadata": {
            "resourceVersion": secret.metadata.resource_version,
            "annotations": {ACCOUNT_NAME: account.name, ACCOUNT_UID: account.uid},
        },
        "data": data,
    }))
}

/// What the token says; it is good for as long as the Secret holds it.
fn claims(secret: &Meta, account: &Meta) -> Value {
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": account.namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name,
        "kubernetes.io/serviceaccount/service-account.name": account.name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid,
        "sub": format!("system:serviceaccount:{}:{}", account.namespace, account.name),
    })
}

/// An account that names a token's Secret stops naming it when that is gone.
fn forget_references(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.token_secrets.on_event(move |event| {
        if let Event::Deleted(secret) = event {
            filled
                .add(Reference { secret: secret.metadata.key(), account: secret.account().into() });
        }
    });
    let shared = Arc::new(cx.clone());
    let stop = cx.stop.clone();
    Box::pin(client::run_workers(NAME, queue, 1, stop, move |reference| {
        let cx = Arc::clone(&shared);
        async move { forget(&cx, &reference).await }
    }))
}

/// A Secret that is gone, and the account that it was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Reference {
    secret: Key,
    account: String,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.secret.fmt(f)
    }
}

/// Whether the account names a Secret that is not there.
fn dangles(account: &ServiceAccount, secrets: &Lister<TokenSecret>, secret: &Key) -> bool {
    account.names(&secret.name) && secrets.get(secret).is_none()
}

async fn forget(cx: &Cx, reference: &Reference) -> Result<Action> {
    let at = Key::new(&reference.secret.namespace, &reference.account);
    let secrets = cx.caches.token_secrets.lister();
    let known = cx.caches.service_accounts.lister().get(&at);
    if !known.is_some_and(|account| dangles(&account, &secrets, &reference.secret)) {
        return Ok(Action::Done);
    }
    let live: Value = match cx.rest.get(&SERVICE_ACCOUNTS, &at).await {
        Ok(live) => live,
        Err(err) if is_not_found(&err) => return Ok(Action::Done),
        Err(err) => return Err(err).with_context(|| format!("reading service account {at}")),
    };
    let mut left = live["secrets"].as_array().cloned().unwrap_or_default();
    left.retain(|it| it["name"] != reference.secret.name);
    let version = &live["metadata"]["resourceVersion"];
    let body = json!({"metadata": {"resourceVersion": version}, "secrets": left});
    match cx.rest.patch(&SERVICE_ACCOUNTS, &at, "", Patch::Merge, &body).await {
        Ok(account) => cx.caches.service_accounts.observe(account),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating service account {at}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(annotations: Value, data: Value) -> TokenSecret {
        let metadata = json!({"namespace": "n", "name": "s", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
    }

    fn account() -> ServiceAccount {
        let metadata = json!({"namespace": "n", "name": "robot", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "secrets": [{"name": "s"}]})).unwrap()
    }

    #[test]
    fn secrets_are_filled_and_go_with_their_account() {
        let robot = account();
        let all = Fill { token: true, namespace: true, ca: true };
        let check = |annotations: Value, data: Value, account, want| {
            let secret = secret(annotations.clone(), data);
            assert_eq!(plan(&secret, account, Some("CA")), want, "{annotations}");
        };
        let named = || json!({ACCOUNT_NAME: "robot"});
        let bound = |uid: &str| json!({ACCOUNT_NAME: "robot", ACCOUNT_UID: uid});
        let full = json!({"token": "dA==", "namespace": "bg==", "ca.crt": BASE64.encode("CA")});
        check(named(), json!({}), Some(&robot), Step::Fill(all));
        check(bound("u"), full.clone(), Some(&robot), Step::Nothing);
        check(bound("old"), full.clone(), Some(&robot), Step::Delete);
        check(named(), full.clone(), None, Step::Delete);
        let mut stale = full;
        stale["ca.crt"] = json!(BASE64.encode("old"));
        let ca = Fill { ca: true, ..Fill::default() };
        check(bound("u"), stale, Some(&robot), Step::Fill(ca));
    }

    #[test]
    fn an_account_forgets_what_is_gone() {
        let key = Key::new("n", "s");
        let here = Lister::of(vec![secret(json!({}), json!({}))]);
        assert!(!dangles(&account(), &here, &key));
        assert!(dangles(&account(), &Lister::of(vec![]), &key));
    }
}
