//! `kubectl scale`, over the scale subresource.

use anyhow::{Result, bail};
use serde_json::json;

use crate::cli::ScaleArgs;
use crate::discovery::Types;
use crate::select::targets;
use crate::server::Server;

pub(crate) async fn run(server: &Server, args: &ScaleArgs) -> Result<()> {
    let types = Types::read(server).await?;
    for target in targets(&types, &args.targets)? {
        if target.names.is_empty() {
            bail!("resource(s) were provided, but no name was specified");
        }
        for name in &target.names {
            let path = format!("{}/scale", target.of.path(&server.namespace, name));
            let mut patch = json!({"spec": {"replicas": args.replicas}});
            if let Some(expected) = args.current_replicas {
                let scale = server.get(&path).await?;
                if scale["spec"]["replicas"] != expected {
                    bail!("Expected replicas to be {expected}, was {}", scale["spec"]["replicas"]);
                }
                patch["metadata"] = json!({
                    "resourceVersion": scale["metadata"]["resourceVersion"],
                });
            }
            server.merge(&path, &patch).await?;
            println!("{} scaled", target.of.named(name));
        }
    }
    Ok(())
}
