//! Keeps levels and flows as the objects say, and moves seats between levels while they are short.
//!
//! Sleeps until the configuration changes or a request found no seat.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use http::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::level::Level;
use super::schema::Schema;
use super::share::{Share, allot, divide};
use super::{Config, Flow, FlowControl, SEATS};
use crate::api_server::ApiServer;
use crate::registry::Object;
use crate::registry::value::text;

const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
/// How often seats move while there is demand, as upstream does.
const ADJUST: Duration = Duration::from_secs(10);
/// Changes come in bursts.
const GATHER: Duration = Duration::from_millis(100);

/// Runs until `stop`.
pub async fn run(server: Arc<ApiServer>, stop: CancellationToken) {
    let stores: Vec<_> =
        [SCHEMAS, LEVELS].iter().filter_map(|name| server.storage.store(name)).collect();
    let flow_control = &server.flow_control;
    let mut pressed = false;
    loop {
        let changed = async {
            let mut notified = select_all(stores.iter().map(|store| {
                let mut notified = Box::pin(store.changed.notified());
                notified.as_mut().enable();
                notified
            }));
            let objects = |name: &str| -> Vec<Object> {
                server.cluster.list(name, "").iter().map(|entry| entry.object()).collect()
            };
            flow_control.configure(&objects(SCHEMAS), &objects(LEVELS), SEATS);
            loop {
                tokio::select! {
                    _ = &mut notified => return,
                    () = flow_control.pressed.notified(), if !pressed => {
                        pressed = true;
                        flow_control.adjust();
                    }
                    () = tokio::time::sleep(ADJUST), if pressed => {
                        pressed = flow_control.adjust();
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
    }
}

impl FlowControl {
    /// Puts these objects into force. Levels go on with whom they serve.
    pub(super) fn configure(&self, schemas: &[Object], levels: &[Object], seats: u32) {
        let before = self.config.load_full();
        let shares = divide(levels, seats);
        let mut by_name: HashMap<String, (Arc<Level>, HeaderValue)> = HashMap::new();
        for (object, share) in levels.iter().zip(shares) {
            let made = Level::new(object);
            let known =
                before.flows.iter().map(|flow| &flow.level).find(|level| {
                    level.name() == made.name() && level.is_exempt() == made.is_exempt()
                });
            let level = known.cloned().unwrap_or_else(|| Arc::new(made));
            level.configure(object, share);
            let uid = HeaderValue::from_str(text(object, "metadata.uid"));
            let uid = uid.unwrap_or_else(|_| HeaderValue::from_static(""));
            by_name.insert(level.name().to_owned(), (level, uid));
        }
        let mut flows: Vec<Flow> = Vec::new();
        for object in schemas {
            let schema = Schema::read(object);
            // A schema whose level is missing chooses nothing.
            let Some((level, level_uid)) = by_name.get(&schema.level).cloned() else { continue };
            let known = before.flows.iter().find(|flow| flow.schema.name == schema.name);
            let counts = known.map(|flow| flow.counts.clone()).unwrap_or_default();
            flows.push(Flow { schema, level, level_uid, counts });
        }
        flows.sort_by(|a, b| {
            (a.schema.precedence, &a.schema.name).cmp(&(b.schema.precedence, &b.schema.name))
        });
        self.config.store(Arc::new(Config { flows }));
    }

    /// Moves seats to where they are asked for; says whether any level is short of its own.
    fn adjust(&self) -> bool {
        let config = self.config.load();
        let mut levels: Vec<Arc<Level>> = Vec::new();
        for flow in &config.flows {
            let known = levels.iter().any(|level| Arc::ptr_eq(level, &flow.level));
            if !flow.level.is_exempt() && !known {
                levels.push(flow.level.clone());
            }
        }
        let shares: Vec<Share> = levels.iter().map(|level| level.share()).collect();
        let demands: Vec<u32> = levels.iter().map(|level| level.take_peak()).collect();
        for (level, limit) in levels.iter().zip(allot(&shares, &demands)) {
            level.set_limit(limit);
        }
        demands.iter().zip(&shares).any(|(demand, share)| *demand >= share.nominal)
    }
}
