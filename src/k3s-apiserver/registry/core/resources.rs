//! Resource lists: what a pod asks for, its quality of service, and checks of quantities.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use serde_json::{Map, Value, json};

use crate::registry::validate::problems;
use crate::registry::value::{has, key, list, map, object, text};

const NANO: i128 = 1_000_000_000;

/// A quantity in billionths, exact for everything that Kubernetes accepts; `None` when it is none.
pub(crate) fn nano(value: &Value) -> Option<i128> {
    let owned;
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(number) => {
            owned = number.to_string();
            &owned
        }
        _ => return None,
    };
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && "+-".contains(*c))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let (whole, fraction) = number
        .trim_start_matches(['+', '-'])
        .split_once('.')
        .unwrap_or((number.trim_start_matches(['+', '-']), ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let scale = scale(suffix)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (times, over) = scale;
    let product = digits.checked_mul(times)?.checked_mul(NANO)?;
    let below = places.checked_mul(over)?;
    let up = product / below + i128::from(product % below != 0);
    Some(if negative { -up } else { up })
}

/// The factor of a suffix as a fraction.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1_000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs().min(30))?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

/// Writes billionths as a quantity in the notation of `like` (binary suffixes stay binary).
pub(crate) fn quantity(nanos: i128, like: &Value) -> Value {
    let binary = like.as_str().is_some_and(|text| text.ends_with('i'));
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.abs();
    if binary && size % NANO == 0 {
        let whole = size / NANO;
        for (power, suffix) in
            [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")]
        {
            if whole != 0 && whole % (1_i128 << power) == 0 {
                return json!(format!("{sign}{}{suffix}", whole >> power));
            }
        }
        return json!(format!("{sign}{whole}"));
    }
    let steps = [
        (NANO * NANO * NANO, "E"),
        (1_000_000 * NANO * NANO, "P"),
        (1000 * NANO * NANO, "T"),
        (NANO * NANO, "G"),
        (1_000_000 * NANO, "M"),
        (1000 * NANO, "k"),
        (NANO, ""),
        (1_000_000, "m"),
        (1000, "u"),
        (1, "n"),
    ];
    for (unit, suffix) in steps {
        if size != 0 && size % unit == 0 {
            return json!(format!("{sign}{}{suffix}", size / unit));
        }
    }
    json!("0")
}

/// What the containers of a pod ask for together, per resource: `kind` is `requests` or `limits`.
pub(crate) fn pod_total(spec: &Value, kind: &str) -> Map<String, Value> {
    let mut total: Map<String, Value> = Map::new();
    for container in list(spec, "containers") {
        add(&mut total, &of(container, kind));
    }
    // Sidecars run beside everything that starts after them; other init containers run alone.
    let mut sidecars: Map<String, Value> = Map::new();
    let mut peak: Map<String, Value> = Map::new();
    for container in list(spec, "initContainers") {
        let mut here = sidecars.clone();
        add(&mut here, &of(container, kind));
        if text(container, "restartPolicy") == "Always" {
            add(&mut total, &of(container, kind));
            add(&mut sidecars, &of(container, kind));
        }
        most(&mut peak, &here);
    }
    most(&mut total, &peak);
    for (name, value) in map(key(spec, "resources"), kind) {
        total.insert(name.clone(), value.clone());
    }
    if has(spec, "overhead") && (kind == "requests" || !total.is_empty()) {
        add(&mut total, map(spec, "overhead"));
    }
    total
}

fn of(container: &Value, kind: &str) -> Map<String, Value> {
    map(key(container, "resources"), kind).clone()
}

/// Adds each quantity of one list to another.
pub(crate) fn add(total: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        let sum =
            nano(value).unwrap_or_default() + total.get(name).and_then(nano).unwrap_or_default();
        let sum = quantity(sum, value);
        total.insert(name.clone(), sum);
    }
}

fn most(total: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (name, value) in other {
        if total.get(name).and_then(nano) < nano(value) {
            total.insert(name.clone(), value.clone());
        }
    }
}

/// `status.qosClass`.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let counts = |resources: &Value, kind: &str| -> Map<String, Value> {
        map(resources, kind)
            .iter()
            .filter(|(name, value)| {
                matches!(name.as_str(), "cpu" | "memory") && nano(value).is_some_and(|n| n > 0)
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let pod_level = key(spec, "resources");
    let holders: Vec<&Value> = if has(spec, "resources.requests") || has(spec, "resources.limits") {
        vec![pod_level]
    } else {
        list(spec, "containers")
            .iter()
            .chain(list(spec, "initContainers"))
            .map(|container| key(container, "resources"))
            .collect()
    };
    let mut asked = false;
    let mut guaranteed = true;
    for resources in holders {
        let (requests, limits) = (counts(resources, "requests"), counts(resources, "limits"));
        asked |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= ["cpu", "memory"].iter().all(|name| {
            let limit = limits.get(*name).and_then(nano);
            limit.is_some() && requests.get(*name).is_none_or(|r| nano(r) == limit)
        });
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Pod-level requests: what the containers ask for together, else the pod-level limit.
pub(super) fn default_pod_level_requests(spec: &mut Value) {
    if map(key(spec, "resources"), "limits").is_empty() {
        return;
    }
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let mut containers = Map::new();
    for container in list(spec, "containers") {
        add(&mut containers, &of(container, "requests"));
    }
    let limits = map(key(spec, "resources"), "limits").clone();
    let requests = object(spec, "resources.requests");
    for (name, value) in containers.into_iter().chain(limits) {
        if supported(&name) {
            requests.entry(name).or_insert(value);
        }
    }
}

/// Is this a resource without a domain, known to Kubernetes?
pub(crate) fn is_standard(name: &str) -> bool {
    matches!(
        name,
        "cpu"
            | "memory"
            | "ephemeral-storage"
            | "storage"
            | "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
            | "requests.storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
    ) || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Is this an extended resource: one with a domain outside `kubernetes.io`?
pub(crate) fn is_extended(name: &str) -> bool {
    name.contains('/') && !is_native(name) && !name.starts_with("requests.")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of a container: `resources` at the path.
pub(crate) fn validate_resources(errs: &mut FieldErrors, path: &Path, resources: &Value) {
    requirements(errs, path, resources, container_resource);
}

/// Resources of a whole pod, and that its containers fit into them.
pub(crate) fn validate_pod_resources(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let resources = key(spec, "resources");
    if resources.is_null() {
        return;
    }
    if has(resources, "claims") {
        let detail = "claims cannot be set for Resources at pod-level";
        errs.forbidden(path.child("claims"), detail);
    }
    requirements(errs, path, resources, pod_resource);
    let shown = |value: &Value| value.as_str().unwrap_or("0").to_owned();
    let containers = serde_json::json!({
        "containers": key(spec, "containers"), "initContainers": key(spec, "initContainers"),
    });
    for (name, total) in pod_total(&containers, "requests") {
        let asked = key(key(resources, "requests"), &name);
        if nano(&total) > nano(asked).or(Some(0)) {
            let detail = format!(
                "must be greater than or equal to aggregate container requests of {}",
                shown(&total)
            );
            errs.invalid(path.child("requests").key(&name), shown(asked), detail);
        }
    }
    for (at, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in map(key(container, "resources"), "limits") {
            let most = key(key(resources, "limits"), name);
            if !most.is_null() && nano(limit) > nano(most) {
                let path = path.child("containers").index(at).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {}", shown(most));
                errs.invalid(path, limit.clone(), detail);
            }
        }
    }
}

type NameCheck = fn(&mut FieldErrors, &Path, &str);

fn requirements(errs: &mut FieldErrors, path: &Path, resources: &Value, name_check: NameCheck) {
    let (limits, requests) = (map(resources, "limits"), map(resources, "requests"));
    for (name, value) in limits {
        let path = path.child("limits").key(name);
        name_check(errs, &path, name);
        resource_value(errs, &path, name, value);
        whole_pages(errs, &path, name, value);
    }
    for (name, value) in requests {
        let here = path.child("requests").key(name);
        name_check(errs, &here, name);
        resource_value(errs, &here, name, value);
        match limits.get(name) {
            Some(limit) => at_most(errs, &path.child("requests"), name, value, limit),
            None if is_no_overcommit(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                errs.required(path.child("limits"), detail);
            }
            None => {}
        }
        whole_pages(errs, &here, name, value);
    }
    let any = |wanted: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|n| wanted(n));
    if any(|name| name.starts_with("hugepages-")) && !any(|name| matches!(name, "cpu" | "memory")) {
        errs.forbidden(path, "HugePages require cpu or memory");
    }
}

/// A request and its limit; what cannot be overcommitted must be asked for as it is limited.
fn at_most(errs: &mut FieldErrors, path: &Path, name: &str, value: &Value, limit: &Value) {
    let shown = limit.as_str().unwrap_or_default();
    if nano(limit) != nano(value) && is_no_overcommit(name) {
        let detail = format!("must be equal to {name} limit of {shown}");
        errs.invalid(path, value.clone(), detail);
    } else if nano(value) > nano(limit) {
        let detail = format!("must be less than or equal to {name} limit of {shown}");
        errs.invalid(path, value.clone(), detail);
    }
}

/// Huge pages come whole.
fn whole_pages(errs: &mut FieldErrors, path: &Path, name: &str, value: &Value) {
    let size = name.strip_prefix("hugepages-").and_then(|size| nano(&Value::from(size)));
    if let (Some(size), Some(nanos)) = (size, nano(value))
        && size > 0
        && nanos % size != 0
    {
        let shown = value.as_str().unwrap_or_default();
        let detail = format!("{shown} is not positive integer multiple of {name}");
        errs.invalid(path, shown, detail);
    }
}

/// Must a resource be asked for as it is limited?
pub(crate) fn is_no_overcommit(name: &str) -> bool {
    is_extended(name) || name.starts_with("hugepages-")
}

/// A name of a resource: qualified, and known when it has no domain. Tells whether it is fine.
pub(crate) fn resource_name(errs: &mut FieldErrors, path: &Path, name: &str) -> bool {
    let before = errs.0.len();
    problems(errs, path, name, qualified_problems(name));
    if errs.0.len() == before && !name.contains('/') && !is_standard(name) {
        errs.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    errs.0.len() == before
}

/// A resource that a container may have.
pub(crate) fn container_resource(errs: &mut FieldErrors, path: &Path, name: &str) {
    resource_name(errs, path, name);
    let known =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') {
        if !known {
            errs.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errs.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_resource(errs: &mut FieldErrors, path: &Path, name: &str) {
    let known = matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    if resource_name(errs, path, name) && !known {
        errs.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// A quantity that may not be negative, and whole where parts make no sense.
pub(crate) fn resource_value(errs: &mut FieldErrors, path: &Path, name: &str, value: &Value) {
    let Some(nanos) = nano(value) else { return };
    if nanos < 0 {
        errs.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    let whole = is_extended(name)
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        );
    if whole && nanos % NANO != 0 {
        errs.invalid(path, value.clone(), "must be an integer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        for (text, nanos) in [
            ("1", NANO),
            ("100m", NANO / 10),
            ("1.5Gi", (3 << 29) * NANO),
            ("-1", -NANO),
            ("1e3", 1000 * NANO),
            ("0.5", NANO / 2),
            ("2k", 2000 * NANO),
        ] {
            assert_eq!(nano(&json!(text)), Some(nanos), "{text}");
        }
        assert_eq!(nano(&json!("1x")), None);
        assert_eq!(quantity(NANO * 3 / 2, &json!("1")), json!("1500m"));
        assert_eq!(quantity((3 << 29) * NANO, &json!("1Gi")), json!("1536Mi"));
        assert_eq!(quantity(0, &json!("1")), json!("0"));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": all, "limits": all}))), "Guaranteed");
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_add_up() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                {"resources": {"requests": {"cpu": "3"}}}]});
        assert_eq!(pod_total(&spec, "requests")["cpu"], json!("3500m"));
    }
}
