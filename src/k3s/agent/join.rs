//! Joining: from a URL and a token to certificates, and what to say when that fails.
//!
//! The CA is fetched unchecked and compared with the token; everything after that is verified with
//! it. Invariant: files of the node change only once the server has given everything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use daemon::ConfigError;
use http::header::AUTHORIZATION;
use http::{Method, Request};
use http_body_util::Full;
use jiff::Timestamp;
use pki::token::{self, Credentials};
use pki::{Durability, write_atomic, write_with};
use rustls::{CertificateError, ClientConfig};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::https::{self, Answer, Endpoint, Failure, Trust};
use crate::control::Control;
use crate::settings::{Agent, Paths};

/// Where the machine keeps what makes it this node; outlives the data folder, as in k3s.
const PASSWORD_FILE: &str = "/etc/rancher/node/password";
/// How long a node that has joined before waits for a server before it starts with what it has.
const PATIENCE: Duration = Duration::from_secs(10);
/// Less than this is no reason to doubt a clock.
const SKEW_MIN: i64 = 300;

/// The certificates of an agent: file stem, and whether it is about the node itself.
const CERTIFICATES: [(&str, bool); 5] = [
    ("client-kubelet", true),
    ("serving-kubelet", true),
    ("client-kube-proxy", false),
    ("client-k3s-controller", false),
    ("client-k3s-dns", false),
];

/// What the server gave.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) control: Control,
    /// `host:port` of every server, as the server says.
    pub(crate) servers: Vec<String>,
}

/// Why a server did not take this node in, and the one thing to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "{0} does not have the CA that the token names, so it is another cluster; \
         see the right token on its server: cat /var/lib/rancher/k3s/server/node-token"
    )]
    WrongCa(String),
    #[error(
        "{0} refused the token; \
         see the right one on the server: cat /var/lib/rancher/k3s/server/node-token"
    )]
    WrongToken(String),
    #[error(
        "{0} does not know the bootstrap token, or it has expired; make one there: k3s token create"
    )]
    WrongBootstrapToken(String),
    #[error(
        "the node name {0:?} is taken, and this machine does not have its password: \
         choose another --node-name, or if this machine was that node, forget it on the server: \
         k3s kubectl delete node {0}"
    )]
    NameTaken(String),
    #[error("{0} refused this node: {1}")]
    Other(String, String),
}

/// What an attempt came to, other than success.
#[derive(Debug)]
enum Stop {
    /// It will not get better by itself.
    Refused(Refusal),
    /// It may: the reason, for people.
    Later(String),
    /// Something on this machine.
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(err: anyhow::Error) -> Self {
        Self::Broken(err)
    }
}

/// Joins, trying every server that is known until one takes us in. `None` when told to stop.
/// A node that has joined before starts with what it has when no server answers.
pub(crate) async fn join(
    stop: &CancellationToken,
    agent: &Agent,
    known: &[String],
) -> Result<Option<Joined>> {
    let begun = tokio::time::Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut said = String::new();
    loop {
        let attempt = tokio::select! {
            attempt = everywhere(agent, known) => attempt,
            () = stop.cancelled() => return Ok(None),
        };
        let why = match attempt {
            Ok(joined) => {
                if !said.is_empty() {
                    info!("The server answers again");
                }
                return Ok(Some(joined));
            }
            Err(Stop::Refused(refusal)) => return Err(ConfigError(refusal.to_string()).into()),
            Err(Stop::Broken(err)) => return Err(err),
            Err(Stop::Later(why)) => why,
        };
        if why != said {
            warn!(why, "Could not join yet, retrying");
            said = why;
        }
        if begun.elapsed() >= PATIENCE
            && let Some(control) = kept(&agent.paths)
        {
            warn!("Starting with the certificates of the last time");
            return Ok(Some(Joined { control, servers: Vec::new() }));
        }
        tokio::select! {
            () = sleep(backoff.next()) => (),
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// The certificates that a node keeps.
pub(crate) fn leafs(paths: &Paths) -> Vec<PathBuf> {
    CERTIFICATES.iter().map(|(stem, _)| paths.agent(&format!("{stem}.crt"))).collect()
}

/// Fetches new certificates from whichever server answers.
pub(crate) async fn renew(agent: &Agent, known: &[String]) -> Result<()> {
    match everywhere(agent, known).await {
        Ok(_) => Ok(()),
        Err(Stop::Refused(refusal)) => Err(refusal.into()),
        Err(Stop::Later(why)) => bail!("{why}"),
        Err(Stop::Broken(err)) => Err(err),
    }
}

/// The given server first; what it says counts, unless it cannot be reached and another can.
async fn everywhere(agent: &Agent, known: &[String]) -> Result<Joined, Stop> {
    let first = match once(agent, &agent.server).await {
        Err(Stop::Later(why)) => why,
        decided => return decided,
    };
    for other in known.iter().filter(|other| **other != agent.server.authority()) {
        if let Ok(endpoint) = format!("https://{other}").parse()
            && let Ok(joined) = once(agent, &endpoint).await
        {
            return Ok(joined);
        }
    }
    Err(Stop::Later(first))
}

/// One attempt at one server.
async fn once(agent: &Agent, endpoint: &Endpoint) -> Result<Joined, Stop> {
    let anyone = https::tls(Trust::Anyone, None)?;
    let get = |path: &str| Request::get(path.to_owned()).body(Full::default());
    let request = get("/cacerts").context("making a request")?;
    let answer = https::send(endpoint, anyone, request).await;
    let answer =
        answer.map_err(|err| Stop::Later(format!("{endpoint} cannot be reached: {err}")))?;
    let ca = answer.text();
    if answer.status != 200 || !ca.contains("BEGIN CERTIFICATE") {
        return Err(Stop::Later(format!("{endpoint} is no server of k3s, or not yet")));
    }
    if let Some(hash) = &agent.token.ca_hash
        && *hash != token::ca_hash(&ca)
    {
        return Err(Stop::Refused(Refusal::WrongCa(endpoint.to_string())));
    }
    let skew = answer.date.map_or(0, |date| Timestamp::now().as_second() - date);
    let mut session = Session { agent, endpoint, skew, tls: https::tls(Trust::Ca(&ca), None)? };
    let control = session.first("/v1-k3s/config", &ca).await?;
    let control = Control::parse(&control).map_err(Stop::Broken)?;
    let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
    for name in ["client-ca.crt", "server-ca.crt"] {
        files.insert(name.to_owned(), session.get(&format!("/v1-k3s/{name}")).await?);
    }
    for (stem, of_node) in CERTIFICATES {
        let key = agent.paths.agent(&format!("{stem}.key"));
        let request = pki::key_request(&key)?;
        let name = format!("{stem}.crt");
        let cert = session.post(&format!("/v1-k3s/{name}"), request, of_node).await?;
        files.insert(name, cert);
    }
    let servers = session.get("/v1-k3s/apiservers").await?;
    let servers: Vec<String> = serde_json::from_slice(&servers).context("reading the servers")?;
    for (name, content) in files {
        let path = agent.paths.agent(&name);
        if fs::read(&path).ok().as_deref() != Some(&content) {
            write_with(&path, &content, 0o644, Durability::Durable)?;
        }
    }
    control.write(&kept_file(&agent.paths))?;
    Ok(Joined { control, servers })
}

/// The conversation with one server whose CA is settled.
struct Session<'a> {
    agent: &'a Agent,
    endpoint: &'a Endpoint,
    /// How far our clock is ahead of the server's, in seconds.
    skew: i64,
    tls: Arc<ClientConfig>,
}

impl Session<'_> {
    /// The first request: as the node that we are, if we have been one, else with the token.
    async fn first(&mut self, path: &str, ca: &str) -> Result<Bytes, Stop> {
        let plain = self.tls.clone();
        let read = |name| fs::read_to_string(self.agent.paths.agent(name)).ok();
        if let (Some(cert), Some(key)) = (read("client-kubelet.crt"), read("client-kubelet.key"))
            && let Ok(tls) = https::tls(Trust::Ca(ca), Some((&cert, &key)))
        {
            self.tls = tls;
            if let Ok(answer) = self.send(self.request(Method::GET, path)?).await
                && answer.status == 200
                && self.still_there().await
            {
                return Ok(answer.body);
            }
            self.tls = plain;
        }
        self.get(path).await
    }

    /// Whether the server still takes us for the node of our certificate: a node that was deleted
    /// must come with the token again.
    async fn still_there(&self) -> bool {
        let key = self.agent.paths.agent("client-kubelet.key");
        let Ok(request) = pki::key_request(&key) else { return false };
        self.post("/v1-k3s/client-kubelet.crt", request, true).await.is_ok()
    }

    async fn get(&self, path: &str) -> Result<Bytes, Stop> {
        let answer = self.send(self.request(Method::GET, path)?).await?;
        self.body(answer)
    }

    async fn post(&self, path: &str, body: Vec<u8>, of_node: bool) -> Result<Bytes, Stop> {
        let mut request = self.request(Method::POST, path)?;
        *request.body_mut() = Full::new(body.into());
        if of_node {
            let headers = request.headers_mut();
            let value = |text: &str| text.parse().context("making a header");
            headers.insert("k3s-node-name", value(&self.agent.name)?);
            headers.insert("k3s-node-password", value(&password(Path::new(PASSWORD_FILE))?)?);
            headers.insert("k3s-node-ip", value(&self.agent.ip.to_string())?);
        }
        let answer = self.send(request).await?;
        self.body(answer)
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Full<Bytes>>> {
        let authorization = match &self.agent.token.credentials {
            Credentials::Bootstrap(token) => format!("Bearer {token}"),
            Credentials::Password { user, password } => {
                let user = if user.is_empty() { "node" } else { user };
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, authorization)
            .body(Full::default())
            .context("making a request")
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Stop> {
        let answer = https::send(self.endpoint, self.tls.clone(), request).await;
        answer.map_err(|failure| Stop::Later(explain(self.endpoint, &failure, self.skew)))
    }

    fn body(&self, answer: Answer) -> Result<Bytes, Stop> {
        let server = self.endpoint.to_string();
        let bootstrap = matches!(self.agent.token.credentials, Credentials::Bootstrap(_));
        match answer.status {
            200 => Ok(answer.body),
            401 if bootstrap => Err(Stop::Refused(Refusal::WrongBootstrapToken(server))),
            401 => Err(Stop::Refused(Refusal::WrongToken(server))),
            403 => Err(Stop::Refused(forbidden(&server, &self.agent.name, &answer))),
            status => Err(Stop::Later(format!("{server} answered {status}: {}", message(&answer)))),
        }
    }
}

fn forbidden(server: &str, node: &str, answer: &Answer) -> Refusal {
    let message = message(answer);
    // Both servers' words: ours, and k3s'.
    if message.contains("node password") || message.contains("hash does not match") {
        return Refusal::NameTaken(node.to_owned());
    }
    Refusal::Other(server.to_owned(), message)
}

/// The message of a `Status`, or the text as it is.
fn message(answer: &Answer) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str());
    message.map_or_else(|| answer.text().trim().to_owned(), str::to_owned)
}

/// A failure in the words of its remedy.
fn explain(endpoint: &Endpoint, failure: &Failure, skew: i64) -> String {
    let Failure::Tls(err) = failure else {
        return format!("{endpoint} cannot be reached: {failure}");
    };
    let rustls::Error::InvalidCertificate(why) = err else {
        return format!("TLS with {endpoint} failed: {err}");
    };
    match why {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
            if skew.abs() >= SKEW_MIN =>
        {
            let direction = if skew < 0 { "behind" } else { "ahead of" };
            format!(
                "the clock of this machine is {} {direction} that of {endpoint}; \
                 set it: timedatectl set-ntp true",
                duration(skew.abs())
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!(
                "the certificate of {endpoint} has expired; on the server: systemctl restart k3s-server"
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let host = endpoint.host();
            format!(
                "{endpoint} has no certificate for {host}; on the server: k3s server --tls-san={host}"
            )
        }
        CertificateError::UnknownIssuer => format!(
            "{endpoint} has a certificate of another CA than its own; \
             a proxy in between must pass TLS through unread"
        ),
        other => format!("the certificate of {endpoint} cannot be trusted: {other:?}"),
    }
}

fn duration(seconds: i64) -> String {
    match seconds {
        0..3600 => format!("{} minutes", seconds / 60),
        3600..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The password that makes this machine its node; made at the first use.
fn password(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(err).with_context(|| format!("reading {}", file.display()));
        }
        _ => {}
    }
    let password = token::random_hex(16)?;
    write_atomic(file, format!("{password}\n").as_bytes(), 0o600)?;
    Ok(password)
}

fn kept_file(paths: &Paths) -> PathBuf {
    paths.agent("etc/control.json")
}

/// What a server said the last time, if the certificates of that time are there, too.
fn kept(paths: &Paths) -> Option<Control> {
    let complete = CERTIFICATES.iter().all(|(stem, _)| {
        ["crt", "key"].iter().all(|ext| paths.agent(&format!("{stem}.{ext}")).exists())
    });
    let control = fs::read(kept_file(paths)).ok()?;
    Control::parse(&control).ok().filter(|_| complete)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use pki::{Authority, Leaf};
    use rustls::ServerConfig;
    use rustls::crypto::ring;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn tls(why: CertificateError) -> Failure {
        Failure::Tls(rustls::Error::InvalidCertificate(why))
    }

    fn check(failure: &Failure, skew: i64, parts: &[&str]) {
        let endpoint: Endpoint = "https://s:6443".parse().unwrap();
        let text = explain(&endpoint, failure, skew);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn every_failure_names_its_remedy() {
        use CertificateError::{Expired, NotValidForName, NotValidYet, UnknownIssuer};
        check(&tls(NotValidYet), -7200, &["2 hours behind", "timedatectl set-ntp true"]);
        check(&tls(Expired), 400 * 86_400, &["400 days ahead of", "timedatectl set-ntp true"]);
        check(&tls(Expired), 10, &["has expired", "systemctl restart k3s-server"]);
        check(&tls(NotValidForName), 0, &["--tls-san=s"]);
        check(&tls(UnknownIssuer), 0, &["another CA", "proxy"]);
        check(&Failure::Unreachable("no route".into()), 0, &["https://s:6443", "no route"]);
    }

    #[test]
    fn refusals_are_told_apart() {
        let answer = |text: &str| Answer {
            status: 403,
            date: None,
            body: Bytes::from(format!(r#"{{"kind":"Status","message":"{text}"}}"#)),
        };
        let taken = forbidden("https://s", "n", &answer("the node password was refused: x"));
        assert_eq!(taken, Refusal::NameTaken("n".into()));
        assert!(taken.to_string().contains("kubectl delete node n"), "{taken}");
        let other = forbidden("https://s", "n", &answer("no"));
        assert_eq!(other, Refusal::Other("https://s".into(), "no".into()));
    }

    /// A server that lives a year from now: its certificates are not valid yet.
    async fn from_the_future(listener: TcpListener, folder: &Path) {
        let now = Timestamp::now().as_second() + 365 * 86_400;
        let (cert, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        let ca = Authority::ensure(&cert, &key, "k3s-server", now).unwrap();
        let (cert, key) = (folder.join("s.crt"), folder.join("s.key"));
        let ip = listener.local_addr().unwrap().ip();
        let leaf = Leaf::server("kube-apiserver", Vec::new(), vec![ip]);
        ca.ensure_leaf(&leaf, &cert, &key, now).unwrap();
        let chain = CertificateDer::pem_file_iter(&cert).unwrap().map(Result::unwrap).collect();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&key).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let date = Timestamp::from_second(now).unwrap();
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date);
        let date = date.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let body = ca.cert_pem();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    }

    #[tokio::test]
    async fn a_wrong_clock_is_told_from_a_wrong_certificate() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: crate::cli::AgentArgs,
        }
        let folder = std::env::temp_dir().join(format!("k3s-clock-{}", std::process::id()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("--server=https://{}", listener.local_addr().unwrap());
        let data = format!("--data-dir={}", folder.join("data").display());
        let flags = ["agent", "--token=x", "--node-ip=192.0.2.1", "--node-name=n", &url, &data];
        let agent = Agent::new(Command::parse_from(flags).args).unwrap();
        let attempt = tokio::select! {
            attempt = once(&agent, &agent.server) => attempt,
            () = from_the_future(listener, &folder) => unreachable!("it serves for ever"),
        };
        let Err(Stop::Later(why)) = attempt else { panic!("{attempt:?}") };
        assert!(why.contains("365 days behind") || why.contains("364 days behind"), "{why}");
        assert!(why.contains("timedatectl set-ntp true"), "{why}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_password_is_made_once() {
        let file = std::env::temp_dir().join(format!("k3s-password-{}", std::process::id()));
        let first = password(&file).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(password(&file).unwrap(), first);
        fs::remove_file(file).unwrap();
    }
}
