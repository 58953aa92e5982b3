//! What every worker of this process uses.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use client::{EventType, Lister, ObjectReference, Recorder, Rest};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::watch;

use crate::config::Config;
use crate::cri::Runtime;
use crate::image::Images;
use crate::objects::ObjectCache;
use crate::pod::env::Facts;
use crate::pod::labels::PodNames;
use crate::server::cpu_rate::CpuRates;
use crate::typed::Typed;

/// Shared by all workers and the server.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) runtime: Runtime,
    pub(crate) rest: Option<Rest>,
    pub(crate) recorder: Recorder,
    pub(crate) objects: ObjectCache,
    pub(crate) services: Option<Lister<Typed<Service>>>,
    pub(crate) images: Images,
    pub(crate) host_ips: Vec<String>,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    /// Why pods cannot have a network yet; `None` when they can.
    pub(crate) network: watch::Receiver<Option<String>>,
    pub(crate) cpu_rates: CpuRates,
    /// Pod uid by container or sandbox id.
    owners: Mutex<HashMap<String, String>>,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        runtime: Runtime,
        rest: Option<Rest>,
        recorder: Recorder,
        objects: ObjectCache,
        services: Option<Lister<Typed<Service>>>,
        host_ips: Vec<String>,
        allocatable: BTreeMap<String, Quantity>,
        network: watch::Receiver<Option<String>>,
    ) -> Shared {
        let images = Images::new(runtime.clone(), config.serialize_image_pulls);
        Shared {
            config,
            runtime,
            rest,
            recorder,
            objects,
            services,
            images,
            host_ips,
            allocatable,
            network,
            cpu_rates: CpuRates::default(),
            owners: Mutex::default(),
        }
    }

    pub(crate) fn facts<'a>(&'a self, pod_ips: &'a [String]) -> Facts<'a> {
        Facts { host_ips: &self.host_ips, pod_ips, allocatable: &self.allocatable }
    }

    pub(crate) fn own(&self, id: &str, uid: &str) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(id.to_owned(), uid.to_owned());
    }

    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn disown(&self, uid: &str) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_, owner| owner != uid);
    }

    /// An event about the pod, or one of its containers by field path.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        field_path: &str,
        kind: EventType,
        reason: &str,
        message: String,
    ) {
        let about = ObjectReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
            field_path: field_path.to_owned(),
        };
        self.recorder.event(&about, kind, reason, message);
    }
}
