//! Claiming: a controller adopts what its selector matches and nobody controls, and releases what
//! it controls but no longer selects. Decided purely, performed with uid preconditions.

use std::{future::Future, sync::Arc};

use anyhow::{Context, Result};
use client::{
    HasMeta, Key, Meta, OwnerReference, Patch, Reflector, Resource, is_invalid, is_not_found,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{Cx, types::Selector};

/// What claiming one object comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// Decides about one object.
pub(crate) fn claim(owner: &Meta, selected: bool, object: &Meta) -> Claim {
    match object.controller() {
        Some(controller) if controller.uid != owner.uid => Claim::Ignore,
        Some(_) if selected => Claim::Keep,
        Some(_) if owner.is_deleting() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.is_deleting() || !selected || object.is_deleting() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The controller reference of an owner.
pub(crate) fn controller_ref(resource: &Resource, owner: &Meta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Performs the claims on candidates and returns what the owner has afterwards.
pub(crate) async fn claim_all<T>(
    cx: &Cx,
    owner: (&Resource, &Meta),
    selector: &Selector,
    cache: &Reflector<T>,
    candidates: Vec<Arc<T>>,
) -> Result<Vec<Arc<T>>>
where
    T: HasMeta + DeserializeOwned + Send + Sync + 'static,
{
    let (resource, owner) = owner;
    let mut claimed = Vec::with_capacity(candidates.len());
    let mut verified = false;
    for object in candidates {
        let meta = object.meta();
        match claim(owner, selector.matches(&meta.labels), meta) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if !verified {
                    if !still_there(cx, resource, owner).await? {
                        continue;
                    }
                    verified = true;
                }
                let reference = controller_ref(resource, owner);
                let body = json!({"metadata": {"uid": meta.uid, "ownerReferences": [reference]}});
                if let Some(adopted) = patched(cx, cache, &meta.key(), &body).await? {
                    claimed.push(adopted);
                }
            }
            Claim::Release => {
                let gone = json!([{"$patch": "delete", "uid": owner.uid}]);
                let body = json!({"metadata": {"uid": meta.uid, "ownerReferences": gone}});
                patched(cx, cache, &meta.key(), &body).await?;
            }
        }
    }
    Ok(claimed)
}

/// Before adopting: the owner must still be there under the same uid, read past the cache.
fn still_there(
    cx: &Cx,
    resource: &Resource,
    owner: &Meta,
) -> impl Future<Output = Result<bool>> + Send {
    let rest = cx.rest.clone();
    let (resource, key, uid) = (resource.clone(), owner.key(), owner.uid.clone());
    async move {
        match rest.get::<client::PartialObject>(&resource, &key).await {
            Ok(live) => Ok(live.metadata.uid == uid && !live.metadata.is_deleting()),
            Err(err) if is_not_found(&err) => Ok(false),
            Err(err) => Err(err).with_context(|| format!("reading {} {key}", resource.kind)),
        }
    }
}

async fn patched<T>(
    cx: &Cx,
    cache: &Reflector<T>,
    key: &Key,
    body: &serde_json::Value,
) -> Result<Option<Arc<T>>>
where
    T: HasMeta + DeserializeOwned + Send + Sync + 'static,
{
    let answer = cx.rest.patch::<T>(cache.resource(), key, "", Patch::Strategic, body).await;
    match answer {
        Ok(object) => {
            let key = object.meta().key();
            cache.observe(object);
            Ok(cache.lister().get(&key))
        }
        // Deleted, or another object of the same name by now.
        Err(err) if is_not_found(&err) || is_invalid(&err) || client::is_conflict(&err) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("claiming {key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, controller: Option<&str>, deleting: bool) -> Meta {
        let owner = controller.map(|uid| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        Meta {
            uid: uid.into(),
            owner_references: owner.into_iter().collect(),
            deletion_timestamp: deleting.then_some(client::Time(jiff::Timestamp::UNIX_EPOCH)),
            ..Meta::default()
        }
    }

    #[test]
    fn claims_follow_selector_controller_and_deletion() {
        let check = |owner_deleting, selected, controller, deleting, want| {
            let owner = meta("o", None, owner_deleting);
            let object = meta("x", controller, deleting);
            assert_eq!(claim(&owner, selected, &object), want);
        };
        check(false, true, Some("o"), false, Claim::Keep);
        check(false, false, Some("o"), false, Claim::Release);
        check(true, false, Some("o"), false, Claim::Ignore);
        check(false, true, Some("p"), false, Claim::Ignore);
        check(false, true, None, false, Claim::Adopt);
        check(false, true, None, true, Claim::Ignore);
        check(true, true, None, false, Claim::Ignore);
        check(false, false, None, false, Claim::Ignore);
    }
}
