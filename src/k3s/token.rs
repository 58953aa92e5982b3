//! `k3s token`: bootstrap tokens, kept as kubeadm keeps them, and another server token.
//!
//! Invariant: a token is printed once, when it is made; lists show its id only.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Key, Labels, List, Meta, Preconditions, Propagation, Resource, Rest};
use daemon::ConfigError;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use pki::token::{self, Credentials, Token};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::agent::https::{self, Endpoint, Trust};
use crate::cli::{TokenCommand, ToolArgs};
use crate::settings::{Paths, default_kubeconfig};

const SECRETS: Resource = Resource::namespaced("", "v1", "secrets", "Secret");
const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME: &str = "bootstrap-token-";
/// What a token may be used for; each is a field `usage-bootstrap-<it>`.
const USAGES: [&str; 2] = ["signing", "authentication"];
const GROUPS: &str = "system:bootstrappers:";

/// Runs a subcommand.
pub(crate) async fn run(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { tool, token, description, groups, ttl, usages } => {
            let token = match token {
                Some(token) => token,
                None => token::random_bootstrap()?,
            };
            let until = expiry(&ttl, Timestamp::now())?;
            let secret = secret(&token, description.as_deref(), &groups, &usages, until)?;
            create(&tool, &token, &secret).await
        }
        TokenCommand::Delete { tool, token } => delete(&tool, &token).await,
        TokenCommand::Generate => {
            println!("{}", token::random_bootstrap()?);
            Ok(())
        }
        TokenCommand::List { tool, output } => list(&tool, &output).await,
        TokenCommand::Rotate { tool, token, new_token, server } => {
            rotate(&tool, token, new_token, &server).await
        }
    }
}

fn kubeconfig(tool: &ToolArgs) -> PathBuf {
    tool.kubeconfig.clone().unwrap_or_else(default_kubeconfig)
}

async fn api(tool: &ToolArgs) -> Result<Rest> {
    Ok(Rest::new(client::connect(&kubeconfig(tool)).await?))
}

fn paths(tool: &ToolArgs) -> Result<Paths> {
    Ok(Paths { data: tool.data_dir()? })
}

/// When a token made now ends; `None` for never.
fn expiry(ttl: &str, now: Timestamp) -> Result<Option<Timestamp>> {
    if ttl == "0" {
        return Ok(None);
    }
    let length: SignedDuration = ttl
        .parse()
        .map_err(|_| ConfigError(format!("--ttl: {ttl:?} is no duration such as 24h or 30m")))?;
    Ok((!length.is_zero()).then_some(now + length))
}

fn secret(
    token: &str,
    description: Option<&str>,
    groups: &[String],
    usages: &[String],
    until: Option<Timestamp>,
) -> Result<Value> {
    let (id, key) =
        token.split_once('.').filter(|_| token::is_bootstrap(token)).ok_or_else(|| {
            ConfigError("a bootstrap token has the form abcdef.0123456789abcdef".to_owned())
        })?;
    for group in groups {
        if !group.starts_with(GROUPS) {
            bail!(ConfigError(format!("--groups: {group:?} does not start with {GROUPS}")));
        }
    }
    let mut data = Labels::from([
        ("token-id".to_owned(), id.to_owned()),
        ("token-secret".to_owned(), key.to_owned()),
        ("auth-extra-groups".to_owned(), groups.join(",")),
    ]);
    for usage in usages {
        if !USAGES.contains(&usage.as_str()) {
            bail!(ConfigError(format!("--usages: {usage:?} is none of {}", USAGES.join(", "))));
        }
        data.insert(format!("usage-bootstrap-{usage}"), "true".to_owned());
    }
    if let Some(description) = description {
        data.insert("description".to_owned(), description.to_owned());
    }
    if let Some(until) = until {
        data.insert("expiration".to_owned(), whole_seconds(until));
    }
    data.retain(|_, value| !value.is_empty());
    let data: Labels = data.into_iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": { "name": format!("{NAME}{id}"), "namespace": NAMESPACE },
        "data": data,
    }))
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn create(tool: &ToolArgs, token: &str, secret: &Value) -> Result<()> {
    let (rest, ca) = (api(tool).await?, paths(tool)?.tls("server-ca.crt"));
    let (id, _) = token.split_once('.').unwrap_or_default();
    let made: Result<serde::de::IgnoredAny, _> = rest.create(&SECRETS, NAMESPACE, secret).await;
    match made {
        Ok(_) => {}
        Err(err) if client::is_already_exists(&err) => {
            bail!("there is a token with the id {id} already; delete it: k3s token delete {id}")
        }
        Err(err) => return Err(err).context("storing the token"),
    }
    // Those who join must see that it is this cluster.
    match fs::read_to_string(ca) {
        Ok(ca) => println!("{}", token::secure_form(&ca, token)),
        Err(_) => println!("{token}"),
    }
    Ok(())
}

async fn delete(tool: &ToolArgs, tokens: &[String]) -> Result<()> {
    let rest = api(tool).await?;
    for token in tokens {
        let bare = token.rsplit("::").next().unwrap_or_default();
        let id = bare.split('.').next().unwrap_or_default();
        let key = Key::new(NAMESPACE, format!("{NAME}{id}"));
        match rest.delete(&SECRETS, &key, Propagation::Default, Preconditions::default()).await {
            Ok(()) => println!("bootstrap token \"{id}\" deleted"),
            Err(err) if client::is_not_found(&err) => {
                bail!("there is no bootstrap token {id:?}; see those that are: k3s token list")
            }
            Err(err) => return Err(err).with_context(|| format!("deleting the token {id}")),
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Secret {
    #[serde(default)]
    metadata: Meta,
    #[serde(default, deserialize_with = "client::null_default")]
    data: Labels,
}

/// A token as it is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    token: String,
    description: String,
    expires: Option<String>,
    usages: Vec<String>,
    groups: Vec<String>,
}

impl Row {
    fn read(secret: &Secret) -> Self {
        let field = |key: &str| {
            let bytes = secret.data.get(key).and_then(|text| STANDARD.decode(text).ok());
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        };
        let id = secret.metadata.name.strip_prefix(NAME).unwrap_or_default();
        let usages =
            USAGES.into_iter().filter(|usage| field(&format!("usage-bootstrap-{usage}")) == "true");
        Self {
            token: id.to_owned(),
            description: field("description"),
            expires: Some(field("expiration")).filter(|text| !text.is_empty()),
            usages: usages.map(str::to_owned).collect(),
            groups: field("auth-extra-groups")
                .split(',')
                .filter(|group| !group.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    fn columns(&self, now: Timestamp) -> [String; 6] {
        let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
        let (left, end) = match &self.expires {
            None => ("<forever>".to_owned(), "<never>".to_owned()),
            Some(end) => {
                let left =
                    end.parse::<Timestamp>().map(|end| short(end.as_second() - now.as_second()));
                (left.unwrap_or_else(|_| "<invalid>".to_owned()), end.clone())
            }
        };
        let (usages, groups) = (self.usages.join(","), self.groups.join(","));
        [
            self.token.clone(),
            left,
            end,
            or_none(usages),
            or_none(self.description.clone()),
            or_none(groups),
        ]
    }
}

/// A span of time in its largest unit.
fn short(seconds: i64) -> String {
    match seconds {
        ..=-1 => "<invalid>".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

async fn list(tool: &ToolArgs, output: &str) -> Result<()> {
    let rest = api(tool).await?;
    let query = [("fieldSelector", "type=bootstrap.kubernetes.io/token")];
    let found: List<Secret> =
        rest.list(&SECRETS, NAMESPACE, &query).await.context("listing the tokens")?;
    let rows: Vec<Row> = found.items.iter().map(Row::read).collect();
    if output == "json" {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    let head = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];
    let now = Timestamp::now();
    print!("{}", table(&head.map(str::to_owned), rows.iter().map(|row| row.columns(now))));
    Ok(())
}

fn table(head: &[String; 6], rows: impl Iterator<Item = [String; 6]>) -> String {
    let lines: Vec<[String; 6]> = std::iter::once(head.clone()).chain(rows).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(|at| width(at).max(7) + 3).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

async fn rotate(
    tool: &ToolArgs,
    token: Option<String>,
    new_token: Option<String>,
    server: &str,
) -> Result<()> {
    let file = paths(tool)?.server("token");
    let text = match token {
        Some(text) => text,
        None => fs::read_to_string(&file)
            .map_err(|err| ConfigError(format!("--token: {}: {err}", file.display())))?,
    };
    let token = Token::parse(&text).map_err(|why| ConfigError(format!("--token: {why}")))?;
    let endpoint: Endpoint =
        server.parse().map_err(|why| ConfigError(format!("--server: {why}")))?;
    let Credentials::Password { password, .. } = &token.credentials else {
        bail!(ConfigError(
            "--token: the server's token is needed, not a bootstrap token".to_owned()
        ));
    };
    let request = Request::get("/cacerts").body(Full::default())?;
    let ca = https::send(&endpoint, https::tls(Trust::Anyone, None)?, request).await;
    let ca = ca.with_context(|| format!("{endpoint} cannot be reached"))?.text();
    if token.ca_hash.is_some_and(|hash| hash != token::ca_hash(&ca)) {
        bail!("{endpoint} does not have the CA that the token names, so it is another cluster");
    }
    let basic = STANDARD.encode(format!("server:{password}"));
    let body = json!({ "newToken": new_token.unwrap_or_default() }).to_string();
    let request = Request::put("/v1-k3s/token")
        .header(AUTHORIZATION, format!("Basic {basic}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    let answer = https::send(&endpoint, https::tls(Trust::Ca(&ca), None)?, request).await?;
    match answer.status {
        200 => println!("Token rotated, restart k3s nodes with new token"),
        401 => bail!("{endpoint} refused the token; see the one in force: cat {}", file.display()),
        status => bail!("{endpoint} answered {status}: {}", answer.text().trim()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    fn made(groups: &[&str], usages: &[&str], until: Option<Timestamp>) -> Result<Value> {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        secret(TOKEN, Some("why"), &own(groups), &own(usages), until)
    }

    #[test]
    fn a_token_becomes_a_secret_and_a_row() {
        let until = Timestamp::from_second(1_700_000_000).unwrap();
        let value = made(&["system:bootstrappers:x"], &["authentication"], Some(until)).unwrap();
        assert_eq!(value["metadata"]["name"], "bootstrap-token-abcdef");
        let secret: Secret = serde_json::from_value(value).unwrap();
        let row = Row::read(&secret);
        let now = Timestamp::from_second(1_700_000_000 - 7200).unwrap();
        let expected = [
            "abcdef",
            "2h",
            "2023-11-14T22:13:20Z",
            "authentication",
            "why",
            "system:bootstrappers:x",
        ];
        assert_eq!(row.columns(now), expected);
    }

    #[test]
    fn what_no_server_would_take_is_refused() {
        assert!(made(&["system:masters"], &[], None).is_err());
        assert!(made(&[], &["tea"], None).is_err());
        assert!(secret("short", None, &[], &[], None).is_err());
    }

    #[test]
    fn lifetimes_are_read_as_go_writes_them() {
        let now = Timestamp::from_second(0).unwrap();
        let check = |ttl: &str, expected: Option<i64>| {
            assert_eq!(expiry(ttl, now).unwrap().map(Timestamp::as_second), expected, "{ttl}");
        };
        check("24h", Some(86_400));
        check("24h0m0s", Some(86_400));
        check("1h30m", Some(5400));
        check("0", None);
        check("0s", None);
        assert!(expiry("soon", now).is_err());
    }

    #[test]
    fn spans_are_shown_in_their_largest_unit() {
        for (seconds, text) in
            [(5, "5s"), (90, "1m"), (7200, "2h"), (200_000, "2d"), (-9, "<invalid>")]
        {
            assert_eq!(short(seconds), text);
        }
    }
}
