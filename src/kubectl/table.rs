//! Tables: the server's `Table` representation to columns of text, as kubectl aligns them.

use serde_json::Value;

use crate::discovery::{items, text};

/// How rows are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    pub(crate) wide: bool,
    pub(crate) no_headers: bool,
    /// Namespaces in the first column.
    pub(crate) namespaces: bool,
    pub(crate) show_labels: bool,
    pub(crate) label_columns: Vec<String>,
    /// `pod/` in front of names, for output with several types.
    pub(crate) prefix: String,
}

/// Header and rows of a `Table`, without the columns that only `-o wide` shows.
pub(crate) struct Rows {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Takes a `Table` apart. `columns` are those of an earlier answer: a watch sends them once.
pub(crate) fn rows(table: &Value, columns: &[Value], style: &Style) -> Rows {
    let shown = |column: &Value| style.wide || column["priority"].as_i64().unwrap_or(0) == 0;
    let mut head: Vec<String> = Vec::new();
    if style.namespaces {
        head.push("NAMESPACE".to_owned());
    }
    head.extend(columns.iter().filter(|it| shown(it)).map(|it| text(&it["name"]).to_uppercase()));
    head.extend(
        style
            .label_columns
            .iter()
            .map(|it| it.rsplit('/').next().unwrap_or_default().to_uppercase()),
    );
    if style.show_labels {
        head.push("LABELS".to_owned());
    }
    let rows = items(table, "rows").iter().map(|row| {
        let meta = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if style.namespaces {
            cells.push(text(&meta["namespace"]));
        }
        for (column, cell) in columns.iter().zip(items(row, "cells")) {
            if !shown(column) {
                continue;
            }
            let cell = cell_text(cell);
            match column["format"] == "name" && !style.prefix.is_empty() {
                true => cells.push(format!("{}/{cell}", style.prefix)),
                false => cells.push(cell),
            }
        }
        let labels = meta["labels"].as_object();
        let value = |name: &String| Some(text(labels?.get(name)?));
        cells.extend(style.label_columns.iter().map(|it| value(it).unwrap_or_default()));
        if style.show_labels {
            let all = labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v)));
            let all = all.collect::<Vec<_>>().join(",");
            cells.push(if all.is_empty() { "<none>".to_owned() } else { all });
        }
        cells
    });
    let rows = rows.collect();
    Rows { head, rows }
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// Lines of cells, each column as wide as its widest cell and three more.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    align_to(rows, &[])
}

/// The same, no column narrower than given: a watch goes on as it began.
pub(crate) fn align_to(rows: &[Vec<String>], least: &[usize]) -> String {
    let widths = widths(rows, least);
    let mut out = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            out += cell;
            if index + 1 < row.len() {
                let width = widths.get(index).copied().unwrap_or(0);
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

/// The width of each column, with the space behind it.
pub(crate) fn widths(rows: &[Vec<String>], least: &[usize]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let width = |at: usize| {
        let widest = rows.iter().map(|row| cell(row, at) + 3).max().unwrap_or(0);
        widest.max(6).max(least.get(at).copied().unwrap_or(0))
    };
    (0..columns).map(width).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_as_kubectl_does() {
        let rows = vec![
            vec!["NAME".to_owned(), "READY".into(), "AGE".into()],
            vec!["web".to_owned(), "1/1".into(), "5d".into()],
        ];
        assert_eq!(align(&rows), "NAME   READY   AGE\nweb    1/1     5d\n");
    }

    #[test]
    fn wide_columns_prefixes_and_labels_are_shown_when_asked_for() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "format": "name", "priority": 0},
                {"name": "IP", "priority": 1},
            ],
            "rows": [{
                "cells": ["web", "10.0.0.1"],
                "object": {"metadata": {"namespace": "default", "labels": {"app": "x"}}},
            }],
        });
        let check = |style: Style, expected: &[&str]| {
            let got = rows(&table, items(&table, "columnDefinitions"), &style);
            assert_eq!([got.head.join(" "), got.rows[0].join(" ")], *expected);
        };
        check(Style::default(), &["NAME", "web"]);
        check(Style { wide: true, ..Style::default() }, &["NAME IP", "web 10.0.0.1"]);
        check(
            Style { namespaces: true, prefix: "pod".into(), ..Style::default() },
            &["NAMESPACE NAME", "default pod/web"],
        );
        check(
            Style {
                show_labels: true,
                label_columns: vec!["a/app".into(), "app".into()],
                ..Style::default()
            },
            &["NAME APP APP LABELS", "web  x app=x"],
        );
    }
}
