//! Who wants which element, and which changes follow when an object's plan changes.
//!
//! Two objects may want the same key (an external address twice, a pod in two services); the first
//! by name wins, and when it goes the next one follows. Invariant: `effective` is what the kernel
//! holds once the returned changes are applied.

use crate::element::{Family, Found, Slot};
use crate::plan::Plan;
use crate::shape::{Shape, Sources, Target};
use client::Key;
use std::collections::{BTreeMap, BTreeSet};

/// The object behind a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Service(Key),
    Pod(Key),
}

#[derive(Debug, Default)]
pub struct Claims {
    plans: BTreeMap<Owner, Plan>,
    wanted: BTreeMap<Slot, BTreeMap<Owner, Found>>,
    effective: BTreeMap<Slot, Found>,
    /// How many plans lead to each target.
    targets: BTreeMap<(Family, Target), usize>,
    sources: BTreeMap<(Family, Sources), usize>,
}

/// Old and new value of one element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub slot: Slot,
    pub old: Option<Found>,
    pub new: Option<Found>,
}

impl Claims {
    /// Replaces the plan of one object.
    pub fn set(&mut self, owner: Owner, plan: Plan) -> Vec<Difference> {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.plans.remove(&owner) {
            old.targets.iter().for_each(|target| leave(&mut self.targets, target));
            old.sources.iter().for_each(|sources| leave(&mut self.sources, sources));
            for slot in old.elements.into_keys() {
                if let Some(claims) = self.wanted.get_mut(&slot) {
                    claims.remove(&owner);
                }
                touched.insert(slot);
            }
        }
        for (slot, found) in &plan.elements {
            let claims = self.wanted.entry(slot.clone()).or_default();
            claims.insert(owner.clone(), found.clone());
            touched.insert(slot.clone());
        }
        for target in &plan.targets {
            *self.targets.entry(*target).or_default() += 1;
        }
        for sources in &plan.sources {
            *self.sources.entry(sources.clone()).or_default() += 1;
        }
        if plan != Plan::default() {
            self.plans.insert(owner, plan);
        }
        touched.into_iter().filter_map(|slot| self.settle(slot)).collect()
    }

    fn settle(&mut self, slot: Slot) -> Option<Difference> {
        let claims = self.wanted.get(&slot)?;
        let new = claims.values().next().cloned();
        let old = self.effective.get(&slot).cloned();
        match &new {
            Some(found) => {
                self.effective.insert(slot.clone(), found.clone());
            }
            None => {
                self.wanted.remove(&slot);
                self.effective.remove(&slot);
            }
        }
        (old != new).then_some(Difference { slot, old, new })
    }

    pub fn plan(&self, owner: &Owner) -> Option<&Plan> {
        self.plans.get(owner)
    }

    pub fn plans(&self) -> impl Iterator<Item = (&Owner, &Plan)> {
        self.plans.iter()
    }

    /// Everything that a table should hold.
    pub fn effective(&self) -> &BTreeMap<Slot, Found> {
        &self.effective
    }

    /// The chains that a table needs for all of it.
    pub fn shape(&self, family: Family) -> Shape {
        let targets = self.targets.keys().filter(|(of, _)| *of == family);
        let sources = self.sources.keys().filter(|(of, _)| *of == family);
        Shape {
            sources: sources.map(|(_, sources)| sources.clone()).collect(),
            ..Shape::of(targets.map(|(_, target)| *target))
        }
    }
}

/// One plan less leads there.
fn leave<T: Ord>(counts: &mut BTreeMap<T, usize>, to: &T) {
    if let Some(count) = counts.get_mut(to) {
        *count -= 1;
        if *count == 0 {
            counts.remove(to);
        }
    }
}
