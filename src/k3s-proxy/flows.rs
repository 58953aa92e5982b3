//! UDP flows that still go to endpoints which are gone. TCP notices by itself, UDP does not.
//!
//! Invariant: only flows to frontends that just changed are looked at.

use crate::plan::{Plan, Udp};
use netlink::conntrack::{self, Family, Flow};
use std::net::IpAddr;

/// The changed frontends with the endpoints that they have now.
#[derive(Debug, Default)]
pub struct Changed(Vec<Udp>);

impl Changed {
    /// Notes what changed between two plans of one object.
    pub fn note(&mut self, old: Option<&Plan>, new: &Plan) {
        let old = old.map_or(&[][..], |plan| plan.udp.as_slice());
        for before in old {
            let still = new.udp.iter().any(|now| (now.ip, now.port) == (before.ip, before.port));
            if !still {
                let endpoints = Vec::new();
                self.0.push(Udp { endpoints, ..before.clone() });
            }
        }
        for now in &new.udp {
            if !old.contains(now) {
                self.0.push(now.clone());
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let hit = |udp: &&Udp| udp.port == flow.to.1 && udp.ip.is_none_or(|ip| ip == flow.to.0);
        let mut frontends = self.0.iter().filter(hit);
        flow.udp && frontends.any(|udp| !udp.endpoints.contains(&flow.from))
    }

    /// Deletes the flows and says how many there were.
    pub fn flush(&self) -> netlink::Result<usize> {
        let mut deleted = 0;
        let is_v6 = |udp: &Udp| {
            let mut ips = udp.ip.into_iter().chain(udp.endpoints.iter().map(|(ip, _)| *ip));
            ips.any(|ip: IpAddr| ip.is_ipv6())
        };
        if self.0.iter().any(|udp| !is_v6(udp)) {
            deleted += conntrack::delete(Family::V4, |flow| self.is_stale(flow))?;
        }
        if self.0.iter().any(is_v6) {
            deleted += conntrack::delete(Family::V6, |flow| self.is_stale(flow))?;
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let ip = |last| IpAddr::from([10, 42, 0, last]);
        let service = IpAddr::from([10, 43, 0, 10]);
        let plan = |endpoints| Plan {
            udp: vec![Udp { ip: Some(service), port: 53, endpoints }],
            ..Plan::default()
        };
        let flow = |udp, to, from| Flow { udp, to: (to, 53), from: (from, 53) };
        let mut changed = Changed::default();
        let two = plan(vec![(ip(1), 53), (ip(2), 53)]);
        changed.note(Some(&two), &two);
        assert!(changed.is_empty());
        changed.note(Some(&two), &plan(vec![(ip(2), 53)]));
        assert!(changed.is_stale(&flow(true, service, ip(1))));
        assert!(changed.is_stale(&flow(true, service, service)));
        assert!(!changed.is_stale(&flow(true, service, ip(2))));
        assert!(!changed.is_stale(&flow(false, service, ip(1))));
        assert!(!changed.is_stale(&flow(true, ip(9), ip(1))));
        let mut gone = Changed::default();
        gone.note(Some(&two), &Plan::default());
        assert!(gone.is_stale(&flow(true, service, ip(2))));
    }
}
