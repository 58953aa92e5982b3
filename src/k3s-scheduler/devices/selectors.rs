//! Expressions about devices: compiled once, run for each device.
//!
//! Invariant: what cannot be evaluated for a device does not select it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use apimachinery::cel::{self, Program, Ty, Val, Vars};
use serde_json::Value;

use super::Device;
use crate::types::quantity;

const KEPT_MAX: usize = 256;

type Kept = HashMap<String, Result<Arc<Program>, String>>;

/// The compiled ones.
#[derive(Default)]
pub(crate) struct Selectors(Mutex<Kept>);

impl Selectors {
    fn program(&self, text: &str) -> Result<Arc<Program>, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(text) {
            return known.clone();
        }
        let scope = BTreeMap::from([("device".to_owned(), Ty::Dyn)]);
        let program = cel::compile(text, &scope).map(Arc::new);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(text.to_owned(), program.clone());
        program
    }

    /// Whether the expression selects a driver's device; an error when it is none.
    pub(super) fn selects(
        &self,
        text: &str,
        driver: &str,
        device: &Device,
    ) -> Result<bool, String> {
        let program = self.program(text)?;
        let mut vars = Vars::default();
        vars.set("device", shown(text, driver, device));
        Ok(matches!(program.run(&vars), Ok(Val::Bool(true))))
    }
}

/// The variable `device`. A domain that a device says nothing of is empty, not missing, so the
/// domains that the expression looks up are there.
fn shown(text: &str, driver: &str, device: &Device) -> Val {
    let domains = || {
        let quoted = text.split('[').skip(1).filter_map(|rest| {
            let quote = rest.chars().next().filter(|it| matches!(it, '"' | '\''))?;
            rest[1..].split(quote).next()
        });
        quoted.chain([driver]).collect::<BTreeSet<&str>>()
    };
    let by_domain = |values: &BTreeMap<String, Value>, value: fn(&Value) -> Option<Val>| {
        let mut all: BTreeMap<&str, Vec<(&str, Val)>> =
            domains().into_iter().map(|domain| (domain, Vec::new())).collect();
        for (name, raw) in values {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            let Some(value) = value(raw) else { continue };
            all.entry(domain).or_default().push((id, value));
        }
        Val::object(all.into_iter().map(|(domain, values)| (domain, Val::object(values))))
    };
    Val::object([
        ("driver", Val::text(driver)),
        ("attributes", by_domain(&device.attributes, attribute)),
        ("capacity", by_domain(&device.capacity, |it| Some(Val::quantity(quantity(&it["value"]))))),
        ("allowMultipleAllocations", Val::from_json(&Value::Bool(false))),
    ])
}

fn attribute(value: &Value) -> Option<Val> {
    let (kind, value) = value.as_object()?.iter().next()?;
    match kind.as_str() {
        "version" => Val::semver(value.as_str()?),
        _ => Some(Val::from_json(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_select_by_driver_attributes_and_capacity() {
        let device: Device = serde_json::from_value(serde_json::json!({
            "name": "d",
            "attributes": {
                "model": {"string": "a"}, "other.io/index": {"int": 3}, "on": {"bool": true},
                "driverVersion": {"version": "1.2.3"},
            },
            "capacity": {"memory": {"value": "40Gi"}},
        }))
        .unwrap();
        let selectors = Selectors::default();
        let check = |text: &str, want: Result<bool, ()>| {
            let found = selectors.selects(text, "x.io", &device).map_err(drop);
            assert_eq!(found, want, "{text}");
        };
        check("device.driver == 'x.io'", Ok(true));
        check("device.attributes['x.io'].model == 'a' && device.attributes['x.io'].on", Ok(true));
        check("device.attributes['other.io'].index > 2", Ok(true));
        check("device.attributes['other.io'].index > 3", Ok(false));
        check("device.attributes['x.io'].driverVersion.isGreaterThan(semver('1.0.0'))", Ok(true));
        check("device.capacity['x.io'].memory.compareTo(quantity('20Gi')) > 0", Ok(true));
        check("!has(device.attributes['none.io'].model)", Ok(true));
        check("device.attributes['none.io'].model == 'a'", Ok(false));
        check("device.driver ==", Err(()));
    }
}
