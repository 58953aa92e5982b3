//! The scheduling cycle over a cluster in memory: no API server, no clock, no queue. For benchmarks,
//! and for whoever wants to know where a pod would go.

use std::sync::Arc;

use crate::{
    cache::{Cache, PodInfo},
    config::Configuration,
    framework::{Decision, decide},
    profile::Profile,
    types::{Node, Pod},
};

/// A cluster that fills up.
pub struct Simulator {
    cache: Cache,
    profiles: Vec<Arc<Profile>>,
    turn: usize,
}

impl Simulator {
    /// An empty cluster, scheduled as a KubeSchedulerConfiguration says; an empty text is the
    /// default configuration.
    pub fn new(configuration: &str) -> Result<Self, String> {
        let configuration = match configuration {
            "" => Configuration::default(),
            text => Configuration::parse(text.as_bytes())?,
        };
        Ok(Simulator { cache: Cache::default(), profiles: configuration.profiles, turn: 0 })
    }

    /// Adds or replaces a node, given as JSON.
    pub fn set_node(&mut self, json: &str) -> Result<(), String> {
        let node: Node = serde_json::from_str(json).map_err(|err| format!("node: {err}"))?;
        self.cache.set_node(&Arc::new(node));
        Ok(())
    }

    /// Places a pod, given as JSON, and returns its node; the error is what `FailedScheduling` says.
    pub fn schedule(&mut self, json: &str) -> Result<String, String> {
        let pod: Pod = serde_json::from_str(json).map_err(|err| format!("pod: {err}"))?;
        let info = Arc::new(PodInfo::new(Arc::new(pod)));
        let mut profiles = self.profiles.iter();
        let profile = profiles
            .find(|it| it.scheduler_name == info.pod.scheduler())
            .ok_or_else(|| format!("no profile is called {:?}", info.pod.scheduler()))?;
        self.turn = self.turn.wrapping_add(1);
        match decide(&mut self.cache, profile, &info, self.turn) {
            Decision::Node(node) => {
                self.cache.put(info, &node);
                Ok(node)
            }
            Decision::Unschedulable(failure) => Err(failure.message),
        }
    }
}
