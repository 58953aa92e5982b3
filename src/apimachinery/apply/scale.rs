//! Managers of a `Scale` and of the object that it scales.
//!
//! Invariant: through `/scale` only the ownership of the replica count can change hands.

use serde_json::Value;

use super::managers::{Manager, Managers, managed_fields};
use super::set::Set;

const SCALE_VERSION: &str = "autoscaling/v1";

fn replicas() -> Set {
    Set::of_fields(&[&["spec", "replicas"]])
}

/// `metadata.managedFields` for the Scale of an object: those who own its replica count at `path`.
pub fn to_scale(parent: &Value, path: &[&str]) -> Option<Value> {
    let wanted = Set::of_fields(&[path]);
    let mut managers = Managers::of(parent);
    managers.0.retain_mut(|manager| {
        let owns = !manager.set.intersection(&wanted).is_empty();
        manager.set = replicas();
        manager.api_version = SCALE_VERSION.to_owned();
        owns
    });
    managers.write()
}

/// `metadata.managedFields` for an object at `api_version` after its Scale was written.
pub fn from_scale(
    parent: &Value,
    scale: &Value,
    path: &[&str],
    api_version: &str,
) -> Option<Value> {
    let wanted = Set::of_fields(&[path]);
    let mut managers = Managers::of(parent);
    let mut scalers = Managers::read(managed_fields(scale)).unwrap_or_default();
    scalers.0.retain_mut(|manager| {
        let owns = !manager.set.intersection(&replicas()).is_empty();
        manager.set = wanted.clone();
        manager.api_version = api_version.to_owned();
        manager.time = None;
        owns
    });
    for manager in &mut managers.0 {
        let same = |scaler: &Manager| scaler.is(manager);
        match scalers.0.iter().position(same) {
            Some(at) => {
                let scaler = scalers.0.remove(at);
                if manager.set.intersection(&wanted).is_empty() {
                    manager.set = std::mem::take(&mut manager.set).union(scaler.set);
                }
            }
            None => manager.set.subtract(&wanted),
        }
    }
    managers.drop_empty();
    managers.0.append(&mut scalers.0);
    managers.write()
}
