//! The server's trust, laid out as k3s does under `server/tls`, `server/cred` and `agent`.
//!
//! Invariant: running it again on the same data folder changes nothing that is still valid.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use daemon::ConfigError;
use pki::{
    Authority, Durability, Leaf, ensure_signing_key, kubeconfig, token, write_atomic, write_with,
};

use crate::settings::{Node, Paths, Server, default_kubeconfig};

/// Client identities of the server: file stem, user, group, kubeconfig under `server/cred`.
const SERVER_CLIENTS: &[(&str, &str, &str, Option<&str>)] = &[
    ("client-admin", "system:admin", "system:masters", Some("admin")),
    ("client-supervisor", "system:k3s-supervisor", "system:masters", Some("supervisor")),
    ("client-controller", "system:kube-controller-manager", "", Some("controller")),
    ("client-scheduler", "system:kube-scheduler", "", Some("scheduler")),
    ("client-kube-apiserver", "kube-apiserver", "", None),
];

/// Client identities of the node, under `agent`: file stem, user, group, kubeconfig.
fn node_clients(name: &str) -> [(&'static str, String, &'static str, &'static str); 4] {
    [
        ("client-kubelet", format!("system:node:{name}"), "system:nodes", "kubelet"),
        ("client-kube-proxy", "system:kube-proxy".to_owned(), "", "kubeproxy"),
        ("client-k3s-controller", "system:k3s-controller".to_owned(), "", "k3scontroller"),
        ("client-k3s-dns", "system:k3s-dns".to_owned(), "", "dns"),
    ]
}

/// Makes or completes everything a server's components authenticate with.
pub(crate) fn prepare(server: &Server, now: i64) -> Result<()> {
    let ca_pem = certificates(server, now)?;
    tokens(server, given_token(server)?, &ca_pem)
}

/// The same while the server runs. What the token was at the start counts no more: it may have been
/// rotated since.
pub(crate) fn renew(server: &Server, now: i64) -> Result<()> {
    let ca_pem = certificates(server, now)?;
    tokens(server, None, &ca_pem)
}

/// Certificates and kubeconfigs; returns the bundle that clients trust.
fn certificates(server: &Server, now: i64) -> Result<String> {
    let paths = &server.node.paths;
    let ensure_ca = |stem: &str| ca(paths, stem, now);
    let server_ca = ensure_ca("server")?;
    let client_ca = ensure_ca("client")?;
    let front_ca = ensure_ca("request-header")?;
    ensure_signing_key(&paths.tls("service.key"))?;

    for (stem, user, group, config) in SERVER_CLIENTS {
        let (cert, key) = pair(&paths.tls(stem));
        client_ca.ensure_leaf(&Leaf::client(*user, group), &cert, &key, now)?;
        if let Some(config) = config {
            let ca = paths.tls("server-ca.crt");
            let text = kubeconfig::by_path(&server.node.server_url, &ca, &cert, &key);
            write_if_changed(&paths.server(&format!("cred/{config}.kubeconfig")), &text, 0o600)?;
        }
    }
    let (cert, key) = pair(&paths.tls("client-auth-proxy"));
    front_ca.ensure_leaf(&Leaf::client("system:auth-proxy", ""), &cert, &key, now)?;
    let (cert, key) = pair(&paths.tls("serving-kube-apiserver"));
    server_ca.ensure_leaf(&apiserver_leaf(server), &cert, &key, now)?;
    admin_kubeconfig(server, server_ca.cert_pem())?;
    node(&server.node, &server_ca, &client_ca, now)?;
    Ok(server_ca.cert_pem().to_owned())
}

/// The leafs that [`prepare`] makes and [`renew`] keeps.
pub(crate) fn leafs(server: &Server) -> Vec<PathBuf> {
    let paths = &server.node.paths;
    let clients = SERVER_CLIENTS.iter().map(|(stem, ..)| *stem);
    let of_server = clients.chain(["client-auth-proxy", "serving-kube-apiserver"]);
    let of_node = node_clients(&server.node.name).map(|(stem, ..)| stem);
    let of_node = of_node.into_iter().chain(["serving-kubelet"]);
    of_server
        .map(|stem| pair(&paths.tls(stem)).0)
        .chain(of_node.map(|stem| pair(&paths.agent(stem)).0))
        .collect()
}

/// The node's certificates and kubeconfigs, when both authorities are at hand.
fn node(node: &Node, server_ca: &Authority, client_ca: &Authority, now: i64) -> Result<()> {
    let paths = &node.paths;
    let ca = paths.agent("server-ca.crt");
    write_if_changed(&ca, server_ca.cert_pem(), 0o644)?;
    write_if_changed(&paths.agent("client-ca.crt"), client_ca.cert_pem(), 0o644)?;
    for (stem, user, group, config) in node_clients(&node.name) {
        let (cert, key) = pair(&paths.agent(stem));
        client_ca.ensure_leaf(&Leaf::client(user, group), &cert, &key, now)?;
        let text = kubeconfig::by_path(&node.server_url, &ca, &cert, &key);
        write_if_changed(&paths.agent(&format!("{config}.kubeconfig")), &text, 0o600)?;
    }
    let (cert, key) = pair(&paths.agent("serving-kubelet"));
    let names = vec![node.name.clone(), "localhost".to_owned()];
    let ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), node.ip];
    server_ca.ensure_leaf(&Leaf::server(&node.name, names, ips), &cert, &key, now)?;
    Ok(())
}

/// The kubeconfigs of an agent, whose certificates came from the server.
pub(crate) fn kubeconfigs(node: &Node) -> Result<()> {
    let paths = &node.paths;
    let ca = paths.agent("server-ca.crt");
    for (stem, _, _, config) in node_clients(&node.name) {
        let (cert, key) = pair(&paths.agent(stem));
        let text = kubeconfig::by_path(&node.server_url, &ca, &cert, &key);
        write_if_changed(&paths.agent(&format!("{config}.kubeconfig")), &text, 0o600)?;
    }
    Ok(())
}

fn ca(paths: &Paths, stem: &str, now: i64) -> Result<Authority> {
    let (cert, key) = pair(&paths.tls(&format!("{stem}-ca")));
    Authority::ensure(&cert, &key, &format!("k3s-{stem}"), now)
}

fn pair(stem: &Path) -> (PathBuf, PathBuf) {
    (stem.with_extension("crt"), stem.with_extension("key"))
}

/// The API server's serving certificate: every name and address that clients dial.
fn apiserver_leaf(server: &Server) -> Leaf {
    let domain = &server.node.cluster_domain;
    let mut dns: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .to_vec();
    dns.push(format!("kubernetes.default.svc.{domain}"));
    dns.push(server.node.name.clone());
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), server.service_ip(), server.advertise];
    ips.push(server.node.ip);
    for san in &server.args.tls_san {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(san.clone()),
        }
    }
    if !server.bind.is_unspecified() {
        ips.push(server.bind);
    }
    ips.sort();
    ips.dedup();
    dns.dedup();
    Leaf::server("kube-apiserver", dns, ips)
}

/// The join secret: `server/token` in the secure form, `node-token` a link to it, and the password
/// file that the API server checks agents with.
fn tokens(server: &Server, given: Option<String>, ca_pem: &str) -> Result<()> {
    let paths = &server.node.paths;
    let file = paths.server("token");
    let kept = match fs::read_to_string(&file) {
        Ok(text) => Some(token::password(text.trim()).to_owned()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
        Err(err) => return Err(err).with_context(|| format!("reading {}", file.display())),
    };
    let password = match (given, kept) {
        (Some(given), Some(kept)) if given != kept => {
            return Err(ConfigError(format!(
                "the token given differs from the one this server was made with ({}); \
                 give that one, or remove the token from the configuration",
                file.display()
            ))
            .into());
        }
        (Some(password), _) | (None, Some(password)) => password,
        (None, None) => token::random_hex(16)?,
    };
    let secure = format!("{}\n", token::secure(ca_pem, "server", &password));
    if fs::read_to_string(&file).ok().as_deref() != Some(&secure) {
        write_atomic(&file, secure.as_bytes(), 0o600)?;
    }
    let (given, file) = (server.args.agent_token.as_deref(), &server.args.agent_token_file);
    let agent = match given_password("agent-token", given, file.as_deref())? {
        Some(agent) => agent,
        None => password.clone(),
    };
    let mut passwd = format!("{password},server,server,k3s:server\n{agent},node,node,k3s:agent\n");
    let agent_file = paths.server("agent-token");
    let target = if agent == password {
        let _ = fs::remove_file(agent_file);
        "token"
    } else {
        // Who has the server's token may join as well.
        passwd.push_str(&format!("{password},node,node,k3s:agent\n"));
        let secure = format!("{}\n", token::secure(ca_pem, "node", &agent));
        write_if_changed(&agent_file, &secure, 0o600)?;
        "agent-token"
    };
    let link = paths.server("node-token");
    if fs::read_link(&link).ok().as_deref() != Some(Path::new(target)) {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link)
            .with_context(|| format!("linking {}", link.display()))?;
    }
    write_if_changed(&paths.server("cred/passwd"), &passwd, 0o600)
}

fn given_token(server: &Server) -> Result<Option<String>> {
    let args = &server.node.args;
    given_password("token", args.token(), args.token_file.as_deref())
}

/// The password of a token that is given by itself or in a file.
fn given_password(flag: &str, text: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    let text = match (text, file) {
        (Some(text), _) => text.to_owned(),
        (None, Some(file)) => fs::read_to_string(file)
            .map_err(|err| ConfigError(format!("--{flag}-file: {}: {err}", file.display())))?,
        (None, None) => return Ok(None),
    };
    let password = token::password(text.trim());
    if password.is_empty() || password.contains([',', '"', '\n']) {
        return Err(ConfigError(format!(
            "--{flag}: the password must not be empty or contain a comma, a quote or a line break"
        ))
        .into());
    }
    Ok(Some(password.to_owned()))
}

fn admin_kubeconfig(server: &Server, ca_pem: &str) -> Result<()> {
    let (cert, key) = pair(&server.node.paths.tls("client-admin"));
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let host = match server.bind {
        bind if bind.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        bind => bind,
    };
    let url = format!("https://{}", std::net::SocketAddr::new(host, server.port));
    let text = kubeconfig::embedded(&url, ca_pem, &read(&cert)?, &read(&key)?);
    let path = &server.kubeconfig;
    write_if_changed(path, &text, server.kubeconfig_mode)?;
    if let Some(group) = &server.args.write_kubeconfig_group {
        let id = group_id(group).ok_or_else(|| {
            ConfigError(format!("--write-kubeconfig-group: there is no group {group:?}"))
        })?;
        std::os::unix::fs::chown(path, None, Some(id))
            .with_context(|| format!("giving {} to the group {group}", path.display()))?;
    }
    // The usual place leads to the chosen one, as in k3s.
    let usual = default_kubeconfig();
    if *path != usual && fs::read_link(&usual).ok().as_ref() != Some(path) {
        let folder = usual.parent().expect("a kubeconfig lies in a folder");
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let _ = fs::remove_file(&usual);
        std::os::unix::fs::symlink(path, &usual)
            .with_context(|| format!("linking {}", usual.display()))?;
    }
    Ok(())
}

/// A group by its name or number.
fn group_id(group: &str) -> Option<u32> {
    let named = || {
        let groups = fs::read_to_string("/etc/group").ok()?;
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
    };
    group.parse().ok().or_else(named)
}

fn write_if_changed(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let same = fs::read_to_string(path).is_ok_and(|have| have == text)
        && fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode);
    if same { Ok(()) } else { write_with(path, text.as_bytes(), mode, Durability::Derived) }
}
