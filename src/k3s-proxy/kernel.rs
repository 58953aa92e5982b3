//! Brings the kernel from one state to the next: by element when it can, by the whole table when it
//! must.
//!
//! Invariant: an element is added after the chain it leads to, and a table that refused a change is
//! described anew before anything else is changed.

use crate::claims::{Claims, Difference};
use crate::element::{Family, Found, Slot};
use crate::shape::Shape;
use crate::table::{self, Script, Settings};
use anyhow::{Context, Result};
use netlink::nft;
use netlink::nft_elements::{self, Change, Data, Element};
use std::collections::BTreeMap;

/// What the kernel is known to hold of one family.
#[derive(Debug, Default)]
struct Known {
    shape: Option<Shape>,
}

#[derive(Debug)]
pub struct Kernel {
    pub settings: Settings,
    known: BTreeMap<Family, Known>,
}

/// How a change got into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    ByElement,
    Whole,
}

impl Kernel {
    pub fn new(settings: Settings) -> Self {
        let known = BTreeMap::new();
        Self { settings, known }
    }

    /// Describes the tables anew: IPv4 always, IPv6 once somebody needs it.
    pub async fn replace(&mut self, claims: &Claims) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            if family == Family::V4 || needs(claims, family) {
                self.replace_family(claims, family).await?;
            }
        }
        Ok(())
    }

    async fn replace_family(&mut self, claims: &Claims, family: Family) -> Result<()> {
        let mut shape = Shape::initial();
        shape.add(claims.shape(family));
        let ruleset = Script::new(family, &self.settings);
        let text = ruleset.replace(&shape, claims.effective());
        self.known.entry(family).or_default().shape = None;
        nft::apply_script(&text).await.context("replacing the table k3s-proxy")?;
        self.known.entry(family).or_default().shape = Some(shape);
        Ok(())
    }

    /// Applies the differences that `claims` just reported.
    pub async fn change(&mut self, claims: &Claims, changes: &[Difference]) -> Result<Applied> {
        let mut applied = Applied::ByElement;
        for family in [Family::V4, Family::V6] {
            let ours: Vec<&Difference> =
                changes.iter().filter(|change| change.slot.family == family).collect();
            if ours.is_empty() {
                continue;
            }
            if let Err(err) = self.change_family(claims, family, &ours).await {
                tracing::warn!(err = %format!("{err:#}"), "Changing elements failed, replacing the table");
                self.replace_family(claims, family).await?;
                applied = Applied::Whole;
            }
        }
        Ok(applied)
    }

    async fn change_family(
        &mut self,
        claims: &Claims,
        family: Family,
        changes: &[&Difference],
    ) -> Result<()> {
        let known = self.known.entry(family).or_default();
        let Some(shape) = known.shape.as_mut() else {
            return self.replace_family(claims, family).await;
        };
        let missing = shape.missing(&claims.shape(family));
        if !missing.is_empty() {
            let text = Script::new(family, &self.settings).extend(&missing);
            nft::apply_script(&text).await.context("adding chains")?;
            shape.add(missing);
        }
        let mut batch = forget_clients(family, shape, changes)?;
        batch.extend(elements(changes));
        nft_elements::apply(table::name(family), &batch)?;
        Ok(())
    }
}

fn needs(claims: &Claims, family: Family) -> bool {
    claims.effective().keys().any(|slot| slot.family == family)
}

/// Deletions first, so that a key can get a new value.
fn elements(changes: &[&Difference]) -> Vec<Change> {
    let value =
        |slot: &Slot, found: &Option<Found>| found.as_ref().map(|found| slot.element(found));
    let old = changes.iter().filter_map(|change| value(&change.slot, &change.old));
    let new = changes.iter().filter_map(|change| value(&change.slot, &change.new));
    old.map(Change::Delete).chain(new.map(Change::Add)).collect()
}

/// Clients that stayed with an endpoint which is now another one, or none.
fn forget_clients(family: Family, shape: &Shape, changes: &[&Difference]) -> Result<Vec<Change>> {
    let mut forgotten = Vec::new();
    for (scope, index) in &shape.clients {
        let map = scope.endpoints(*index);
        let moved = changes.iter().filter(|change| change.slot.set == map && change.old.is_some());
        let suffixes: Vec<Vec<u8>> = moved.map(|change| change.slot.key.bytes()).collect();
        if suffixes.is_empty() {
            continue;
        }
        let set = scope.clients(*index);
        for key in nft_elements::keys(table::name(family), &set)? {
            if suffixes.iter().any(|suffix| key.ends_with(suffix)) {
                let (set, data) = (set.clone(), Data::Member);
                forgotten.push(Change::Delete(Element { set, key, data }));
            }
        }
    }
    Ok(forgotten)
}

/// Removes all that the proxy ever put into the kernel.
pub async fn cleanup() -> netlink::Result<()> {
    nft::delete_table(table::name(Family::V4)).await?;
    nft::delete_table(table::name(Family::V6)).await
}
