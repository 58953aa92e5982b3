//! Service account tokens: making them, checking them, and telling others how to check them.
//!
//! Invariant: a token is only as good as the objects it names: the account, and the pod, secret or
//! node that it is bound to, must still be there with the same UID.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use pki::Live;
use pki::jwt::{PublicKey, SigningKey, Token};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::legacy_token::{self, Used};
use super::objects::{Objects, text, texts};
use crate::storage::entry::Entry;
use crate::user::UserInfo;

/// Tolerance of clocks and of deletions, in seconds.
const LEEWAY: i64 = 60;
/// Tokens whose signature has been checked; past that the memory starts over.
const CHECKED_MAX: usize = 4096;
/// The lifetime that projected volumes ask for and that is stretched.
const WARN_ONLY: i64 = 3607;
/// What it is stretched to: a year.
const EXTENDED: i64 = 365 * 24 * 3600;

/// The keys and names of token issuing.
#[derive(Debug)]
pub struct Tokens {
    /// `--service-account-issuer`; the first one signs.
    pub issuers: Vec<String>,
    /// `--api-audiences`, the first issuer when empty.
    pub audiences: Vec<String>,
    keys: Live<Keys>,
    /// `--service-account-max-token-expiration`, in seconds; 0 for no limit.
    pub max_expiration: i64,
    pub extend_expiration: bool,
    /// What `legacy_token::track` is to write down.
    pub(super) used: Used,
    checked: Mutex<Checked>,
}

/// What tokens are checked with and made with.
#[derive(Debug, Default)]
pub struct Keys {
    pub public: Vec<PublicKey>,
    pub signer: Option<SigningKey>,
}

impl Keys {
    /// All keys of `files`, and the first of the file that signs.
    pub fn load(files: &[PathBuf], signing: Option<&Path>) -> anyhow::Result<Self> {
        let mut public = Vec::new();
        for path in files {
            public.extend(PublicKey::load_all(path)?);
        }
        let signer = signing.map(SigningKey::load).transpose()?;
        public.extend(signer.iter().map(|signer| signer.public().clone()));
        let mut keys = Self { public: Vec::new(), signer };
        for key in public {
            if !keys.public.contains(&key) {
                keys.public.push(key);
            }
        }
        Ok(keys)
    }
}

/// Tokens whose signature is good, by hash, as long as the keys are these.
#[derive(Debug, Default)]
struct Checked {
    keys: Arc<Keys>,
    claims: HashMap<[u8; 32], Arc<Value>>,
}

/// Who a good token is, and which of the wanted audiences it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: UserInfo,
    pub audiences: Vec<String>,
}

/// A service account in a claim or a binding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

impl Reference {
    fn read(claims: &Value, kind: &str) -> Option<Self> {
        let reference = claims.get("kubernetes.io")?.get(kind)?;
        let part = |key| text(reference, &[key]).to_owned();
        Some(Self { name: part("name"), uid: part("uid") })
    }

    fn write(&self) -> Value {
        json!({"name": self.name, "uid": self.uid})
    }
}

/// What a new token says.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pub namespace: String,
    pub account: Reference,
    pub pod: Option<Reference>,
    pub secret: Option<Reference>,
    pub node: Option<Reference>,
    pub audiences: Vec<String>,
    pub expiration_seconds: i64,
}

impl Tokens {
    pub fn new(issuers: Vec<String>, audiences: Vec<String>, keys: Live<Keys>) -> Self {
        let audiences = if audiences.is_empty() {
            issuers.first().cloned().into_iter().collect()
        } else {
            audiences
        };
        let checked = Mutex::default();
        let (max_expiration, extend_expiration, used) = (0, true, Used::default());
        Self { issuers, audiences, keys, max_expiration, extend_expiration, used, checked }
    }

    /// Checks a bearer token. `Ok(None)`: not one of ours, ask somebody else.
    pub fn authenticate(
        &self,
        objects: &dyn Objects,
        token: &str,
        wanted: Option<&[String]>,
        now: Timestamp,
    ) -> Result<Option<Identity>, String> {
        let Some(claims) = self.checked_claims(token)? else { return Ok(None) };
        let own = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            list => texts(list),
        };
        let own = if own.is_empty() { self.audiences.clone() } else { own };
        let wanted = wanted.unwrap_or(&self.audiences);
        let audiences: Vec<String> =
            own.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&own),
                quoted(wanted)
            ));
        }
        let user = if text(&claims, &["iss"]) == legacy_token::ISSUER {
            legacy_token::check(objects, token, &claims, now, &self.used)?
        } else {
            check_times(&claims, now)?;
            check_objects(objects, &claims, now)?
        };
        Ok(Some(Identity { user, audiences }))
    }

    /// The claims of a token with a good signature and one of our issuers.
    fn checked_claims(&self, token: &str) -> Result<Option<Arc<Value>>, String> {
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let lock = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.get();
        {
            let mut checked = lock();
            if !Arc::ptr_eq(&checked.keys, &keys) {
                *checked = Checked { keys: keys.clone(), claims: HashMap::new() };
            }
            if let Some(claims) = checked.claims.get(&name) {
                return Ok(Some(claims.clone()));
            }
        }
        let Some(parsed) = Token::parse(token) else { return Ok(None) };
        let issuer = text(&parsed.claims, &["iss"]);
        if issuer != legacy_token::ISSUER && !self.issuers.iter().any(|own| own == issuer) {
            return Ok(None);
        }
        if !parsed.is_signed_by(&keys.public) {
            return Err("invalid signature, no keys found".to_owned());
        }
        let claims = Arc::new(parsed.claims);
        let mut checked = lock();
        if checked.claims.len() >= CHECKED_MAX {
            checked.claims.clear();
        }
        if Arc::ptr_eq(&checked.keys, &keys) {
            checked.claims.insert(name, claims.clone());
        }
        Ok(Some(claims))
    }

    /// Makes a token. The second value is when it is to be replaced.
    pub fn issue(&self, grant: &Grant, now: Timestamp) -> anyhow::Result<(String, Timestamp)> {
        use anyhow::Context as _;
        let keys = self.keys.get();
        let signer = keys.signer.as_ref().context("no --service-account-signing-key-file")?;
        let issued = now.as_second();
        let wanted = grant.expiration_seconds;
        let stretch = self.extend_expiration
            && grant.pod.is_some()
            && wanted == WARN_ONLY
            && grant.audiences.iter().all(|audience| self.audiences.contains(audience));
        let lifetime = if stretch { EXTENDED } else { wanted };
        let mut private = json!({
            "namespace": grant.namespace,
            "serviceaccount": grant.account.write(),
        });
        let bound = [("pod", &grant.pod), ("secret", &grant.secret), ("node", &grant.node)];
        for (kind, reference) in bound {
            if let (Some(reference), Some(private)) = (reference, private.as_object_mut()) {
                private.insert(kind.to_owned(), reference.write());
            }
        }
        if stretch && let Some(private) = private.as_object_mut() {
            private.insert("warnafter".to_owned(), json!(issued + wanted));
        }
        let claims = json!({
            "aud": grant.audiences,
            "exp": issued + lifetime,
            "iat": issued,
            "iss": self.issuers.first(),
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
            "nbf": issued,
            "sub": format!("system:serviceaccount:{}:{}", grant.namespace, grant.account.name),
        });
        let until = Timestamp::from_second(issued + wanted).context("expiration out of range")?;
        Ok((signer.sign(&claims)?, until))
    }

    /// `/openid/v1/jwks`
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.keys.get().public.iter().map(PublicKey::jwk).collect();
        json!({"keys": keys})
    }

    /// `/.well-known/openid-configuration`; `address` is this server's `host:port`.
    pub fn discovery(&self, address: &str) -> Value {
        let keys = self.keys.get();
        let mut algorithms: Vec<&str> =
            keys.public.iter().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuers.first(),
            "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

/// A duration in Go's notation, in whole seconds.
pub fn seconds(text: &str) -> anyhow::Result<i64> {
    if text == "0" {
        return Ok(0);
    }
    let span: jiff::Span = text.parse()?;
    Ok(span.to_duration(jiff::civil::date(2000, 1, 1))?.as_secs())
}

/// A list as Go's `%q` prints it.
fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn check_times(claims: &Value, now: Timestamp) -> Result<(), String> {
    let now = now.as_second();
    let time = |key: &str| claims.get(key).and_then(Value::as_i64);
    if time("nbf").is_some_and(|nbf| now + LEEWAY < nbf) {
        return Err("service account token is not valid yet".to_owned());
    }
    if time("exp").is_none_or(|exp| now - LEEWAY > exp) {
        return Err("service account token has expired".to_owned());
    }
    if time("iat").is_some_and(|iat| now + LEEWAY < iat) {
        return Err("service account token is issued in the future".to_owned());
    }
    Ok(())
}

fn check_objects(
    objects: &dyn Objects,
    claims: &Value,
    now: Timestamp,
) -> Result<UserInfo, String> {
    const GONE: &str = "service account token has been invalidated";
    let namespace = text(claims, &["kubernetes.io", "namespace"]);
    let account = Reference::read(claims, "serviceaccount").unwrap_or_default();
    let subject = format!("system:serviceaccount:{namespace}:{}", account.name);
    if namespace.is_empty() || account.name.is_empty() || text(claims, &["sub"]) != subject {
        return Err("service account token claims are malformed".to_owned());
    }
    let entry = objects
        .get("serviceaccounts", namespace, &account.name)
        .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    if *entry.uid != account.uid {
        return Err(format!(
            "service account UID ({}) does not match claim ({})",
            entry.uid, account.uid
        ));
    }
    if is_deleted(&entry, now) {
        return Err("service account has been deleted".to_owned());
    }
    let check = |resource: &str, namespace: &str, kind: &str, what: &str| {
        let Some(reference) = Reference::read(claims, kind) else { return Ok(None) };
        let entry = objects.get(resource, namespace, &reference.name).ok_or(GONE)?;
        if is_deleted(&entry, now) {
            return Err(GONE.to_owned());
        }
        if *entry.uid != reference.uid {
            let (have, claim) = (&entry.uid, &reference.uid);
            return Err(format!("{what} UID ({have}) does not match {what} ref claim ({claim})"));
        }
        Ok(Some(reference))
    };
    check("secrets", namespace, "secret", "service account secret")?;
    let pod = check("pods", namespace, "pod", "service account pod")?;
    // A pod-bound token names the node for information only: the pod may outlive the Node object.
    let node = match pod {
        Some(_) => Reference::read(claims, "node"),
        None => check("nodes", "", "node", "service account node")?,
    };
    Ok(user_info(namespace, &account, text(claims, &["jti"]), pod, node))
}

fn is_deleted(entry: &Entry, now: Timestamp) -> bool {
    let object = entry.object();
    let deleted = text(&object, &["metadata", "deletionTimestamp"]).parse::<Timestamp>();
    deleted.is_ok_and(|deleted| deleted.as_second() < now.as_second() - LEEWAY)
}

/// The user that a service account is.
pub fn account_user(namespace: &str, name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ],
        ..UserInfo::default()
    }
}

fn user_info(
    namespace: &str,
    account: &Reference,
    id: &str,
    pod: Option<Reference>,
    node: Option<Reference>,
) -> UserInfo {
    let mut user = account_user(namespace, &account.name);
    user.uid.clone_from(&account.uid);
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !id.is_empty() {
        extra("credential-id", format!("JTI={id}"));
    }
    if let Some(pod) = pod {
        extra("pod-name", pod.name);
        extra("pod-uid", pod.uid);
    }
    if let Some(node) = node {
        extra("node-name", node.name);
        extra("node-uid", node.uid);
    }
    user
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use super::super::objects::fake::Fake;
    use super::*;

    /// Tokens with a key that was made for tests.
    pub(in crate::auth) fn tokens() -> Tokens {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let name = format!("k3s-test-{}.key", uuid::Uuid::new_v4());
            let path = std::env::temp_dir().join(name);
            pki::ensure_signing_key(&path).expect("a key");
            let key = std::fs::read(&path).expect("reads");
            std::fs::remove_file(&path).expect("removes");
            key
        });
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tokens::new(
            names(&["https://issuer"]),
            names(&["https://issuer", "k3s"]),
            Live::new(vec![], move || {
                let signer = SigningKey::from_pem(key)?;
                Ok(Keys { public: vec![signer.public().clone()], signer: Some(signer) })
            })
            .expect("a key"),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    pub(in crate::auth) fn objects() -> Fake {
        let object = |name: &str, namespace: &str, uid: &str| json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}});
        Fake::default()
            .with("serviceaccounts", &object("robot", "a", "u1"))
            .with("pods", &object("p", "a", "u2"))
    }

    pub(in crate::auth) fn grant() -> Grant {
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        Grant {
            namespace: "a".to_owned(),
            account: reference("robot", "u1"),
            pod: Some(reference("p", "u2")),
            node: Some(reference("n", "u3")),
            audiences: vec!["k3s".to_owned()],
            expiration_seconds: 600,
            ..Grant::default()
        }
    }

    fn check(objects: &Fake, grant: &Grant, when: i64, expected: &str) {
        let tokens = tokens();
        let (token, _) = tokens.issue(grant, at(0)).expect("issues");
        let found = tokens.authenticate(objects, &token, None, at(when));
        let found = found.map(|identity| identity.expect("ours").user.name);
        assert_eq!(found.unwrap_or_else(|err| err), expected);
    }

    #[test]
    fn a_token_is_its_account_while_everything_it_names_is_there() {
        let (objects, good) = (objects(), grant());
        check(&objects, &good, 1, "system:serviceaccount:a:robot");
        check(&objects, &good, 700, "service account token has expired");
        check(&objects, &good, -100, "service account token is not valid yet");
        let mut other = grant();
        other.account.uid = "old".to_owned();
        check(&objects, &other, 1, "service account UID (u1) does not match claim (old)");
        let mut other = grant();
        other.account.name = "gone".to_owned();
        check(&objects, &other, 1, "serviceaccounts \"gone\" not found");
        let mut other = grant();
        other.pod = Some(Reference { name: "q".to_owned(), uid: "u".to_owned() });
        check(&objects, &other, 1, "service account token has been invalidated");
        let mut other = grant();
        other.pod = None;
        check(&objects, &other, 1, "service account token has been invalidated");
        let mut other = grant();
        other.audiences = vec!["x".to_owned()];
        check(
            &objects,
            &other,
            1,
            "token audiences [\"x\"] is invalid for the target audiences [\"https://issuer\" \"k3s\"]",
        );
    }

    #[test]
    fn the_user_carries_what_the_token_is_bound_to() {
        let tokens = tokens();
        let (token, _) = tokens.issue(&grant(), at(0)).expect("issues");
        let found = tokens.authenticate(&objects(), &token, None, at(1));
        let user = found.expect("good").expect("ours").user;
        assert_eq!(user.uid, "u1");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["u3"]);
        assert!(user.in_group("system:serviceaccounts:a"));
    }

    #[test]
    fn what_pods_mount_lives_longer_than_it_says() {
        let tokens = tokens();
        let mut mounted = grant();
        mounted.expiration_seconds = WARN_ONLY;
        let (token, until) = tokens.issue(&mounted, at(0)).expect("issues");
        assert_eq!(until, at(WARN_ONLY));
        let claims = Token::parse(&token).expect("a token").claims;
        assert_eq!(claims["exp"], at(EXTENDED).as_second());
        assert_eq!(claims["kubernetes.io"]["warnafter"], at(WARN_ONLY).as_second());
    }

    #[test]
    fn tokens_of_others_are_not_ours() {
        let tokens = tokens();
        assert_eq!(tokens.authenticate(&objects(), "bogus", None, at(0)), Ok(None));
        let mut foreign = super::tests::tokens();
        foreign.issuers = vec!["https://elsewhere".to_owned()];
        let (token, _) = foreign.issue(&grant(), at(0)).expect("issues");
        assert_eq!(tokens.authenticate(&objects(), &token, None, at(0)), Ok(None));
    }
}
