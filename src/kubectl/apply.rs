//! `kubectl apply`: server-side apply, object by object.

use anyhow::{Result, bail};
use http::Method;

use crate::cli::{ApplyArgs, Files};
use crate::discovery::{Types, text};
use crate::manifests;
use crate::output::{Output, without_managed_fields};
use crate::server::{Server, with_query};

pub(crate) async fn run(server: &Server, args: &ApplyArgs) -> Result<()> {
    refuse_kustomize(&args.files)?;
    if args.files.filename.is_empty() {
        bail!("must specify one of -f and -k");
    }
    if args.server_side == Some(false) {
        bail!("--server-side=false: k3s' own kubectl applies on the server's side only");
    }
    let output = Output::parse(&args.output)?;
    let objects = manifests::read(&args.files.filename, args.files.recursive)?;
    let mut types = Types::read(server).await?;
    let mut failed = None;
    for object in &objects {
        // A definition earlier in the files may just have brought the type.
        if types.of(object).is_err() {
            types = Types::read(server).await?;
        }
        let applied = one(server, &types, object, args).await;
        match applied {
            Ok((name, applied)) => match output {
                Output::Table { .. } if args.dry_run == "server" => {
                    println!("{name} serverside-applied (server dry run)");
                }
                Output::Table { .. } => println!("{name} serverside-applied"),
                _ => {
                    let of = types.of(object)?;
                    output.print(&[(of, without_managed_fields(applied))], true);
                }
            },
            Err(err) if objects.len() == 1 => return Err(err),
            Err(err) => {
                crate::fail(&err);
                failed = Some(());
            }
        }
    }
    if failed.is_some() { Err(crate::Exit(1).into()) } else { Ok(()) }
}

async fn one(
    server: &Server,
    types: &Types,
    object: &serde_json::Value,
    args: &ApplyArgs,
) -> Result<(String, serde_json::Value)> {
    let of = types.of(object)?;
    let (name, own) = (text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
    if name.is_empty() {
        bail!("resource name may not be empty");
    }
    let namespace = if own.is_empty() { &server.namespace } else { &own };
    let path = with_query(
        &of.path(namespace, &name),
        &[
            ("fieldManager", &args.field_manager),
            ("force", if args.force_conflicts { "true" } else { "false" }),
            ("dryRun", if args.dry_run == "server" { "All" } else { "" }),
            ("fieldValidation", "Strict"),
        ],
    );
    let body = serde_json::to_vec(object)?;
    let applied = server.send(Method::PATCH, &path, "application/apply-patch+yaml", body).await?;
    Ok((of.named(&name), applied))
}

/// `-k` needs the real kubectl.
pub(crate) fn refuse_kustomize(files: &Files) -> Result<()> {
    if files.kustomize.is_some() {
        bail!("-k: kustomize is not part of k3s' own kubectl; install kubectl for it");
    }
    Ok(())
}
