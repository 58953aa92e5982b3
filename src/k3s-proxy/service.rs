//! The loop: objects that changed become plans, plans become differences, differences go into the
//! kernel.
//!
//! There is no tick: what is queued when the loop comes round is one transaction. Invariant: after
//! a failure everything is described anew before the next difference is applied.

use crate::claims::{Claims, Difference, Owner};
use crate::flows::Changed;
use crate::health::State;
use crate::kernel::Kernel;
use crate::objects::{EndpointSlice, Pod, SERVICE_NAME, Service, ZONE};
use crate::plan::{self, Place, Plan};
use anyhow::Result;
use client::{Index, Key, Lister, PartialObject};
use daemon::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

const RETRY: Duration = Duration::from_secs(1);

/// The objects that changed since the loop last looked.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    owners: Mutex<BTreeSet<Owner>>,
    /// The zone of this node may be another one.
    moved: AtomicBool,
    notify: Notify,
}

impl Dirty {
    pub(crate) fn add(&self, owner: Owner) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(owner);
        self.notify.notify_one();
    }

    pub(crate) fn node_changed(&self) {
        self.moved.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<Owner> {
        std::mem::take(&mut *self.owners.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.clone(), name.clone()))
}

pub(crate) fn index_term(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

pub(crate) struct Proxy {
    pub(crate) cx: Context,
    pub(crate) here: Place,
    pub(crate) nodes: Lister<PartialObject>,
    pub(crate) services: Lister<Service>,
    pub(crate) slices: Lister<EndpointSlice>,
    pub(crate) slices_of: Index,
    pub(crate) pods: Lister<Pod>,
    pub(crate) dirty: Arc<Dirty>,
    pub(crate) kernel: Kernel,
    pub(crate) claims: Claims,
    pub(crate) health: watch::Sender<State>,
}

impl Proxy {
    /// The caches are complete when this is called.
    pub(crate) async fn run(mut self) -> Result<()> {
        let stop = self.cx.stop.clone();
        self.here.zone = self.zone();
        self.plan_everything();
        let mut whole = true;
        loop {
            if self.dirty.moved.swap(false, Ordering::Relaxed) {
                let zone = self.zone();
                if zone != self.here.zone {
                    self.here.zone = zone;
                    self.plan_everything();
                }
            }
            let failed = match self.round(whole).await {
                Ok(()) => {
                    whole = false;
                    self.report();
                    false
                }
                Err(err) => {
                    let text = format!("{err:#}");
                    warn!(err = %text, "Updating the rules failed, retrying");
                    self.health.send_modify(|state| state.healthy = false);
                    self.cx.health(Err(text));
                    whole = true;
                    true
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.dirty.notify.notified(), if !failed => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    fn zone(&self) -> String {
        let node = self.nodes.get(&Key::cluster(&self.here.node));
        node.and_then(|node| node.metadata.labels.get(ZONE).cloned()).unwrap_or_default()
    }

    fn plan_everything(&mut self) {
        for service in self.services.list() {
            self.dirty.add(Owner::Service(service.metadata.key()));
        }
        for pod in self.pods.list() {
            self.dirty.add(Owner::Pod(pod.metadata.key()));
        }
    }

    async fn round(&mut self, whole: bool) -> Result<()> {
        let mut merged: BTreeMap<_, Difference> = BTreeMap::new();
        let mut flows = Changed::default();
        for owner in self.dirty.take() {
            let plan = self.plan(&owner);
            flows.note(self.claims.plan(&owner), &plan);
            for next in self.claims.set(owner, plan) {
                match merged.get_mut(&next.slot) {
                    Some(first) => first.new = next.new,
                    None => {
                        merged.insert(next.slot.clone(), next);
                    }
                }
            }
        }
        merged.retain(|_, difference| difference.old != difference.new);
        if whole {
            self.kernel.replace(&self.claims).await?;
            info!(elements = self.claims.effective().len(), "Replaced the rules");
        } else if !merged.is_empty() {
            let changes: Vec<Difference> = merged.into_values().collect();
            let applied = self.kernel.change(&self.claims, &changes).await?;
            debug!(changes = changes.len(), ?applied, "Changed the rules");
        }
        if !flows.is_empty() {
            match flows.flush() {
                Ok(0) => {}
                Ok(count) => debug!(count, "Ended UDP flows to endpoints that are gone"),
                Err(err) => warn!(%err, "Ending stale UDP flows failed, ignoring"),
            }
        }
        Ok(())
    }

    fn plan(&self, owner: &Owner) -> Plan {
        match owner {
            Owner::Service(key) => {
                let Some(service) = self.services.get(key) else {
                    return Plan::default();
                };
                let slices = self.slices.by_index(self.slices_of, &index_term(key));
                plan::service(&service, &slices, &self.here)
            }
            Owner::Pod(key) => {
                let pod = self.pods.get(key);
                pod.map(|pod| plan::pod(&pod)).unwrap_or_default()
            }
        }
    }

    fn report(&self) {
        let mut checks = BTreeMap::new();
        let mut services = 0;
        for (owner, plan) in self.claims.plans() {
            if let Owner::Service(key) = owner {
                services += 1;
                if let Some((port, local)) = plan.health_check {
                    checks.insert(port, (key.clone(), local));
                }
            }
        }
        self.health.send_replace(State { healthy: true, updated: Some(SystemTime::now()), checks });
        self.cx.status(format!("Serving {services} services"));
        self.cx.health(Ok(()));
        self.cx.ready();
    }
}
