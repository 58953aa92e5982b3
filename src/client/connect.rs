//! From a kubeconfig file to a client, and waiting until the API server answers.
//!
//! Invariant: certificates that the kubeconfig names by path are followed: each new connection
//! shows and trusts what the files hold then.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use http::{HeaderValue, Request, header::USER_AGENT};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use pki::tls::Pair;
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The `User-Agent` of a component, shaped as upstream's.
pub fn user_agent(component: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{component}/v{version} ({}/{})", std::env::consts::OS, std::env::consts::ARCH)
}

/// A client for the kubeconfig's current context. It makes no request yet and has no rate limit.
/// The user agent names the component that this process runs as.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    // A second installation by another part of the process is fine: it is the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let shown = kubeconfig.display();
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read kubeconfig {shown}"))?;
    let tls = following(&file).with_context(|| format!("cannot use kubeconfig {shown}"))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use kubeconfig {shown}"))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    if let Ok(agent) = HeaderValue::from_str(&user_agent(&component_name())) {
        config.headers.push((USER_AGENT, agent));
    }
    build(config, tls).with_context(|| format!("cannot use kubeconfig {shown}"))
}

/// TLS by the files that the current context names; `None` when it holds the certificates itself.
fn following(file: &Kubeconfig) -> Result<Option<ClientConfig>> {
    let current = file.current_context.as_deref().unwrap_or_default();
    let context = file.contexts.iter().find(|it| it.name == current);
    let Some(context) = context.and_then(|it| it.context.as_ref()) else { return Ok(None) };
    let cluster = file.clusters.iter().find(|it| it.name == context.cluster);
    let ca = cluster.and_then(|it| it.cluster.as_ref()?.certificate_authority.as_deref());
    let Some(ca) = ca else { return Ok(None) };
    let user = context.user.as_deref();
    let user = file.auth_infos.iter().find(|it| Some(it.name.as_str()) == user);
    let user = user.and_then(|it| it.auth_info.as_ref());
    let pair = user.and_then(|it| {
        let (cert, key) = (it.client_certificate.as_ref()?, it.client_key.as_ref()?);
        Some(Pair { cert: cert.into(), key: key.into() })
    });
    if pair.is_none() && user.is_some_and(|it| it.client_certificate_data.is_some()) {
        return Ok(None);
    }
    pki::tls::client_config(Path::new(ca), pair.as_ref()).map(Some)
}

/// Waits until the API server answers `/readyz` with anything but a server error. Returns early
/// with `Ok` when `stop` is cancelled.
pub async fn wait_until_ready(client: &Client, stop: &CancellationToken) -> Result<()> {
    let mut wait = WAIT_MIN;
    let mut logged = false;
    loop {
        let request = Request::get("/readyz").body(Vec::new()).context("building a request")?;
        let outcome = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            outcome = client.request_text(request) => outcome,
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code < 500 => return Ok(()),
            Err(err) if !logged => {
                logged = true;
                let err = crate::rest::describe(&err);
                tracing::info!(err, "API server did not answer yet, retrying");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// A client for this address alone, which may have a path; `name` stands in for the host's when the
/// server's certificate is checked.
pub fn connect_to(url: &str, tls: ClientConfig, name: Option<String>) -> Result<Client> {
    let mut config = Config::new(url.parse().with_context(|| format!("{url:?} is no URL"))?);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.tls_server_name = name;
    build(config, Some(tls))
}

fn build(config: Config, tls: Option<ClientConfig>) -> Result<Client> {
    let tls = match tls {
        Some(tls) => tls,
        None => config.rustls_client_config()?,
    };
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().context("tls-server-name")?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let https = https.enable_http1().wrap_connector(http);
    let transport = legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build(https);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

fn component_name() -> String {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or("k3s").to_owned();
    match args.next() {
        Some(first) if program == "k3s" && !first.starts_with('-') => format!("k3s-{first}"),
        _ => program,
    }
}
