//! Which devices claims get on a node: a search that goes back when a choice leads nowhere.
//!
//! Knows no cache and no lock. Invariant: the same inputs give the same devices, the first that fit
//! in the order of pools and slices.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use client::{Key, Lister};
use serde_json::{Value, json};

use super::{
    Ask, Constraint, Device, DeviceClass, DeviceId, Devices, Place, ResourceClaim, ResourceSlice,
};
use crate::{
    plugins::node_affinity,
    types::{Node, NodeTerm, quantity},
};

/// Upstream's bound on the devices of one claim.
const RESULTS_MAX: usize = 32;
/// A search that takes longer is given up.
const STEPS_MAX: usize = 100_000;
const NO_SCHEDULE: [&str; 2] = ["NoSchedule", "NoExecute"];

/// A device that the node can reach.
struct Offer<'a> {
    id: DeviceId,
    device: &'a Device,
    place: &'a Place,
    /// Whether all slices of its pool are known.
    complete: bool,
}

/// One way to serve a request.
struct Way<'a> {
    claim: usize,
    /// `request` or `request/subrequest`.
    name: String,
    ask: &'a Ask,
    eligible: Vec<usize>,
}

/// A device that was chosen for a request.
struct Pick<'a> {
    claim: usize,
    request: String,
    offer: usize,
    ask: &'a Ask,
}

/// The allocations of the claims on the node; `None` when it cannot serve them all.
pub(crate) fn allocate(
    devices: &Devices,
    taken: &HashSet<DeviceId>,
    claims: &[Arc<ResourceClaim>],
    node: &Node,
) -> Result<Option<Vec<Value>>, String> {
    let slices = newest(&devices.slices);
    let offers = offers(&slices, node);
    let mut ways = Vec::new();
    for (at, claim) in claims.iter().enumerate() {
        for request in &claim.spec.devices.requests {
            let mut alternatives = Vec::new();
            for ask in request.exactly.iter().chain(&request.first_available) {
                let name = match ask.name.as_str() {
                    "" => request.name.clone(),
                    sub => format!("{}/{sub}", request.name),
                };
                let class = class(&devices.classes, claim, &name, ask)?;
                let eligible = eligible(devices, &offers, ask, &class)?;
                alternatives.push(Way { claim: at, name, ask, eligible });
            }
            ways.push(alternatives);
        }
    }
    let mut search = Search {
        claims,
        ways: &ways,
        offers: &offers,
        taken,
        counters: counters(&slices, taken),
        picks: Vec::new(),
        steps: 0,
    };
    if !search.request(0) {
        return Ok(None);
    }
    let picks = search.picks;
    let result = |at: usize, claim: &ResourceClaim| {
        let picks: Vec<&Pick<'_>> = picks.iter().filter(|it| it.claim == at).collect();
        allocation(&devices.classes, claim, &picks, &offers, node)
    };
    Ok(Some(claims.iter().enumerate().map(|(at, claim)| result(at, claim)).collect()))
}

fn class(
    classes: &Lister<DeviceClass>,
    claim: &ResourceClaim,
    request: &str,
    ask: &Ask,
) -> Result<Arc<DeviceClass>, String> {
    let name = &ask.device_class_name;
    classes.get(&Key::cluster(name)).ok_or_else(|| {
        let claim = claim.metadata.key();
        format!("claim {claim}, request {request}: device class {name} does not exist")
    })
}

/// The slices of each pool's newest generation, with whether the pool is complete.
fn newest(slices: &Lister<ResourceSlice>) -> Vec<(Arc<ResourceSlice>, bool)> {
    let mut pools: BTreeMap<(String, String), Vec<Arc<ResourceSlice>>> = BTreeMap::new();
    slices.for_each(|slice| {
        let key = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
        pools.entry(key).or_default().push(Arc::clone(slice));
    });
    let mut found = Vec::new();
    for mut slices in pools.into_values() {
        let newest = slices.iter().map(|it| it.spec.pool.generation).max().unwrap_or_default();
        slices.retain(|it| it.spec.pool.generation == newest);
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let wanted = slices.first().map_or(0, |it| it.spec.pool.resource_slice_count);
        let complete = slices.len() == wanted;
        found.extend(slices.into_iter().map(|slice| (slice, complete)));
    }
    found
}

fn reaches(place: &Place, node: &Node) -> bool {
    let named = place.node_name.as_deref() == Some(node.metadata.name.as_str());
    let selected = place.node_selector.as_ref().is_some_and(|it| node_affinity::selects(it, node));
    named || selected || place.all_nodes == Some(true)
}

fn offers<'a>(slices: &'a [(Arc<ResourceSlice>, bool)], node: &Node) -> Vec<Offer<'a>> {
    let mut offers = Vec::new();
    for (slice, complete) in slices {
        let spec = &slice.spec;
        for device in &spec.devices {
            let place = match spec.per_device_node_selection {
                Some(true) => &device.place,
                _ => &spec.place,
            };
            if reaches(place, node) {
                let id = (spec.driver.clone(), spec.pool.name.clone(), device.name.clone());
                offers.push(Offer { id, device, place, complete: *complete });
            }
        }
    }
    offers
}

fn eligible(
    devices: &Devices,
    offers: &[Offer<'_>],
    ask: &Ask,
    class: &DeviceClass,
) -> Result<Vec<usize>, String> {
    let expressions: Vec<&str> = class
        .spec
        .selectors
        .iter()
        .chain(&ask.selectors)
        .filter_map(|it| it.cel.as_ref())
        .map(|it| it.expression.as_str())
        .collect();
    let mut eligible = Vec::new();
    for (at, offer) in offers.iter().enumerate() {
        if !tolerated(ask, offer.device) {
            continue;
        }
        let mut selected = true;
        for expression in &expressions {
            let (driver, device) = (&offer.id.0, offer.device);
            selected = devices
                .selectors
                .selects(expression, driver, device)
                .map_err(|err| format!("device selector {expression:?}: {err}"))?;
            if !selected {
                break;
            }
        }
        if selected {
            eligible.push(at);
        }
    }
    Ok(eligible)
}

fn tolerated(ask: &Ask, device: &Device) -> bool {
    let mut taints = device.taints.iter().filter(|it| NO_SCHEDULE.contains(&it.effect.as_str()));
    taints.all(|taint| ask.tolerations.iter().any(|it| it.tolerates(taint)))
}

type CounterId = (String, String, String, String);

/// What pools have left of their counters, in thousandths.
fn counters(
    slices: &[(Arc<ResourceSlice>, bool)],
    taken: &HashSet<DeviceId>,
) -> HashMap<CounterId, i64> {
    let mut left = HashMap::new();
    let of = |slice: &ResourceSlice, set: &str, counter: &str| {
        let (driver, pool) = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
        (driver, pool, set.to_owned(), counter.to_owned())
    };
    for (slice, _) in slices {
        for set in &slice.spec.shared_counters {
            for (name, counter) in &set.counters {
                let amount = quantity(&counter.value).milli_value();
                left.insert(of(slice, &set.name, name), amount);
            }
        }
    }
    for (slice, _) in slices {
        for device in &slice.spec.devices {
            let (driver, pool) = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
            if !taken.contains(&(driver, pool, device.name.clone())) {
                continue;
            }
            for set in &device.consumes_counters {
                for (name, counter) in &set.counters {
                    if let Some(left) = left.get_mut(&of(slice, &set.counter_set, name)) {
                        *left -= quantity(&counter.value).milli_value();
                    }
                }
            }
        }
    }
    left
}

struct Search<'a> {
    claims: &'a [Arc<ResourceClaim>],
    /// For each request the ways to serve it, best first.
    ways: &'a [Vec<Way<'a>>],
    offers: &'a [Offer<'a>],
    taken: &'a HashSet<DeviceId>,
    counters: HashMap<CounterId, i64>,
    picks: Vec<Pick<'a>>,
    steps: usize,
}

impl<'a> Search<'a> {
    /// Serves this request and all behind it.
    fn request(&mut self, at: usize) -> bool {
        let Some(ways) = self.ways.get(at) else { return true };
        ways.iter().any(|way| match way.ask.allocation_mode.as_str() {
            "All" => self.all(at, way),
            _ => self.some(at, way, 0, way.ask.count.unwrap_or(1)),
        })
    }

    /// Takes so many of the eligible devices, from this one on.
    fn some(&mut self, at: usize, way: &'a Way<'a>, from: usize, left: usize) -> bool {
        if left == 0 {
            return self.request(at + 1);
        }
        for next in from..way.eligible.len() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return false;
            }
            if self.take(way, way.eligible[next]) {
                if self.some(at, way, next + 1, left - 1) {
                    return true;
                }
                self.give_back();
            }
        }
        false
    }

    /// Takes every eligible device, which must all be there to take.
    fn all(&mut self, at: usize, way: &'a Way<'a>) -> bool {
        if way.eligible.is_empty() || way.eligible.iter().any(|it| !self.offers[*it].complete) {
            return false;
        }
        let before = self.picks.len();
        let done = way.eligible.iter().all(|offer| self.take(way, *offer)) && self.request(at + 1);
        if !done {
            while self.picks.len() > before {
                self.give_back();
            }
        }
        done
    }

    fn take(&mut self, way: &'a Way<'a>, at: usize) -> bool {
        let offer = &self.offers[at];
        let admin = way.ask.admin_access == Some(true);
        let free = admin
            || !self.taken.contains(&offer.id)
                && !self.picks.iter().any(|it| it.offer == at && it.ask.admin_access != Some(true));
        let mine = self.picks.iter().filter(|it| it.claim == way.claim);
        if !free || mine.count() >= RESULTS_MAX || !self.agrees(way, offer) {
            return false;
        }
        if !admin && !self.consume(offer, 1) {
            return false;
        }
        let request = way.name.clone();
        self.picks.push(Pick { claim: way.claim, request, offer: at, ask: way.ask });
        true
    }

    fn give_back(&mut self) {
        let Some(pick) = self.picks.pop() else { return };
        if pick.ask.admin_access != Some(true) {
            let offers = self.offers;
            self.consume(&offers[pick.offer], -1);
        }
    }

    /// Takes what the device needs of its pool's counters, or gives it back.
    fn consume(&mut self, offer: &Offer<'_>, times: i64) -> bool {
        let (driver, pool, _) = &offer.id;
        let needs: Vec<(CounterId, i64)> = offer
            .device
            .consumes_counters
            .iter()
            .flat_map(|set| set.counters.iter().map(move |it| (&set.counter_set, it)))
            .map(|(set, (name, counter))| {
                let id = (driver.clone(), pool.clone(), set.clone(), name.clone());
                (id, quantity(&counter.value).milli_value() * times)
            })
            .collect();
        if needs.iter().any(|(id, need)| self.counters.get(id).is_none_or(|left| left < need)) {
            return false;
        }
        for (id, need) in needs {
            *self.counters.entry(id).or_default() -= need;
        }
        true
    }

    /// Whether the device goes with those that the claim has already.
    fn agrees(&self, way: &Way<'_>, offer: &Offer<'_>) -> bool {
        let constraints = self.claims.get(way.claim).map(|it| &it.spec.devices.constraints);
        constraints.into_iter().flatten().filter(|it| concerns(it, &way.name)).all(|constraint| {
            let others = || {
                let picks = self.picks.iter().filter(|it| it.claim == way.claim);
                picks
                    .filter(|it| concerns(constraint, &it.request))
                    .map(|it| &self.offers[it.offer])
            };
            if let Some(name) = &constraint.match_attribute {
                let Some(own) = attribute(offer, name) else { return false };
                return others().all(|other| attribute(other, name) == Some(own));
            }
            if let Some(name) = &constraint.distinct_attribute {
                let Some(own) = attribute(offer, name) else { return false };
                return others().all(|other| attribute(other, name) != Some(own));
            }
            // What is not known cannot be promised.
            false
        })
    }
}

/// Whether a list of requests, all when empty, names this one or what it is a part of.
fn names<'a>(mut requests: impl Iterator<Item = &'a str>, request: &str) -> bool {
    let whole = request.split('/').next().unwrap_or(request);
    requests.any(|it| it == request || it == whole)
}

fn concerns(constraint: &Constraint, request: &str) -> bool {
    let requests = &constraint.requests;
    requests.is_empty() || names(requests.iter().map(String::as_str), request)
}

/// An attribute by its full name; one without a domain is its driver's.
fn attribute<'a>(offer: &'a Offer<'_>, name: &str) -> Option<&'a Value> {
    let attributes = &offer.device.attributes;
    let short = name.split_once('/').filter(|(domain, _)| *domain == offer.id.0);
    attributes.get(name).or_else(|| attributes.get(short?.1))
}

/// `status.allocation`
fn allocation(
    classes: &Lister<DeviceClass>,
    claim: &ResourceClaim,
    picks: &[&Pick<'_>],
    offers: &[Offer<'_>],
    node: &Node,
) -> Value {
    let results: Vec<Value> = picks
        .iter()
        .map(|pick| {
            let (driver, pool, device) = &offers[pick.offer].id;
            let mut result = json!({
                "request": pick.request, "driver": driver, "pool": pool, "device": device,
            });
            if pick.ask.admin_access == Some(true) {
                result["adminAccess"] = json!(true);
            }
            if !pick.ask.tolerations.is_empty() {
                result["tolerations"] = json!(pick.ask.tolerations);
            }
            result
        })
        .collect();
    let mut devices = json!({"results": results});
    let config = config(classes, claim, picks);
    if !config.is_empty() {
        devices["config"] = json!(config);
    }
    let mut allocation = json!({"devices": devices});
    if let Some(selector) = node_selector(picks.iter().map(|it| offers[it.offer].place), node) {
        allocation["nodeSelector"] = selector;
    }
    allocation
}

/// The configuration for drivers: the classes' first, then the claim's, which overrides it.
fn config(classes: &Lister<DeviceClass>, claim: &ResourceClaim, picks: &[&Pick<'_>]) -> Vec<Value> {
    let mut config = Vec::new();
    let mut seen = HashSet::new();
    for pick in picks.iter().filter(|it| seen.insert(it.request.as_str())) {
        let class = classes.get(&Key::cluster(&pick.ask.device_class_name));
        for entry in class.iter().flat_map(|it| &it.spec.config) {
            let mut entry = entry.clone();
            entry["source"] = json!("FromClass");
            entry["requests"] = json!([pick.request]);
            config.push(entry);
        }
    }
    for entry in &claim.spec.devices.config {
        let requests: Vec<&str> =
            entry["requests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let used = picks.iter().any(|it| names(requests.iter().copied(), &it.request));
        if requests.is_empty() || used {
            let mut entry = entry.clone();
            entry["source"] = json!("FromClaim");
            config.push(entry);
        }
    }
    config
}

/// Where the allocation can be used: on this node if any device is there only, else where all can
/// be reached; nothing for everywhere.
fn node_selector<'a>(places: impl Iterator<Item = &'a Place>, node: &Node) -> Option<Value> {
    let mut terms: Option<NodeTerm> = None;
    for place in places {
        if place.node_name.is_some() {
            let name = &node.metadata.name;
            let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            return Some(json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
        }
        // The API allows one term only.
        let selector = place.node_selector.as_ref().and_then(|it| it.node_selector_terms.first());
        if let Some(term) = selector {
            let all = terms.get_or_insert_default();
            let new = |have: &[_], it: &&_| !have.contains(*it);
            let fields: Vec<_> =
                term.match_fields.iter().filter(|it| new(&all.match_fields, it)).cloned().collect();
            let expressions: Vec<_> = term
                .match_expressions
                .iter()
                .filter(|it| new(&all.match_expressions, it))
                .cloned()
                .collect();
            all.match_fields.extend(fields);
            all.match_expressions.extend(expressions);
        }
    }
    terms.map(|term| json!({"nodeSelectorTerms": [term]}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::tests::node;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn slice(name: &str, node: &str, devices: Value) -> ResourceSlice {
        read(json!({
            "metadata": {"name": name},
            "spec": {"driver": "x.io", "nodeName": node, "devices": devices,
                "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}},
        }))
    }

    fn devices(slices: Vec<ResourceSlice>) -> Devices {
        let class = |name: &str, expression: &str| {
            read(json!({"metadata": {"name": name},
                "spec": {"selectors": [{"cel": {"expression": expression}}]}}))
        };
        Devices {
            slices: Lister::of(slices),
            classes: Lister::of(vec![
                class("any", "device.driver == 'x.io'"),
                class("big", "device.capacity['x.io'].memory.compareTo(quantity('2Gi')) >= 0"),
            ]),
            ..Devices::default()
        }
    }

    fn pool() -> Devices {
        let device = |name: &str, memory: &str, card: &str| {
            json!({"name": name, "capacity": {"memory": {"value": memory}},
                "attributes": {"card": {"string": card}}})
        };
        devices(vec![
            slice(
                "a",
                "a",
                json!([
                    device("d0", "1Gi", "one"),
                    device("d1", "4Gi", "one"),
                    device("d2", "4Gi", "two"),
                ]),
            ),
            slice("b", "b", json!([device("d0", "1Gi", "one")])),
        ])
    }

    /// The devices that a claim gets, as `request=device`.
    fn check(devices: &Devices, taken: &[&str], spec: Value, on: &str, want: Result<&str, &str>) {
        let claim: ResourceClaim =
            read(json!({"metadata": {"name": "c"}, "spec": {"devices": spec}}));
        let id = |name: &&str| ("x.io".to_owned(), on.to_owned(), (*name).to_owned());
        let taken: HashSet<DeviceId> = taken.iter().map(id).collect();
        let found = allocate(devices, &taken, &[Arc::new(claim)], &node(on, ""));
        let found = match found {
            Ok(None) => Err("none".to_owned()),
            Err(err) => Err(err),
            Ok(Some(all)) => {
                let results = all[0]["devices"]["results"].as_array().unwrap().clone();
                let text = |it: &Value| {
                    format!(
                        "{}={}",
                        it["request"].as_str().unwrap(),
                        it["device"].as_str().unwrap()
                    )
                };
                Ok(results.iter().map(text).collect::<Vec<_>>().join(" "))
            }
        };
        assert_eq!(found.as_deref().map_err(String::as_str), want, "{spec}");
    }

    fn ask(class: &str, rest: Value) -> Value {
        let mut ask = json!({"deviceClassName": class});
        for (name, value) in rest.as_object().into_iter().flatten() {
            ask[name] = value.clone();
        }
        ask
    }

    fn exactly(class: &str, rest: Value) -> Value {
        json!({"name": "r", "exactly": ask(class, rest)})
    }

    #[test]
    fn requests_get_devices_of_their_class() {
        let pool = pool();
        let one = |request: Value| json!({"requests": [request]});
        let any = || exactly("any", json!({}));
        check(&pool, &[], one(any()), "a", Ok("r=d0"));
        check(&pool, &["d0"], one(any()), "a", Ok("r=d1"));
        check(&pool, &[], one(exactly("big", json!({}))), "a", Ok("r=d1"));
        check(&pool, &[], one(exactly("big", json!({}))), "b", Err("none"));
        check(&pool, &[], one(any()), "c", Err("none"));
        check(&pool, &[], one(exactly("any", json!({"count": 2}))), "a", Ok("r=d0 r=d1"));
        check(&pool, &[], one(exactly("any", json!({"count": 4}))), "a", Err("none"));
        let all = || exactly("big", json!({"allocationMode": "All"}));
        check(&pool, &[], one(all()), "a", Ok("r=d1 r=d2"));
        check(&pool, &["d1"], one(all()), "a", Err("none"));
        check(&pool, &[], one(all()), "b", Err("none"));
        let admin = || exactly("any", json!({"adminAccess": true}));
        check(&pool, &["d0"], one(admin()), "b", Ok("r=d0"));
        let gone = "claim c, request r: device class gone does not exist";
        check(&pool, &[], one(exactly("gone", json!({}))), "a", Err(gone));
    }

    #[test]
    fn the_search_goes_back_and_alternatives_come_in_order() {
        let pool = pool();
        let two = |first: Value, second: Value| json!({"requests": [first, second]});
        let big = json!({"name": "s", "exactly": ask("big", json!({"count": 2}))});
        check(&pool, &[], two(exactly("any", json!({})), big), "a", Ok("r=d0 s=d1 s=d2"));
        // The first device would do for the first request, but then none is left for the second.
        let small = "device.capacity['x.io'].memory.compareTo(quantity('2Gi')) < 0";
        let small = ask("any", json!({"selectors": [{"cel": {"expression": small}}]}));
        let small = json!({"name": "s", "exactly": small});
        check(&pool, &[], two(exactly("any", json!({})), small), "a", Ok("r=d1 s=d0"));
        let mut better = ask("big", json!({"count": 3}));
        better["name"] = json!("better");
        let mut worse = ask("any", json!({}));
        worse["name"] = json!("worse");
        let either = json!({"requests": [{"name": "r", "firstAvailable": [better, worse]}]});
        check(&pool, &[], either, "a", Ok("r/worse=d0"));
    }

    #[test]
    fn constraints_keep_devices_together_or_apart() {
        let pool = pool();
        let spec = |class: &str, constraint: Value| json!({"requests": [exactly(class, json!({"count": 2}))], "constraints": [constraint]});
        let matching = || json!({"matchAttribute": "x.io/card"});
        check(&pool, &[], spec("any", matching()), "a", Ok("r=d0 r=d1"));
        check(&pool, &["d0"], spec("any", matching()), "a", Err("none"));
        check(&pool, &[], spec("any", json!({"matchAttribute": "x.io/no"})), "a", Err("none"));
        let apart = json!({"distinctAttribute": "x.io/card"});
        check(&pool, &[], spec("any", apart), "a", Ok("r=d0 r=d2"));
        let others = json!({"requests": ["q"], "matchAttribute": "x.io/card"});
        check(&pool, &["d0"], spec("any", others), "a", Ok("r=d1 r=d2"));
    }

    #[test]
    fn taints_counters_and_generations_count() {
        let taint = json!([{"key": "broken", "effect": "NoSchedule"}]);
        let one = |rest: Value| json!({"requests": [exactly("any", rest)]});
        let tainted = devices(vec![slice("a", "a", json!([{"name": "d0", "taints": taint}]))]);
        check(&tainted, &[], one(json!({})), "a", Err("none"));
        let tolerations = json!({"tolerations": [{"key": "broken", "operator": "Exists"}]});
        check(&tainted, &[], one(tolerations), "a", Ok("r=d0"));
        let part = |name: &str| {
            json!({"name": name, "consumesCounters": [
                {"counterSet": "card", "counters": {"memory": {"value": "6Gi"}}},
            ]})
        };
        let mut shared = slice("a", "a", json!([part("d0"), part("d1")]));
        shared.spec.shared_counters =
            read(json!([{"name": "card", "counters": {"memory": {"value": "10Gi"}}}]));
        let shared = devices(vec![shared]);
        check(&shared, &[], one(json!({})), "a", Ok("r=d0"));
        check(&shared, &["d0"], one(json!({})), "a", Err("none"));
        check(&shared, &[], one(json!({"count": 2})), "a", Err("none"));
        let old = slice("a", "a", json!([{"name": "old"}]));
        let mut new = slice("a", "a", json!([{"name": "new"}]));
        new.metadata.name = "a-2".into();
        new.spec.pool.generation = 2;
        new.spec.pool.resource_slice_count = 2;
        let pools = devices(vec![old, new]);
        check(&pools, &[], one(json!({})), "a", Ok("r=new"));
        check(&pools, &[], one(json!({"allocationMode": "All"})), "a", Err("none"));
    }

    #[test]
    fn an_allocation_says_where_it_is_and_how_it_is_configured() {
        let claim: ResourceClaim = read(json!({"spec": {"devices": {
            "requests": [exactly("any", json!({}))],
            "config": [
                {"requests": ["r"], "opaque": {"driver": "x.io"}},
                {"requests": ["other"], "opaque": {"driver": "y.io"}},
            ],
        }}}));
        let found = allocate(&pool(), &HashSet::new(), &[Arc::new(claim)], &node("a", ""))
            .unwrap()
            .unwrap();
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        assert_eq!(found[0]["nodeSelector"], selector);
        assert_eq!(
            found[0]["devices"]["config"],
            json!([
                {"source": "FromClaim", "requests": ["r"], "opaque": {"driver": "x.io"}},
            ])
        );
    }
}
