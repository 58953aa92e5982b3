//! Whether pods can have a network: what the runtime says, and what flannel says on D-Bus.
//!
//! Invariant: where `io.k3s.Flannel1` is on the bus its `Ready` must be true; where it is not, the
//! runtime alone decides, so any other network plugin works.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;

use crate::cri::Runtime;

const ASK_FIRST: Duration = Duration::from_millis(50);
const ASK_MAX: Duration = Duration::from_secs(5);
const ASK_WHEN_READY: Duration = Duration::from_secs(30);

#[zbus::proxy(
    interface = "io.k3s.Flannel1",
    default_service = "io.k3s.Flannel1",
    default_path = "/io/k3s"
)]
trait Flannel1 {
    #[zbus(property, name = "PodCIDR")]
    fn pod_cidr(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn ready(&self) -> zbus::Result<bool>;
}

/// What flannel tells; `None` when it is not there.
type Flannel = Option<bool>;

/// Keeps `state` true until `stop`.
pub(crate) async fn follow(
    runtime: Runtime,
    bus: Option<daemon::Bus>,
    state: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let (told, mut flannel) = watch::channel::<Flannel>(None);
    let listening = async {
        match bus {
            Some(bus) => listen_always(&bus, &told).await,
            None => std::future::pending().await,
        }
    };
    let asking = async {
        let mut pause = ASK_FIRST;
        loop {
            let told = *flannel.borrow_and_update();
            let reason = reason(&runtime, told).await;
            let ready = reason.is_none();
            state.send_if_modified(|state| {
                let changed = *state != reason;
                if changed {
                    match &reason {
                        None => tracing::info!("Network became ready"),
                        Some(reason) => tracing::debug!(reason, "Network is not ready"),
                    }
                    *state = reason;
                }
                changed
            });
            let wait = if ready { ASK_WHEN_READY } else { pause };
            tokio::select! {
                _ = flannel.changed() => pause = ASK_FIRST,
                () = tokio::time::sleep(wait) => pause = (pause * 2).min(ASK_MAX),
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
        () = asking => {}
    }
}

async fn reason(runtime: &Runtime, flannel: Flannel) -> Option<String> {
    if flannel == Some(false) {
        return Some("flannel is not ready".to_owned());
    }
    match runtime.status().await {
        Err(err) => Some(format!("container runtime is down: {}", err.message())),
        Ok(status) => {
            let network = status.conditions.iter().find(|c| c.r#type == "NetworkReady");
            network.filter(|network| !network.status).map(|network| network.message.clone())
        }
    }
}

/// Listens on every connection to the bus; without one, flannel is as good as not there.
async fn listen_always(bus: &daemon::Bus, told: &watch::Sender<Flannel>) {
    let mut connections = bus.connections();
    loop {
        let connection = connections.borrow_and_update().clone();
        let listening = async {
            if let Some(connection) = connection
                && let Err(err) = listen(&connection, told).await
            {
                tracing::warn!(%err, "Flannel's readiness cannot be followed, asking the runtime only");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = connections.changed() => if changed.is_err() { return },
            () = listening => {}
        }
        told.send_replace(None);
    }
}

async fn listen(bus: &zbus::Connection, told: &watch::Sender<Flannel>) -> zbus::Result<()> {
    // Every look asks flannel itself: what zbus keeps goes stale when the bus starts flannel.
    let proxy = Flannel1Proxy::builder(bus).cache_properties(CacheProperties::No).build().await?;
    let properties = PropertiesProxy::builder(bus)
        .destination("io.k3s.Flannel1")
        .path("/io/k3s")
        .build()
        .await?;
    let mut owner = proxy.inner().receive_owner_changed().await?;
    let mut changes = properties.receive_properties_changed().await?;
    told.send_replace(proxy.ready().await.ok());
    loop {
        tokio::select! {
            Some(owner) = owner.next() => {
                let state = match owner {
                    Some(_) => Some(proxy.ready().await.unwrap_or(false)),
                    // Gone for a restart: its devices and the runtime's plugin stay.
                    None => None,
                };
                told.send_replace(state);
            }
            Some(_) = changes.next() => {
                if let Ok(value) = proxy.ready().await {
                    if value {
                        let cidr = proxy.pod_cidr().await.unwrap_or_default();
                        tracing::debug!(cidr, "Flannel is ready");
                    }
                    told.send_replace(Some(value));
                }
            }
            else => return Ok(()),
        }
    }
}
