//! `kubectl get`: the server's tables, or whole objects with `-o`.

use std::io::Write;

use anyhow::{Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use serde_json::Value;

use crate::cli::{GetArgs, Which};
use crate::discovery::{Type, Types, items, text};
use crate::jsonpath::{Template, plain};
use crate::manifests;
use crate::output::{Output, without_managed_fields};
use crate::select::{Target, targets};
use crate::server::{Server, is_not_found, with_query};
use crate::table::{self, Style};

/// What asks for tables.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) async fn run(server: &Server, args: &GetArgs) -> Result<()> {
    if let Some(path) = &args.raw {
        print!("{}", server.text(path).await?);
        return Ok(());
    }
    let output = Output::parse(&args.output)?;
    let types = Types::read(server).await?;
    let mut namespace = if args.which.all_namespaces { "" } else { &server.namespace };
    let from_files = manifests::read(&args.filename, args.recursive)?;
    let mut all = Vec::new();
    let of_file;
    if from_files.is_empty() {
        all = targets(&types, &args.targets)?;
    } else {
        for object in &from_files {
            let name = text(&object["metadata"]["name"]);
            all.push(Target { of: types.of(object)?, names: vec![name] });
        }
        of_file = from_files.first().map(|it| text(&it["metadata"]["namespace"]));
        namespace = of_file.as_deref().filter(|it| !it.is_empty()).unwrap_or(namespace);
    }
    if args.which.all_namespaces && all.iter().any(|target| !target.names.is_empty()) {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    if args.watch || args.watch_only {
        let [target] = &all[..] else {
            bail!("you may only specify a single resource type");
        };
        return watch(server, target, namespace, args, &output).await;
    }
    match &output {
        Output::Table { wide } => tables(server, &all, namespace, args, *wide).await,
        _ => objects(server, &all, namespace, args, &output).await,
    }
}

fn style(args: &GetArgs, wide: bool, prefix: String) -> Style {
    Style {
        wide,
        no_headers: args.no_headers,
        namespaces: args.which.all_namespaces,
        show_labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        prefix,
    }
}

/// The paths that answer for a target: one a name, or the collection.
pub(crate) fn paths(target: &Target<'_>, namespace: &str, which: &Which) -> Vec<String> {
    if target.names.is_empty() {
        let path = target.of.path(namespace, "");
        let query =
            [("labelSelector", &*which.selector), ("fieldSelector", &*which.field_selector)];
        return vec![with_query(&path, &query)];
    }
    target.names.iter().map(|name| target.of.path(namespace, name)).collect()
}

async fn tables(
    server: &Server,
    all: &[Target<'_>],
    namespace: &str,
    args: &GetArgs,
    wide: bool,
) -> Result<()> {
    let mut shown = 0;
    let mut failed = None;
    for target in all {
        let prefix = if all.len() > 1 { target.of.qualified() } else { String::new() };
        let mut style = style(args, wide, prefix);
        style.namespaces &= target.of.resource.namespaced;
        let mut rows = Vec::new();
        let mut head = Vec::new();
        for path in paths(target, namespace, &args.which) {
            let include = if args.sort_by.is_some() { "Object" } else { "" };
            let path = with_query(&path, &[("includeObject", include)]);
            let mut table = match server.get_as(&path, TABLE).await {
                Ok(table) => table,
                Err(err) if is_not_found(&err) && args.ignore_not_found => continue,
                Err(err) => {
                    // The others are still shown, as kubectl does.
                    failed.get_or_insert(err);
                    continue;
                }
            };
            sort_rows(&mut table, args)?;
            let got = table::rows(&table, items(&table, "columnDefinitions"), &style);
            head = got.head;
            rows.extend(got.rows);
        }
        if rows.is_empty() {
            continue;
        }
        if shown > 0 && !style.no_headers {
            println!();
        }
        shown += 1;
        if !style.no_headers {
            rows.insert(0, head);
        }
        print!("{}", table::align(&rows));
    }
    if let Some(err) = failed {
        return Err(err);
    }
    if shown == 0 && !args.ignore_not_found {
        if args.which.all_namespaces || !all.iter().any(|it| it.of.resource.namespaced) {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {namespace} namespace.");
        }
    }
    Ok(())
}

fn sort_rows(table: &mut Value, args: &GetArgs) -> Result<()> {
    let Some(by) = &args.sort_by else { return Ok(()) };
    let template = Template::parse(by)?;
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by(|a, b| order(&template, &a["object"], &b["object"]));
    }
    Ok(())
}

fn order(template: &Template, a: &Value, b: &Value) -> std::cmp::Ordering {
    let key = |value: &Value| template.values(value).into_iter().next().unwrap_or_default();
    let (a, b) = (key(a), key(b));
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => plain(&a).cmp(&plain(&b)),
    }
}

async fn objects(
    server: &Server,
    all: &[Target<'_>],
    namespace: &str,
    args: &GetArgs,
    output: &Output,
) -> Result<()> {
    let mut found: Vec<(&Type, Value)> = Vec::new();
    let mut failed = None;
    for target in all {
        for path in paths(target, namespace, &args.which) {
            match server.get(&path).await {
                Ok(list) if target.names.is_empty() => {
                    let (version, kind) =
                        (target.of.resource.api_version(), &target.of.resource.kind);
                    for item in items(&list, "items") {
                        let mut item = item.clone();
                        item["apiVersion"] = version.clone().into();
                        item["kind"] = kind.as_ref().into();
                        found.push((target.of, item));
                    }
                }
                Ok(object) => found.push((target.of, object)),
                Err(err) if is_not_found(&err) && args.ignore_not_found => {}
                Err(err) => {
                    failed.get_or_insert(err);
                }
            }
        }
    }
    if !args.show_managed_fields {
        found = found.into_iter().map(|(of, it)| (of, without_managed_fields(it))).collect();
    }
    if let Some(by) = &args.sort_by {
        let template = Template::parse(by)?;
        found.sort_by(|(_, a), (_, b)| order(&template, a, b));
    }
    let single = matches!(all, [target] if target.names.len() == 1);
    match failed {
        Some(err) if found.is_empty() => return Err(err),
        None if found.is_empty() && args.ignore_not_found => return Ok(()),
        _ => output.print(&found, single),
    }
    failed.map_or(Ok(()), Err)
}

/// Lists, then prints a row or an object for every change.
async fn watch(
    server: &Server,
    target: &Target<'_>,
    namespace: &str,
    args: &GetArgs,
    output: &Output,
) -> Result<()> {
    let path = target.of.path(namespace, "");
    let mut fields = args.which.field_selector.clone();
    match &target.names[..] {
        [] => {}
        [name] => fields = format!("metadata.name={name}"),
        _ => bail!("watch is only supported on individual resources and resource collections"),
    }
    let query = [("labelSelector", &*args.which.selector), ("fieldSelector", &*fields)];
    let path = with_query(&path, &query);
    let (accept, wide) = match output {
        Output::Table { wide } => (TABLE, *wide),
        _ => ("application/json", false),
    };
    let mut style = style(args, wide, String::new());
    style.namespaces &= target.of.resource.namespaced;
    let list = server.get_as(&path, accept).await?;
    let mut columns = items(&list, "columnDefinitions").to_vec();
    let mut widths = Vec::new();
    if !args.watch_only {
        show(target.of, &list, &columns, &style, output, &mut widths, Part::Beginning);
    }
    let version = text(&list["metadata"]["resourceVersion"]);
    let path = with_query(&path, &[("watch", "true"), ("resourceVersion", &version)]);
    let mut lines = server.stream(&path, accept).await?.lines();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let object = &event["object"];
        if event["type"] == "ERROR" {
            bail!("{}", text(&object["message"]));
        }
        if event["type"] == "BOOKMARK" {
            continue;
        }
        if !items(object, "columnDefinitions").is_empty() {
            columns = items(object, "columnDefinitions").to_vec();
        }
        show(target.of, object, &columns, &style, output, &mut widths, Part::Change);
        std::io::stdout().flush()?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Beginning,
    Change,
}

fn show(
    of: &Type,
    object: &Value,
    columns: &[Value],
    style: &Style,
    output: &Output,
    widths: &mut Vec<usize>,
    part: Part,
) {
    if let Output::Table { .. } = output {
        let got = table::rows(object, columns, style);
        let mut rows = got.rows;
        // The header comes with the first row there is.
        if !style.no_headers && widths.is_empty() && !rows.is_empty() {
            rows.insert(0, got.head);
        }
        if !rows.is_empty() {
            *widths = table::widths(&rows, widths);
        }
        print!("{}", table::align_to(&rows, widths));
        return;
    }
    let objects = match part {
        Part::Beginning => items(object, "items"),
        Part::Change => std::slice::from_ref(object),
    };
    for object in objects {
        let mut object = without_managed_fields(object.clone());
        object["apiVersion"] = of.resource.api_version().into();
        object["kind"] = of.resource.kind.as_ref().into();
        output.print(&[(of, object)], true);
    }
}
