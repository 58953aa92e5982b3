//! `--cleanup`: removes everything that flannel ever made on this node.
//!
//! Invariant: one thing that cannot be removed does not keep the rest.

use crate::mesh::{ROUTES, VXLAN};
use crate::network::BRIDGE;
use crate::{Args, firewall};
use anyhow::{Result, bail};
use netlink::Netlink;
use std::io;
use std::path::Path;

pub(crate) async fn cleanup(netlink: &Netlink, args: &Args) -> Result<()> {
    let mut problems = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(err) = result {
            problems.push(format!("{what}: {err}"));
        }
    };
    let text = |result: netlink::Result<()>| result.map_err(|err| err.to_string());
    note("ports", text(delete_ports(netlink).await));
    for link in [BRIDGE, VXLAN] {
        note(link, text(netlink.delete_link(link).await));
    }
    note("routes", text(delete_routes(netlink).await));
    note("nftables", text(netlink::nft::delete_table(firewall::TABLE).await));
    let conflist = args.cni_conf_dir.join("10-flannel.conflist");
    for file in [&args.subnet_file, &conflist] {
        note(&file.display().to_string(), gone(std::fs::remove_file(file)));
    }
    let leases: &Path = &args.lease_dir;
    note(&leases.display().to_string(), gone(std::fs::remove_dir_all(leases)));
    if !problems.is_empty() {
        bail!("some things could not be removed: {}", problems.join("; "));
    }
    Ok(())
}

/// The hosts' ends of the pods' links.
async fn delete_ports(netlink: &Netlink) -> netlink::Result<()> {
    let Some(bridge) = netlink.link(BRIDGE).await? else {
        return Ok(());
    };
    for link in netlink.links().await? {
        if link.controller == Some(bridge.index) {
            netlink.delete_link(&link.name).await?;
        }
    }
    Ok(())
}

async fn delete_routes(netlink: &Netlink) -> netlink::Result<()> {
    for route in netlink.routes(ROUTES).await? {
        netlink.delete_route(&route, ROUTES).await?;
    }
    Ok(())
}

fn gone(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err.to_string()),
        _ => Ok(()),
    }
}
