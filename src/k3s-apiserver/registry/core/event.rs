//! Events, in both their shapes: the core one and that of `events.k8s.io`.
//!
//! Both are stored as one object; `convert` turns one into the other, field by field.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{column, name, since, wide};
use crate::registry::value::{at, has, int, key, remove, set, text};
use crate::registry::{Column, Cx, Object, Selectable, Strategy};

/// Core event field, `events.k8s.io` field.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(crate) struct Event(pub(crate) &'static str);

const NAME_WIDE: Column =
    Column { name: "Name", kind: "string", format: "name", priority: 1, description: "" };

impl Strategy for Event {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            column("Last Seen"),
            column("Type"),
            column("Reason"),
            column("Object"),
            wide("Subobject"),
            wide("Source"),
            column("Message"),
            wide("First Seen"),
            wide("Count"),
            NAME_WIDE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        row(obj, now)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn convert(&self, obj: &mut Object, from: &str, to: &str) {
        let renames = |old: usize| {
            move |pair: &(&'static str, &'static str)| {
                if old == 0 { *pair } else { (pair.1, pair.0) }
            }
        };
        let way = match (from, to) {
            ("v1", "events.k8s.io/v1") => 0,
            ("events.k8s.io/v1", "v1") => 1,
            _ => return,
        };
        for (old, new) in NAMES.iter().map(renames(way)) {
            if let Some(value) = remove(obj, old) {
                set(obj, new, value);
            }
        }
    }
}

/// Under the names of both groups, whose events are kept together.
const FIELDS: &[Selectable] = &[
    field("involvedObject.kind"),
    field("involvedObject.namespace"),
    field("involvedObject.name"),
    field("involvedObject.uid"),
    field("involvedObject.apiVersion"),
    field("involvedObject.resourceVersion"),
    field("involvedObject.fieldPath"),
    field("reason"),
    field("reportingComponent"),
    Selectable { name: "source", path: "source.component|reportingComponent", zero: "" },
    field("type"),
    Selectable { name: "regarding.kind", path: "involvedObject.kind", zero: "" },
    Selectable { name: "regarding.namespace", path: "involvedObject.namespace", zero: "" },
    Selectable { name: "regarding.name", path: "involvedObject.name", zero: "" },
    Selectable { name: "regarding.uid", path: "involvedObject.uid", zero: "" },
    Selectable { name: "regarding.apiVersion", path: "involvedObject.apiVersion", zero: "" },
    Selectable {
        name: "regarding.resourceVersion",
        path: "involvedObject.resourceVersion",
        zero: "",
    },
    Selectable { name: "regarding.fieldPath", path: "involvedObject.fieldPath", zero: "" },
    Selectable { name: "reportingController", path: "reportingComponent", zero: "" },
];

const fn field(name: &'static str) -> Selectable {
    Selectable { name, path: name, zero: "" }
}

/// A field under either of its names.
fn either<'a>(obj: &'a Object, core: &str) -> &'a Value {
    let other = NAMES.iter().find(|(name, _)| *name == core).map_or(core, |(_, other)| other);
    match key(obj, core) {
        Value::Null => key(obj, other),
        found => found,
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let subject = either(obj, "involvedObject");
    let first = match either(obj, "firstTimestamp") {
        Value::Null => key(obj, "eventTime"),
        found => found,
    };
    let series = at(obj, "series");
    let last = match either(obj, "lastTimestamp") {
        _ if has(series, "lastObservedTime") => key(series, "lastObservedTime"),
        Value::Null => first,
        found => found,
    };
    let count = match int(series, "count").or_else(|| either(obj, "count").as_i64()) {
        Some(count) if count > 0 => count,
        _ => 1,
    };
    let object = match text(subject, "name") {
        "" => text(subject, "kind").to_lowercase(),
        name => format!("{}/{name}", text(subject, "kind").to_lowercase()),
    };
    let source = either(obj, "source");
    let mut parts: Vec<&str> = Vec::new();
    let component = text(source, "component");
    parts.push(if component.is_empty() {
        either(obj, "reportingComponent").as_str().unwrap_or_default()
    } else {
        component
    });
    let host = text(source, "host");
    parts.push(if host.is_empty() && component.is_empty() {
        text(obj, "reportingInstance")
    } else {
        host
    });
    parts.retain(|part| !part.is_empty());
    vec![
        json!(since(last, now)),
        json!(text(obj, "type")),
        json!(text(obj, "reason")),
        json!(object),
        json!(text(subject, "fieldPath")),
        json!(parts.join(", ")),
        json!(either(obj, "message").as_str().unwrap_or_default().trim()),
        json!(since(first, now)),
        json!(count),
        name(obj),
    ]
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let namespace = text(obj, "metadata.namespace");
    let of = text(either(obj, "involvedObject"), "namespace");
    let legacy = key(obj, "apiVersion") == "v1";
    let path = Path::new("involvedObject").child("namespace");
    if of.is_empty() {
        if !namespace.is_empty() && namespace != "default" {
            errs.invalid(path, of, "does not match event.namespace");
        }
    } else if of != namespace {
        errs.invalid(path, of, "does not match event.namespace");
    }
    if legacy || !has(obj, "eventTime") {
        return;
    }
    for (field, core) in [
        ("reportingController", "reportingComponent"),
        ("reportingInstance", "reportingInstance"),
        ("action", "action"),
        ("reason", "reason"),
    ] {
        if either(obj, core).as_str().unwrap_or_default().is_empty() {
            errs.required(field, "");
        }
    }
    let kind = text(obj, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errs.invalid("type", kind, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_reporter_where_there_is_no_component() {
        let source = FIELDS.iter().find(|field| field.name == "source").unwrap();
        let check = |event: Value, want: &str| {
            assert_eq!(&*crate::storage::entry::field_text(&event, source), want, "{event}");
        };
        check(json!({"source": {"component": "c"}, "reportingComponent": "r"}), "c");
        check(json!({"source": {}, "reportingComponent": "r"}), "r");
        check(json!({"source": {"component": ""}}), "");
    }

    #[test]
    fn conversion_goes_both_ways() {
        let core =
            json!({"involvedObject": {"kind": "Pod"}, "message": "m", "count": 2, "reason": "r"});
        let mut there = core.clone();
        Event("events").convert(&mut there, "v1", "events.k8s.io/v1");
        assert_eq!(
            there,
            json!({"regarding": {"kind": "Pod"}, "note": "m", "deprecatedCount": 2, "reason": "r"})
        );
        Event("events").convert(&mut there, "events.k8s.io/v1", "v1");
        assert_eq!(there, core);
    }
}
