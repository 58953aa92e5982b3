//! Who asks, and may they? Authentication, impersonation, authorisation, and the reviews about them.
//!
//! The decisions are free of IO: they read the watch caches through `Objects` and a snapshot of the
//! RBAC objects. This file joins them to requests. Invariant: a refusal is final only after the
//! caches have caught up with what was acknowledged.

pub mod attributes;
pub mod authenticator;
pub mod authorizer;
pub mod escalation;
pub mod impersonate;
pub mod legacy_token;
pub mod node;
pub mod objects;
pub mod rbac;
pub mod review;
pub mod service_account;
pub mod users;

use std::sync::Arc;

use anyhow::Context;
use apimachinery::status::{About, Status};
use arc_swap::ArcSwap;
use http::request::Parts;
use pki::Live;
use serde_json::Value;

use self::attributes::Attributes;
use self::authenticator::{Authenticator, Credentials, FrontProxy};
use self::authorizer::Authorizer;
use self::escalation::{Escalation, Guard};
use self::impersonate::Refused;
use self::service_account::{Keys, Tokens, seconds};
use self::users::UserFile;
use crate::api_server::ApiServer;
use crate::args::Args;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::request::{Query, RequestInfo};
use crate::server::Peer;
use crate::user::UserInfo;

/// All that it takes to know who asks and what they may do.
#[derive(Debug)]
pub struct Auth {
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
}

impl Auth {
    /// What the flags say.
    pub fn load(args: &Args) -> anyhow::Result<Self> {
        let users = |path: &Option<std::path::PathBuf>| {
            path.as_deref().map_or_else(|| Ok(UserFile::default()), UserFile::load)
        };
        let proxy = FrontProxy {
            allowed_names: args.requestheader_allowed_names.clone(),
            username_headers: args.requestheader_username_headers.clone(),
            group_headers: args.requestheader_group_headers.clone(),
            extra_prefixes: args.requestheader_extra_headers_prefix.clone(),
        };
        Ok(Self {
            authenticator: Authenticator {
                tokens: tokens(args)?,
                token_file: users(&args.token_auth_file)?,
                basic_file: ArcSwap::from_pointee(users(&args.basic_auth_file)?),
                bootstrap_tokens: args.enable_bootstrap_token_auth,
                anonymous: args.anonymous_auth,
                proxy,
            },
            authorizer: Authorizer::new(&args.authorization_mode)?,
        })
    }
}

fn tokens(args: &Args) -> anyhow::Result<Tokens> {
    let (files, signing) =
        (args.service_account_key_file.clone(), args.service_account_signing_key_file.clone());
    let watched = files.iter().chain(&signing).cloned().collect();
    let keys = Live::new(watched, move || Keys::load(&files, signing.as_deref()))?;
    let (issuers, audiences) = (args.service_account_issuer.clone(), args.api_audiences.clone());
    let mut tokens = Tokens::new(issuers, audiences, keys);
    tokens.extend_expiration = args.service_account_extend_token_expiration;
    let limit = &args.service_account_max_token_expiration;
    tokens.max_expiration = seconds(limit)
        .with_context(|| format!("--service-account-max-token-expiration {limit}"))?;
    Ok(tokens)
}

/// Finds out who asks. A client certificate was verified with the connection.
pub async fn authenticate(
    server: &Arc<ApiServer>,
    peer: &Peer,
    parts: &Parts,
    _info: &RequestInfo,
) -> Result<UserInfo, Status> {
    let credentials = Credentials {
        certificate: peer.certificate.as_deref(),
        proxy: peer.proxy.as_deref(),
        headers: &parts.headers,
        audiences: None,
    };
    let ask = || {
        let authenticator = &server.auth.authenticator;
        authenticator.authenticate(&server.cluster, &credentials, server.now())
    };
    if let Ok(found) = ask() {
        return Ok(found.user);
    }
    if credentials.carries_token() {
        server.storage.settled().await?;
        if let Ok(found) = ask() {
            return Ok(found.user);
        }
    }
    Err(Status::unauthorized())
}

/// Turns the user into the one that the `Impersonate-*` headers name.
pub async fn impersonate(
    server: &Arc<ApiServer>,
    user: UserInfo,
    parts: &Parts,
    _info: &RequestInfo,
) -> Result<UserInfo, Status> {
    let authorizer = &server.auth.authorizer;
    let act = || impersonate::impersonate(authorizer, &server.cluster, &user, &parts.headers);
    let mut wanted = act();
    if wanted.is_err() {
        server.storage.settled().await?;
        wanted = act();
    }
    match wanted {
        Ok(Some(wanted)) => Ok(wanted),
        Ok(None) => Ok(user),
        Err(Refused::Malformed(why)) => Err(Status::internal(why)),
        Err(Refused::Forbidden { group, resource, name, why }) => {
            Err(Status::forbidden(About { group, resource: &resource, name: &name }, &why))
        }
    }
}

/// Refuses what the user may not do; says why it may.
pub async fn authorize(
    server: &Arc<ApiServer>,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<String, Status> {
    let asked = Attributes {
        user: Some(user),
        verb: info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: query.text("fieldSelector"),
    };
    let authorizer = &server.auth.authorizer;
    let decision = authorizer.authorize(&server.cluster, &asked);
    if decision.is_allowed() {
        return Ok(decision.reason().to_owned());
    }
    server.storage.settled().await?;
    let decision = authorizer.authorize(&server.cluster, &asked);
    if decision.is_allowed() {
        return Ok(decision.reason().to_owned());
    }
    let why = asked.refusal(decision.reason());
    if info.is_resource {
        let about = About { group: &info.group, resource: &info.resource, name: &info.name };
        return Err(Status::forbidden(about, &why));
    }
    let mut status = Status::new(403, "Forbidden", format!("forbidden: {why}"));
    status.details = serde_json::json!({});
    Err(status)
}

/// Refuses a role or binding that grants more than its author has.
pub async fn check_grant(
    call: &Call<'_>,
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if kind.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    call.server.storage.settled().await?;
    let guard = Guard {
        authorizer: &call.server.auth.authorizer,
        objects: &call.server.cluster,
        user: &call.user,
        namespace: &call.info.namespace,
    };
    let checked = match kind.plural.as_str() {
        "roles" | "clusterroles" => guard.check_role(&kind.plural, new, old),
        _ => guard.check_binding(new, old),
    };
    checked.map_err(|err| match err {
        Escalation::Forbidden(why) => {
            Status::forbidden(kind.about(objects::text(new, &["metadata", "name"])), &why)
        }
        Escalation::MissingRole(name) => Status::not_found(kind.about(&name)),
    })
}
