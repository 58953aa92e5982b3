//! Compaction: the store gives up what is older than one to two intervals, and so do pages of lists.
//!
//! Servers that share a store take turns by a key of upstream's: whoever changes it first has the
//! turn. Invariant: a revision is given up only after everybody has had a whole interval for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use etcd::etcdserverpb::CompactionRequest;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Storage;
use super::write::{Change, Outcome};

const KEY: &str = "compact_rev_key";

/// What the last look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    /// The revision of the key.
    turn: i64,
    /// The store's revision; 0 before the first look.
    revision: i64,
}

/// Compacts every so often until `stop`.
pub async fn run(storage: Arc<Storage>, every: Duration, stop: CancellationToken) {
    let mut last = Look::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match look(&storage, last).await {
            Ok(next) => last = next,
            Err(err) => {
                warn!(err = %format_args!("{err:#}"), "Could not compact the store, retrying");
            }
        }
    }
}

async fn look(storage: &Storage, last: Look) -> anyhow::Result<Look> {
    let value = Bytes::from(last.revision.to_string());
    let change = Change::Put { value, lease: 0 };
    let taken = storage.write(KEY, last.turn, change).await;
    match taken.map_err(|err| anyhow::anyhow!(err.message)).context("take the turn")? {
        Outcome::Done(turn) => {
            if last.revision > 0 {
                compact(storage, last.revision).await?;
            }
            Ok(Look { turn, revision: turn })
        }
        Outcome::Conflict(theirs) => {
            let value = theirs.as_ref().map(|kv| String::from_utf8_lossy(&kv.value));
            let given_up = value.and_then(|text| text.parse().ok()).unwrap_or(0);
            storage.give_up(given_up);
            let turn = theirs.map_or(0, |kv| kv.mod_revision);
            Ok(Look { turn, revision: storage.revision() })
        }
    }
}

async fn compact(storage: &Storage, revision: i64) -> anyhow::Result<()> {
    let request = CompactionRequest { revision, physical: false };
    match storage.client.compact(request).await {
        Err(err) if err != etcd::status::COMPACTED => {
            Err(err).with_context(|| format!("compact revision {revision}"))
        }
        _ => {
            storage.give_up(revision);
            Ok(())
        }
    }
}
