//! `kubectl delete`: by file, by name, by label; then waits until the objects are gone.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::{Value, json};

use crate::apply::refuse_kustomize;
use crate::cli::DeleteArgs;
use crate::discovery::{Type, Types, items, text};
use crate::get::paths;
use crate::manifests;
use crate::select::targets;
use crate::server::{Server, is_not_found};

/// One object to delete.
struct Doomed<'a> {
    of: &'a Type,
    namespace: String,
    name: String,
}

pub(crate) async fn run(server: &Server, args: &DeleteArgs) -> Result<()> {
    refuse_kustomize(&args.files)?;
    let types = Types::read(server).await?;
    let doomed = match args.files.filename.is_empty() {
        true => chosen(server, &types, args).await?,
        false => in_files(server, &types, args)?,
    };
    let options = options(args);
    let mut waiting = Vec::new();
    let mut failed = None;
    for one in &doomed {
        let path = one.of.path(&one.namespace, &one.name);
        let body = serde_json::to_vec(&options)?;
        match server.send(Method::DELETE, &path, "application/json", body).await {
            Ok(answer) => {
                say(one, args);
                let uid = text(&answer["metadata"]["uid"]);
                let uid = if uid.is_empty() { text(&answer["details"]["uid"]) } else { uid };
                waiting.push((path, uid));
            }
            Err(err) if is_not_found(&err) && (args.ignore_not_found || args.all) => {}
            Err(err) if doomed.len() == 1 => return Err(err),
            Err(err) => {
                crate::fail(&err);
                failed = Some(());
            }
        }
    }
    if doomed.is_empty() && !args.ignore_not_found {
        println!("No resources found");
    }
    if args.wait && !args.force {
        for (path, uid) in waiting {
            gone(server, &path, &uid).await?;
        }
    }
    if failed.is_some() { Err(crate::Exit(1).into()) } else { Ok(()) }
}

fn say(one: &Doomed<'_>, args: &DeleteArgs) {
    if args.output == "name" {
        println!("{}", one.of.named(&one.name));
        return;
    }
    let how = if args.force && args.grace_period == 0 { "force deleted" } else { "deleted" };
    let place = match one.of.resource.namespaced {
        true => format!(" from {} namespace", one.namespace),
        false => String::new(),
    };
    println!("{} {:?} {how}{place}", one.of.qualified(), one.name);
}

fn in_files<'a>(server: &Server, types: &'a Types, args: &DeleteArgs) -> Result<Vec<Doomed<'a>>> {
    let objects = manifests::read(&args.files.filename, args.files.recursive)?;
    let one = |object: &Value| {
        let namespace = text(&object["metadata"]["namespace"]);
        Ok(Doomed {
            of: types.of(object)?,
            namespace: if namespace.is_empty() { server.namespace.clone() } else { namespace },
            name: text(&object["metadata"]["name"]),
        })
    };
    objects.iter().map(one).collect()
}

async fn chosen<'a>(
    server: &Server,
    types: &'a Types,
    args: &DeleteArgs,
) -> Result<Vec<Doomed<'a>>> {
    let mut doomed = Vec::new();
    let selects =
        args.all || !args.which.selector.is_empty() || !args.which.field_selector.is_empty();
    for target in targets(types, &args.targets)? {
        let namespace = if args.which.all_namespaces { "" } else { &server.namespace };
        if !target.names.is_empty() {
            if selects {
                bail!("name cannot be provided when a selector is specified");
            }
            doomed.extend(target.names.iter().map(|name| Doomed {
                of: target.of,
                namespace: server.namespace.clone(),
                name: name.clone(),
            }));
            continue;
        }
        if !selects {
            bail!("resource(s) were provided, but no name was specified");
        }
        for path in paths(&target, namespace, &args.which) {
            let list = server.get(&path).await?;
            doomed.extend(items(&list, "items").iter().map(|item| Doomed {
                of: target.of,
                namespace: text(&item["metadata"]["namespace"]),
                name: text(&item["metadata"]["name"]),
            }));
        }
    }
    Ok(doomed)
}

fn options(args: &DeleteArgs) -> Value {
    let policy = match args.cascade.as_str() {
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        _ => "Background",
    };
    let mut options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
    });
    let grace = if args.now { 1 } else { args.grace_period };
    let grace = if args.force && grace < 0 { 0 } else { grace };
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    options
}

/// Waits until an object is no longer there, or another one has its name.
async fn gone(server: &Server, path: &str, uid: &str) -> Result<()> {
    const LOOK_AGAIN: Duration = Duration::from_millis(200);
    loop {
        match server.get(path).await {
            Err(err) if is_not_found(&err) => return Ok(()),
            Err(err) => return Err(err),
            Ok(object) if !uid.is_empty() && object["metadata"]["uid"] != uid => return Ok(()),
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
