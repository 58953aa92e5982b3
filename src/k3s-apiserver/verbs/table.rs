//! `as=Table`: what `kubectl get` prints.

use apimachinery::field::FieldError;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::render::partial;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, Shape};

/// Whether the column definitions are sent: with the first event of a watch, and with every list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    With,
    Without,
}

/// What `includeObject` puts into each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// Refuses what no row of a Table can include.
    pub fn check(call: &Call<'_>) -> Result<(), Status> {
        let include = call.query.text("includeObject");
        let known = matches!(include, "" | "None" | "Metadata" | "Object");
        let shape = Accept::read(&call.parts.headers).map(|accept| accept.shape);
        if known || shape.ok() != Some(Shape::Table) {
            return Ok(());
        }
        let detail = "must be 'Metadata', 'Object', 'None', or empty";
        let why = FieldError::invalid("includeObject", include, detail);
        Err(Status::bad_request(format!("Unable to convert to Table as requested: {why}")))
    }

    pub fn read(call: &Call<'_>) -> Self {
        match call.query.text("includeObject") {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A Table of trees.
pub fn table(
    call: &Call<'_>,
    kind: &Kind,
    accept: Accept,
    meta: Value,
    trees: &[Value],
    head: Head,
) -> Value {
    build(kind, accept, Include::read(call), meta, trees, head, call.server.now())
}

/// A Table of trees, for those who have no call any more.
pub fn build(
    kind: &Kind,
    accept: Accept,
    include: Include,
    meta: Value,
    trees: &[Value],
    head: Head,
    now: jiff::Timestamp,
) -> Value {
    let columns: Value = match head {
        Head::Without => Value::Null,
        Head::With => kind.strategy.column_definitions(),
    };
    let rows: Vec<Value> = trees
        .iter()
        .map(|tree| {
            let object = match include {
                Include::None => Value::Null,
                Include::Metadata => partial(kind, accept, tree),
                Include::Object => tree.clone(),
            };
            let mut row = json!({"cells": kind.strategy.row(tree, now), "object": object});
            if let Some(conditions) = kind.strategy.row_conditions(tree) {
                row["conditions"] = conditions;
            }
            if include == Include::None {
                row["object"] = Value::Null;
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", accept.meta_version),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
