//! The daemon's end of the CNI socket.
//!
//! Invariant: each call is one task of the set that [`serve`] awaits, and their number is bounded.

use super::attach::Attacher;
use super::protocol::{Answer, Call, CniError, Command, Request, loopback_result};
use crate::network::Network;
use netlink::drive;
use netlink::netns::Netns;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const CALLS_MAX: usize = 64;
const CALL_MAX_BYTES: u64 = 2 << 20;
const READ_MAX: Duration = Duration::from_secs(10);
/// How long ADD waits for the network of a node that is just starting.
const NETWORK_WAIT_MAX: Duration = Duration::from_secs(5);

/// What the calls need.
#[derive(Clone)]
pub struct Shared {
    pub attacher: Arc<Attacher>,
    /// The pod network, once it is there.
    pub network: watch::Receiver<Option<Network>>,
}

/// Answers calls until `stop`, then lets the running ones finish.
pub async fn serve(listener: UnixListener, shared: Shared, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = calls.join_next(), if !calls.is_empty() => {}
            accepted = listener.accept(), if calls.len() < CALLS_MAX => match accepted {
                Ok((stream, _)) => {
                    calls.spawn(one(stream, shared.clone()));
                }
                Err(err) => warn!(%err, "Accepting a CNI call failed, going on"),
            },
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn one(mut stream: UnixStream, shared: Shared) {
    let mut bytes = Vec::new();
    let mut limited = (&mut stream).take(CALL_MAX_BYTES);
    let read = limited.read_to_end(&mut bytes);
    if !matches!(tokio::time::timeout(READ_MAX, read).await, Ok(Ok(_))) {
        return;
    }
    let answer = answer(&bytes, &shared).await;
    // The plugin may have been killed meanwhile; the runtime then sends DEL.
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        let _ = stream.write_all(&bytes).await;
    }
}

async fn answer(bytes: &[u8], shared: &Shared) -> Answer {
    let call: Call = match serde_json::from_slice(bytes) {
        Ok(call) => call,
        Err(err) => return CniError::decode(err).answer(super::protocol::VERSION),
    };
    let request = match Request::parse(&call) {
        Ok(request) => request,
        Err(err) => return err.answer(super::protocol::VERSION),
    };
    let version = &request.config.cni_version;
    match perform(&request, shared).await {
        Ok(result) => Answer {
            failed: false,
            stdout: result.map(|result| result.to_string()).unwrap_or_default(),
        },
        Err(err) => {
            let (container, command) = (&request.attachment.container, request.command);
            warn!(%container, ?command, err = %err.details, "A CNI call failed");
            err.answer(version)
        }
    }
}

async fn perform(request: &Request, shared: &Shared) -> Result<Option<Value>, CniError> {
    let version = &request.config.cni_version;
    if request.config.kind == "loopback" {
        return loopback(request).await;
    }
    let attacher = &shared.attacher;
    match request.command {
        Command::Add => {
            let network = wait_for_network(shared.network.clone()).await?;
            let to = &request.attachment;
            let attached = attacher.add(to, &request.netns, &network).await?;
            info!(container = %to.container, ip = %attached.address.ip(), "Attached");
            Ok(Some(attached.result(version)))
        }
        Command::Del => {
            attacher.del(&request.attachment).await?;
            info!(container = %request.attachment.container, "Detached");
            Ok(None)
        }
        Command::Check => {
            let checked = attacher.check(&request.attachment, &request.netns);
            checked.await.map(|()| None)
        }
        Command::Gc => {
            let valid = request
                .config
                .valid_attachments
                .clone()
                .ok_or_else(|| CniError::config("GC needs cni.dev/valid-attachments"))?;
            attacher.gc(&valid.into_iter().collect()).await.map(|()| None)
        }
        Command::Status if shared.network.borrow().is_none() => {
            Err(CniError::unavailable("the node has no pod network yet"))
        }
        Command::Status | Command::Version => Ok(None),
    }
}

async fn wait_for_network(
    mut network: watch::Receiver<Option<Network>>,
) -> Result<Network, CniError> {
    let ready = network.wait_for(Option::is_some);
    let late = || CniError::try_later("the node has no pod network yet");
    let ready = tokio::time::timeout(NETWORK_WAIT_MAX, ready).await;
    let ready = ready.map_err(|_| late())?.map_err(|_| late())?;
    ready.clone().ok_or_else(late)
}

/// containerd always runs a plugin of this name first; all there is to do is to bring `lo` up.
async fn loopback(request: &Request) -> Result<Option<Value>, CniError> {
    if request.command != Command::Add {
        return Ok(None);
    }
    let up = async {
        let netns = Netns::open(Path::new(&request.netns))?;
        let (inside, driver) = netns.connect().await?;
        drive(driver, inside.ensure_up("lo", None)).await
    };
    up.await.map_err(CniError::failed)?;
    let version = &request.config.cni_version;
    Ok(Some(loopback_result(&request.netns, version)))
}
