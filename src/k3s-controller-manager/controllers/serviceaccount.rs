//! Every active namespace has the ServiceAccount `default`.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{
    Action, Event, Key, WorkQueue, is_already_exists, is_namespace_terminating, is_not_found,
};
use serde_json::json;

use crate::{
    Cx, Running,
    caches::SERVICE_ACCOUNTS,
    types::core::{Namespace, ServiceAccount},
    workers,
};

const NAME: &str = "serviceaccount-controller";
const WORKERS: usize = 4;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.namespaces.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.service_accounts.on_event(move |event| {
        if let Event::Deleted(account) = event
            && account.metadata.name == "default"
        {
            filled.add(Key::cluster(account.metadata.namespace.clone()));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// Whether an account must be made.
fn plan(namespace: &Namespace, account: Option<&ServiceAccount>) -> bool {
    namespace.status.phase != "Terminating"
        && !namespace.metadata.is_deleting()
        && account.is_none()
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(namespace) = cx.caches.namespaces.lister().get(key) else { return Ok(Action::Done) };
    let account = cx.caches.service_accounts.lister().get(&Key::new(&key.name, "default"));
    if !plan(&namespace, account.as_deref()) {
        return Ok(Action::Done);
    }
    let body = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": key.name},
    });
    match cx.rest.create::<ServiceAccount>(&SERVICE_ACCOUNTS, &key.name, &body).await {
        Ok(account) => cx.caches.service_accounts.observe(account),
        Err(err) if is_already_exists(&err) || is_not_found(&err) => {}
        Err(err) if is_namespace_terminating(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("creating {key}/default")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_active_namespaces_without_an_account_get_one() {
        let mut namespace = Namespace::default();
        assert!(plan(&namespace, None));
        assert!(!plan(&namespace, Some(&ServiceAccount::default())));
        namespace.status.phase = "Terminating".into();
        assert!(!plan(&namespace, None));
    }
}
