//! `k3s token rotate`: another server token, in effect at once.
//!
//! Invariant: the file of passwords and the token file say the same; the passwords come first, since
//! they decide.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use pki::token;
use serde::Deserialize;
use tracing::info;

use super::Call;
use crate::auth::users::UserFile;
use crate::body::{Body, full};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    new_token: String,
}

/// Replaces the server token; an agent token that was the same goes along.
pub(super) async fn rotate(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    call.method(&Method::PUT)?;
    let request: Request =
        serde_json::from_slice(&body).map_err(|err| Status::bad_request(err.to_string()))?;
    let new = match token::password(&request.new_token) {
        "" => token::random_hex(16).map_err(Status::internal)?,
        new if new.contains([',', '\n', '"']) => {
            return Err(Status::bad_request("the token must not contain a comma or a quote"));
        }
        new => new.to_owned(),
    };
    let users = replace(call.dir, &new).map_err(|err| Status::internal(format!("{err:#}")))?;
    call.server.auth.authenticator.basic_file.store(Arc::new(users));
    info!("The server token was rotated");
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

fn replace(dir: &Path, new: &str) -> Result<UserFile> {
    let (passwd, ca) = (dir.join("cred/passwd"), dir.join("tls/server-ca.crt"));
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let text = passwords(&read(&passwd)?, new)?;
    let users = UserFile::parse(&text)?;
    let secure = format!("{}\n", token::secure(&read(&ca)?, "server", new));
    pki::write_atomic(&passwd, text.as_bytes(), 0o600)?;
    pki::write_atomic(&dir.join("token"), secure.as_bytes(), 0o600)?;
    Ok(users)
}

/// The file of passwords with the server's password, wherever it occurs, replaced.
fn passwords(text: &str, new: &str) -> Result<String> {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(2, ',').collect()).collect();
    let server = lines.iter().find_map(|line| match line.as_slice() {
        [password, rest] if rest.starts_with("server,") => Some(*password),
        _ => None,
    });
    let Some(old) = server else { bail!("the file of passwords has no user named server") };
    let mut out = String::new();
    for line in lines {
        if let [password, rest] = line.as_slice() {
            let password = if *password == old { new } else { password };
            out.push_str(&format!("{password},{rest}\n"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_its_own_for_agents_stays() {
        let check =
            |before: &str, after: &str| assert_eq!(passwords(before, "new").unwrap(), after);
        check(
            "old,server,server,k3s:server\nold,node,node,k3s:agent\n",
            "new,server,server,k3s:server\nnew,node,node,k3s:agent\n",
        );
        check(
            "old,server,server,k3s:server\nother,node,node,k3s:agent\n",
            "new,server,server,k3s:server\nother,node,node,k3s:agent\n",
        );
        assert!(passwords("", "new").is_err());
    }
}
