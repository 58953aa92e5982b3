//! Node passwords: the first to use a node's name owns it, until the Node is deleted.
//!
//! The hash (scrypt, in k3s' form) is in the Secret `<node>.node-password.k3s`. Invariant: at most
//! two hashes are made at a time, since each takes 32 MiB.

use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::info;

use super::Call;
use crate::request::{Query, RequestInfo};
use crate::user::UserInfo;
use crate::{filter, verbs};

const NAMESPACE: &str = "kube-system";
/// What servers carry; they make their own certificates and never ask for one.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// k3s' parameters.
const LOG_N: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;
const KEY: usize = 64;
const SALT: usize = 8;

static HASHING: Semaphore = Semaphore::const_new(2);

/// Refuses a password that is not the node's; the first one that comes is.
pub(super) async fn ensure(call: &Call<'_>, node: &str, password: &str) -> Result<(), Status> {
    let name = format!("{node}.node-password.k3s");
    call.server.storage.settled().await?;
    if let Some(secret) = call.server.cluster.get("secrets", NAMESPACE, &name) {
        return verify(call, node, password, secret.revision, &secret.object()).await;
    }
    let entry = call.server.cluster.get("nodes", "", node);
    if entry.is_some_and(|entry| entry.label(CONTROL_PLANE).is_some()) {
        return Err(refused(node, "is a server of this cluster"));
    }
    let hash = hashed(password.to_owned(), None).await?;
    match create(call, &name, &hash).await {
        Ok(()) => info!(node, "Took in a new node"),
        Err(status) if status.code == 409 => {
            call.server.storage.settled().await?;
            let secret = call.server.cluster.get("secrets", NAMESPACE, &name).ok_or(status)?;
            return verify(call, node, password, secret.revision, &secret.object()).await;
        }
        Err(status) => return Err(status),
    }
    Ok(())
}

/// The answer to a node that is not who it says it is.
pub(super) fn refused(node: &str, why: &str) -> Status {
    Status::new(403, "Forbidden", format!("the node password was refused: {node:?} {why}"))
}

async fn verify(
    call: &Call<'_>,
    node: &str,
    password: &str,
    revision: i64,
    secret: &serde_json::Value,
) -> Result<(), Status> {
    // An agent asks several times in a row: what was found out is kept, as a digest.
    let seen = (revision, digest(&SHA256, password.as_bytes()).as_ref().to_vec());
    if call.server.agents.has_verified(node, &seen) {
        return Ok(());
    }
    let kept = STANDARD
        .decode(secret["data"]["hash"].as_str().unwrap_or_default())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default();
    if hashed(password.to_owned(), Some(kept.clone())).await? != kept {
        return Err(refused(node, "has another password"));
    }
    call.server.agents.verified(node, seen);
    Ok(())
}

/// The hash of a password: with the parameters of an existing hash, or with a new salt.
async fn hashed(password: String, like: Option<String>) -> Result<String, Status> {
    let _permit = HASHING.acquire().await.map_err(Status::internal)?;
    let made = tokio::task::spawn_blocking(move || hash(&password, like.as_deref()));
    made.await.map_err(Status::internal)?.map_err(Status::internal)
}

fn hash(password: &str, like: Option<&str>) -> Result<String, &'static str> {
    let parameters = match like {
        Some(kept) => Parameters::read(kept).ok_or("the hash in the secret is damaged")?,
        None => {
            let mut salt = vec![0; SALT];
            SystemRandom::new().fill(&mut salt).map_err(|_| "the random source failed")?;
            Parameters { salt, log_n: LOG_N, r: R, p: P }
        }
    };
    let Parameters { salt, log_n, r, p } = parameters;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| "odd scrypt parameters")?;
    let mut key = [0; KEY];
    scrypt::scrypt(password.as_bytes(), &salt, &params, &mut key)
        .map_err(|_| "the length of the hash")?;
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("$1:{salt}:{log_n}:{r}:{p}:{}", STANDARD_NO_PAD.encode(key)))
}

/// What stands before the key in `$1:<salt>:<log2 of N>:<r>:<p>:<key>`.
struct Parameters {
    salt: Vec<u8>,
    log_n: u8,
    r: u32,
    p: u32,
}

impl Parameters {
    fn read(kept: &str) -> Option<Self> {
        let mut parts = kept.strip_prefix("$1:")?.split(':');
        let hex = parts.next()?;
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let salt = (0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
        let mut number = || parts.next()?.parse::<u32>().ok();
        let (log_n, r, p) = (number()?, number()?, number()?);
        // More than k3s' own would let a damaged secret eat the memory.
        let fits = log_n <= u32::from(LOG_N) && r <= R && p <= P;
        fits.then_some(Self { salt, log_n: u8::try_from(log_n).ok()?, r, p })
    }
}

/// Creates the Secret through the same door as everybody else.
async fn create(call: &Call<'_>, name: &str, hash: &str) -> Result<(), Status> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let request = Request::post(&path).header(CONTENT_TYPE, "application/json").body(());
    let (parts, ()) = request.map_err(Status::internal)?.into_parts();
    let query = Query::parse(None);
    let user = UserInfo {
        name: "system:k3s-supervisor".to_owned(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        ..UserInfo::default()
    };
    let info = RequestInfo::new(&Method::POST, &path, &query);
    let kind = call.server.kinds.get("", "v1", "secrets").ok_or_else(Status::no_resource)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "immutable": true, "type": "Opaque",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "data": { "hash": STANDARD.encode(hash) },
    });
    let inner = filter::Call {
        server: call.server,
        info,
        query,
        parts,
        user,
        peer: call.peer,
        annotations: std::sync::Arc::default(),
        record: None,
    };
    verbs::create::create(&inner, &kind, Bytes::from(secret.to_string())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_made_again_from_its_own_parameters() {
        let kept = hash("secret", None).unwrap();
        assert!(kept.starts_with("$1:") && kept.contains(":15:8:1:"), "{kept}");
        assert_eq!(hash("secret", Some(&kept)).unwrap(), kept);
        assert_ne!(hash("Secret", Some(&kept)).unwrap(), kept);
        assert_ne!(hash("secret", None).unwrap(), kept);
    }

    #[test]
    fn damaged_hashes_are_refused() {
        for bad in ["", "$2:00:15:8:1:AA", "$1:0:15:8:1:AA", "$1:00:30:8:1:AA", "$1:00:15:8"] {
            assert!(Parameters::read(bad).is_none(), "{bad}");
        }
    }
}
