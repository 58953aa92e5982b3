//! The loop that every controller shares: keys from a queue, several in flight, each at most once
//! at a time; errors are logged here, once, and come back with back-off.

use std::{fmt::Display, future::Future, hash::Hash, time::Duration};

use anyhow::Result;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{queue::WorkQueue, rest};

/// What a reconciliation wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until the next event.
    Done,
    /// To be called again after this time, if no event comes before.
    RequeueAfter(Duration),
}

impl Action {
    /// The earlier of two.
    pub fn min(self, other: Action) -> Action {
        match (self, other) {
            (Action::Done, other) => other,
            (this, Action::Done) => this,
            (Action::RequeueAfter(a), Action::RequeueAfter(b)) => Action::RequeueAfter(a.min(b)),
        }
    }
}

/// Works on the queue's keys until `stop`, at most `workers` at a time. What is in flight when
/// `stop` comes is dropped at its next await: every reconciliation can be repeated.
pub async fn run_workers<K, F, Fut>(
    controller: &'static str,
    queue: WorkQueue<K>,
    workers: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Hash + Eq + Ord + Clone + Display + Send + Sync,
    F: Fn(K) -> Fut + Sync,
    Fut: Future<Output = Result<Action>> + Send,
{
    work(controller, queue, workers, stop, &|key| reconcile(key).boxed()).await;
}

/// One loop for all reconciliations: they differ in what is on the heap.
async fn work<'a, K>(
    controller: &'static str,
    queue: WorkQueue<K>,
    workers: usize,
    stop: CancellationToken,
    reconcile: &'a (dyn Fn(K) -> BoxFuture<'a, Result<Action>> + Sync),
) where
    K: Hash + Eq + Ord + Clone + Display + Send + Sync,
{
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            key = queue.next(), if in_flight.len() < workers => {
                let work = reconcile(key.clone());
                in_flight.push(async move { (key, work.await) });
            }
            Some((key, outcome)) = in_flight.next() => {
                settle(controller, &queue, &key, outcome);
                queue.done(&key);
            }
        }
    }
}

fn settle<K: Hash + Eq + Ord + Clone + Display>(
    controller: &'static str,
    queue: &WorkQueue<K>,
    key: &K,
    outcome: Result<Action>,
) {
    match outcome {
        Ok(Action::Done) => queue.forget(key),
        Ok(Action::RequeueAfter(delay)) => {
            queue.forget(key);
            queue.add_after(key.clone(), delay);
        }
        Err(err) => {
            let text = words(&err);
            let conflict = err
                .chain()
                .any(|cause| cause.downcast_ref::<kube::Error>().is_some_and(rest::is_conflict));
            if conflict {
                tracing::debug!(controller, object = %key, err = text, "Reconciliation met a conflict, retrying");
            } else {
                tracing::warn!(controller, object = %key, err = text, "Reconciliation failed, retrying");
            }
            queue.add_rate_limited(key.clone());
        }
    }
}

/// The chain of causes, with the server's own words for API errors.
fn words(err: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in err.chain() {
        let api = cause.downcast_ref::<kube::Error>();
        let part = api.map_or_else(|| cause.to_string(), rest::describe);
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
        if api.is_some() {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn errors_come_back_and_success_does_not() {
        let queue = WorkQueue::new();
        let stop = CancellationToken::new();
        let calls = AtomicUsize::new(0);
        queue.add("a");
        run_workers("test", queue.clone(), 2, stop.clone(), |_| async {
            if calls.fetch_add(1, Ordering::Relaxed) < 2 {
                anyhow::bail!("not yet");
            }
            stop.cancel();
            Ok(Action::Done)
        })
        .await;
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }
}
