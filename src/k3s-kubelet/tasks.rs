//! Tasks that begin in the middle of something: handed to a set that somebody awaits.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands tasks over. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Spawner {
    tasks: mpsc::Sender<Task>,
}

/// Runs what was handed over.
pub(crate) struct Nursery {
    tasks: mpsc::Receiver<Task>,
}

/// A spawner that holds at most `waiting` tasks not yet begun.
pub(crate) fn nursery(waiting: usize) -> (Spawner, Nursery) {
    let (sender, tasks) = mpsc::channel(waiting);
    (Spawner { tasks: sender }, Nursery { tasks })
}

impl Spawner {
    /// Begins the task soon; fails when too many wait or the process is stopping.
    pub(crate) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.tasks
            .try_send(Box::pin(task))
            .map_err(|_| anyhow::anyhow!("too many tasks are waiting"))
    }
}

impl Nursery {
    /// Runs tasks until `stop`, which ends them all.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                task = self.tasks.recv() => match task {
                    Some(task) => { running.spawn(task); }
                    None => break,
                },
                Some(_) = running.join_next() => {}
            }
        }
        running.shutdown().await;
    }
}
