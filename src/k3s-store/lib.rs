//! The datastore: the etcd v3 API over one SQLite file.
//!
//! ```text
//! connection ── check ──> writer thread: apply in memory, insert, one sync for all ──> SQLite
//!      │                      └──> index (keys, versions), hub (recent changes, watchers)
//!      ├── range:  index ──> values from the hub's ring, else a reading connection
//!      └── watch:  hub, and the history on disk while catching up
//! ```
//!
//! It knows nothing of Kubernetes: keys and values are bytes. Invariant: acknowledged means on
//! the disk; a revision, once seen by anybody, never means something else.
//!
//! Heartbeats are written like everything else: one node's lease is one page and one sync in ten
//! seconds. With many nodes the batches of `/registry/leases/` may be committed without a sync
//! (`synchronous=NORMAL`), for the next sync of the log covers them; the price is that after a
//! power loss revisions that were seen are missing, so the first revision of another boot then
//! has to start beyond all that could have been given out.

mod apply;
mod bus;
mod check;
mod database;
mod failure;
mod hub;
mod index;
mod keys;
mod lessor;
mod log;
mod select;
mod service;
mod shared;
mod watch;
mod writer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use daemon::{ConfigError, Listener};
use etcd::Endpoint;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::bus::Store1;
use crate::database::Database;
use crate::service::Store;
use crate::shared::Shared;
use crate::writer::Writer;

pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-store", bus: "io.k3s.Store1" };

/// Writes that may wait for the disk.
const JOBS_MAX: usize = 4096;
/// How long calls in progress may take once the store is told to stop.
const DRAIN: Duration = Duration::from_secs(3);
/// After an accept error (no descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// The database file
    #[arg(long, value_name = "FILE", default_value = "/var/lib/rancher/k3s/server/db/state.db")]
    pub db: PathBuf,
    /// Where to listen when no socket was passed
    #[arg(long, value_name = "ENDPOINT", default_value = "unix:///run/k3s/store.sock")]
    pub listen: String,
    /// More endpoints to listen on, as etcd names them
    #[arg(long, value_name = "ENDPOINT,…", value_delimiter = ',')]
    pub listen_client_urls: Vec<String>,
    /// Seconds without events after which a watch that asked for it is told the revision
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub watch_progress_notify_interval: u64,
}

/// Serves until `cx.stop`.
pub async fn run(cx: daemon::Context, args: Args) -> Result<()> {
    let (database, state, identity) = Database::open(&args.db)?;
    let listeners = listeners(&cx, &args)?;
    info!(revision = state.revision, "Opened database");
    let shared = Arc::new(Shared::new(args.db.clone(), state, identity));
    let (jobs, queue) = mpsc::channel(JOBS_MAX);
    let writer = Writer::new(database, shared.clone(), queue);
    let (finished, mut writer_done) = oneshot::channel();
    std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            let _ = finished.send(writer.run());
        })
        .context("cannot start the writer thread")?;
    let stop = cx.stop.child_token();
    let interval = Duration::from_secs(args.watch_progress_notify_interval.max(1));
    let store = Arc::new(Store::new(shared.clone(), jobs, interval, stop.clone()));

    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(listener, store.clone(), stop.clone()));
    }
    let leases = store.clone();
    tasks.spawn(async move { leases.expire_leases().await });
    tasks.spawn(report_health(cx.clone(), shared.clone(), stop.clone()));
    cx.bus().offer(Store1 { store: store.clone() }).await?;
    drop(store);
    cx.status("Serving");
    cx.ready();

    let early = tokio::select! {
        () = cx.stop.cancelled() => None,
        done = &mut writer_done => Some(done),
    };
    stop.cancel();
    cx.bus().withdraw::<Store1>().await;
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        warn!("Calls did not end in time, dropping them");
        tasks.shutdown().await;
    }
    shared.close_readers();
    // With the last sender gone the writer commits what is queued and closes the database.
    match early {
        Some(done) => match done.map_err(|_| anyhow!("the writer thread died"))? {
            Ok(()) => bail!("the writer thread ended by itself"),
            Err(err) => Err(err).context(format!("database {}", args.db.display())),
        },
        None => writer_done.await.map_err(|_| anyhow!("the writer thread died"))?,
    }
}

/// Tells the supervisor and the bus when writes are refused.
async fn report_health(cx: daemon::Context, shared: Arc<Shared>, stop: CancellationToken) {
    let mut full = shared.fullness();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = full.changed() => if changed.is_err() { return },
        }
        cx.health(match *full.borrow_and_update() {
            true => Err(format!("no room for {}: writes are refused", shared.path.display())),
            false => Ok(()),
        });
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The passed socket or the configured one, and the additional ones.
fn listeners(cx: &daemon::Context, args: &Args) -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    match cx.listener("store") {
        Some(passed) => found.push(passed),
        None => found.push(bind(&args.listen)?),
    }
    for url in &args.listen_client_urls {
        found.push(bind(url)?);
    }
    found
        .into_iter()
        .map(|listener| match listener {
            Listener::Tcp(tcp) => Ok(Socket::Tcp(TcpListener::from_std(tcp)?)),
            Listener::Unix(unix) => Ok(Socket::Unix(UnixListener::from_std(unix)?)),
            Listener::Udp(_) => bail!("socket store: expected a stream socket, got UDP"),
        })
        .collect()
}

fn bind(url: &str) -> Result<Listener> {
    let endpoint = Endpoint::parse(url).map_err(|err| ConfigError(err.to_string()))?;
    match endpoint {
        Endpoint::Unix(path) => daemon::bind_unix(Path::new(&path), 0o600),
        Endpoint::Http(authority) => {
            let addr: SocketAddr = authority.as_str().parse().map_err(|_| {
                ConfigError(format!("endpoint {url}: expected an IP address and a port"))
            })?;
            daemon::bind_tcp(addr)
        }
    }
}

/// Serves one listener until `stop` and the end of its connections.
async fn accept(listener: Socket, store: Arc<Store>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(io) => {
                    let (store, stop) = (store.clone(), stop.clone());
                    connections.spawn(async move {
                        if let Err(err) = etcd::server::serve(io, store, stop).await {
                            debug!(%err, "Connection ended");
                        }
                    });
                }
                Err(err) => {
                    warn!(%err, "Failed to accept a connection, retrying");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

impl Socket {
    async fn accept(&self) -> std::io::Result<Either<UnixStream, TcpStream>> {
        match self {
            Self::Unix(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (io, _) = listener.accept().await?;
                io.set_nodelay(true)?;
                Ok(Either::Right(io))
            }
        }
    }
}
