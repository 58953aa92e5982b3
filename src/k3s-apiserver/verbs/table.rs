//! `as=Table`: what `kubectl get` prints.

use serde_json::{Value, json};

use super::render::partial;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;

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
