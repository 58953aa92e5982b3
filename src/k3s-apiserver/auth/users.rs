//! Users in files (`--token-auth-file`, `--basic-auth-file`) and bootstrap tokens.
//!
//! Invariant: secrets are compared in constant time.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use super::objects::{Objects, text};
use crate::user::UserInfo;

/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// Lines of `secret,user,uid,"group,group"`.
#[derive(Debug, Default)]
pub struct UserFile {
    users: Vec<(Vec<u8>, UserInfo)>,
}

impl UserFile {
    pub fn load(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if size.len() > FILE_MAX {
            bail!("{} is too large for a file of users", path.display());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read users of {}", path.display()))
    }

    /// Reads the lines of such a file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut users = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line);
            let [secret, name, uid, rest @ ..] = fields.as_slice() else {
                bail!("line {}: secret, user and uid needed", at + 1);
            };
            if secret.is_empty() || name.is_empty() {
                bail!("line {}: empty secret or user", at + 1);
            }
            let groups = rest.first().map_or("", String::as_str);
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            users.push((
                fingerprint(secret.as_bytes()),
                UserInfo {
                    name: name.clone(),
                    uid: uid.clone(),
                    groups: groups.map(str::to_owned).collect(),
                    ..UserInfo::default()
                },
            ));
        }
        Ok(Self { users })
    }

    /// The user with this token.
    pub fn by_token(&self, token: &str) -> Option<UserInfo> {
        let wanted = fingerprint(token.as_bytes());
        self.users.iter().find(|(secret, _)| *secret == wanted).map(|(_, user)| user.clone())
    }

    /// The user of an `Authorization: Basic` value.
    pub fn by_basic(&self, encoded: &str) -> Option<UserInfo> {
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        let wanted = fingerprint(password.as_bytes());
        let is = |(secret, user): &&(Vec<u8>, UserInfo)| user.name == name && *secret == wanted;
        self.users.iter().find(is).map(|(_, user)| user.clone())
    }
}

/// Hashes are compared in place of secrets, so the time tells nothing about a secret.
fn fingerprint(secret: &[u8]) -> Vec<u8> {
    digest(&SHA256, secret).as_ref().to_vec()
}

/// The fields of a line, which may be quoted.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(last) = out.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            ' ' if !quoted && last.is_empty() => {}
            c => last.push(c),
        }
    }
    out
}

/// The user of a bootstrap token `abcdef.0123456789abcdef`, if its secret is there and good.
pub fn bootstrap_user(objects: &dyn Objects, token: &str, now: Timestamp) -> Option<UserInfo> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let (id, secret) = token.split_once('.')?;
    if id.len() != 6 || secret.len() != 16 || !plain(id) || !plain(secret) {
        return None;
    }
    let entry = objects.get("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    let object = entry.object();
    let data = |key: &str| -> String {
        let encoded = text(&object, &["data", key]);
        STANDARD
            .decode(encoded)
            .ok()
            .and_then(|raw| String::from_utf8(raw).ok())
            .unwrap_or_default()
    };
    let live = text(&object, &["metadata", "deletionTimestamp"]).is_empty();
    let typed = text(&object, &["type"]) == "bootstrap.kubernetes.io/token";
    let same = fingerprint(data("token-secret").as_bytes()) == fingerprint(secret.as_bytes());
    let expired = match data("expiration") {
        text if text.is_empty() => false,
        text => text.parse::<Timestamp>().map_or(true, |end| end <= now),
    };
    let usable = data("usage-bootstrap-authentication") == "true";
    if !live || !typed || !same || expired || !usable || data("token-id") != id {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::*;
    use serde_json::json;

    #[test]
    fn users_are_found_by_token_and_by_password() {
        let file = UserFile::parse("# users\nt0p,ann,1,\"devs,ops\"\nsecret,node,node,k3s:agent\n")
            .expect("reads");
        let ann = file.by_token("t0p").expect("ann");
        assert_eq!((ann.name.as_str(), ann.groups.len()), ("ann", 2));
        assert!(file.by_token("T0P").is_none());
        let basic = |text: &str| file.by_basic(&STANDARD.encode(text));
        assert_eq!(basic("node:secret").expect("node").groups, ["k3s:agent"]);
        assert!(basic("node:wrong").is_none());
        assert!(basic("ann:secret").is_none());
        assert!(file.by_basic("!!").is_none());
        assert!(UserFile::parse("a,b").is_err());
    }

    #[test]
    fn a_bootstrap_token_is_good_while_its_secret_says_so() {
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        let secret = |changes: &[(&str, &str)]| {
            let mut data = serde_json::Map::new();
            let base = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("auth-extra-groups", "system:bootstrappers:k3s"),
            ];
            for (key, value) in base.iter().chain(changes) {
                data.insert((*key).to_owned(), json!(STANDARD.encode(value)));
            }
            Fake::default().with(
                "secrets",
                &json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
                    "type": "bootstrap.kubernetes.io/token", "data": data}),
            )
        };
        let user = |objects: &Fake| bootstrap_user(objects, "abcdef.0123456789abcdef", now);
        let found = user(&secret(&[])).expect("good");
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(found.groups, ["system:bootstrappers", "system:bootstrappers:k3s"]);
        for bad in [
            ("token-secret", "fedcba9876543210"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert!(user(&secret(&[bad])).is_none(), "{bad:?}");
        }
        assert!(bootstrap_user(&secret(&[]), "abcdef.short", now).is_none());
    }
}
