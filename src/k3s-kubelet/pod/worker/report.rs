//! The pod's status on its way to the API, and the deletion of a pod that has ended.
//!
//! Invariant: one write is under way at a time, and the next holds whatever changed meanwhile.

use std::sync::Arc;

use client::{Key, PartialObject, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::super::labels::PodNames as _;
use super::super::state::{Ending, Target};
use super::super::status::{self, NodeFacts};
use super::{Outcome, RETRY_FIRST, RETRY_MAX, View, Worker};
use crate::typed::PODS;

impl Worker {
    /// Publishes the status and writes it to the API when it differs; then deletes a pod that ended.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<Timestamp> {
        let facts = NodeFacts { host_ips: &self.shared.host_ips };
        // Conditions keep the times that this worker last wrote, not what a late watch event has.
        let mut pod = Pod::clone(&self.pod);
        let mut base = pod.status.take().unwrap_or_default();
        merge_written(&mut base, &self.written);
        pod.status = Some(base);
        let want = status::status(&pod, &self.observed, &self.memory, &facts, now);
        self.view.send_if_modified(|view| {
            let changed = view.status != want || view.observed != self.observed;
            if changed {
                *view = View { status: want.clone(), observed: self.observed.clone() };
            }
            changed
        });
        let Some(rest) = self.shared.rest.clone() else {
            self.written = want;
            return None;
        };
        if self.writing || self.gone && !self.is_static {
            return None;
        }
        if let Some(at) = self.write_retry_at
            && at > now
        {
            return Some(at);
        }
        let of =
            if self.is_static { Arc::clone(self.mirror.as_ref()?) } else { Arc::clone(&self.pod) };
        let key = Key::new(of.namespace(), of.name());
        if let Some(patch) = status::patch(of.uid(), &self.written, &want) {
            self.writing = true;
            let target = Target::Remove("patch".into());
            self.operations.spawn(async move {
                let sent = rest
                    .patch::<PartialObject>(&PODS, &key, "status", Patch::Strategic, &patch)
                    .await;
                let gone = sent
                    .as_ref()
                    .is_err_and(|err| client::is_not_found(err) || client::is_conflict(err));
                let version = sent.as_ref().map_or(0, |pod| number(&pod.metadata.resource_version));
                let result = match sent {
                    Ok(_) => Ok(()),
                    Err(_) if gone => Ok(()),
                    Err(err) => Err(format!("writing the status: {err}")),
                };
                (target, Outcome::Patched { want, version, result, gone })
            });
            return None;
        }
        let over =
            matches!(self.memory.ending, Some(Ending::Deleted { .. })) && self.memory.finished;
        let asked = self.pod.metadata.deletion_timestamp.is_some();
        if over && asked && !self.is_static && !self.deleting && !self.deleted {
            self.deleting = true;
            self.writing = true;
            let options = serde_json::json!({
                "gracePeriodSeconds": 0, "preconditions": {"uid": of.uid()}
            });
            let target = Target::Remove("delete".into());
            self.operations.spawn(async move {
                let result = match rest.delete_with(&PODS, &key, options).await {
                    Err(err) if !client::is_not_found(&err) && !client::is_conflict(&err) => {
                        Err(format!("deleting the pod: {err}"))
                    }
                    _ => Ok(()),
                };
                (target, Outcome::Deleted { result })
            });
        }
        None
    }

    /// Takes note of conditions of ours that another writer changed after our last write (the node
    /// lifecycle controller marks pods not ready), so that the next report puts them right.
    pub(super) fn heed_others(&mut self) {
        let version = self.pod.metadata.resource_version.as_deref().unwrap_or_default();
        if self.writing || self.is_static || number(version) <= self.written_version {
            return;
        }
        let theirs = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        for ours in self.written.conditions.iter_mut().flatten() {
            let same = |theirs: &&PodCondition| theirs.type_ == ours.type_;
            if let Some(theirs) = theirs.into_iter().flatten().find(same) {
                *ours = theirs.clone();
            }
        }
    }

    pub(super) fn write_failed(&mut self, message: &str) {
        let pause =
            (RETRY_FIRST * 2_u32.saturating_pow(self.write_failures.min(10))).min(RETRY_MAX);
        self.write_failures += 1;
        self.write_retry_at = Some(Timestamp::now() + pause);
        tracing::warn!(pod = %self.pod.key(), err = %message, "API was not written, retrying");
    }
}

/// A resource version as the number that it is in our store and in etcd; 0 for anything else.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// What this kubelet wrote last wins over what the watch has brought so far.
fn merge_written(base: &mut PodStatus, written: &PodStatus) {
    let mut conditions = base.conditions.take().unwrap_or_default();
    for condition in written.conditions.iter().flatten() {
        match conditions.iter_mut().find(|have| have.type_ == condition.type_) {
            Some(have) if have.status == condition.status => {
                have.last_transition_time = condition.last_transition_time.clone();
            }
            Some(have) => *have = condition.clone(),
            None => conditions.push(condition.clone()),
        }
    }
    base.conditions = Some(conditions);
    if written.phase.is_some() {
        base.phase = written.phase.clone();
        base.reason = written.reason.clone();
        base.message = written.message.clone();
        base.container_statuses = written.container_statuses.clone();
        base.init_container_statuses = written.init_container_statuses.clone();
        base.ephemeral_container_statuses = written.ephemeral_container_statuses.clone();
        base.start_time = base.start_time.clone().or_else(|| written.start_time.clone());
    }
}
