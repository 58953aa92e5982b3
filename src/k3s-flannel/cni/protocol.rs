//! What plugin, daemon and runtime say to each other.
//!
//! Knows the CNI specification (1.1.0) and no kernel. Invariant: an answer always has the version
//! of the configuration that it answers, in the shape of that version.

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The version that we write into configurations.
pub const VERSION: &str = "1.0.0";
/// Every version that the plugin answers.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Where the daemon listens.
pub const SOCKET: &str = "/run/k3s/cni.sock";

/// From the plugin to the daemon: `CNI_*` variables and standard input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Call {
    pub env: BTreeMap<String, String>,
    pub config: String,
}

/// From the daemon to the plugin: what to print and whether it is an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub failed: bool,
    pub stdout: String,
}

/// A CNI error with one of the specification's codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct CniError {
    pub code: u32,
    pub msg: String,
    pub details: String,
}

impl CniError {
    pub fn incompatible(version: &str) -> Self {
        Self::new(1, "incompatible CNI version", version)
    }

    pub fn environment(name: &str) -> Self {
        Self::new(4, "required environment variable is missing or bad", name)
    }

    pub fn decode(details: impl ToString) -> Self {
        Self::new(6, "failed to decode the network configuration", details)
    }

    pub fn config(details: impl ToString) -> Self {
        Self::new(7, "invalid network configuration", details)
    }

    /// Transient: the runtime should ask again.
    pub fn try_later(details: impl ToString) -> Self {
        Self::new(11, "the pod network is not ready yet", details)
    }

    pub fn unavailable(details: impl ToString) -> Self {
        Self::new(50, "the plugin is not available", details)
    }

    pub fn failed(details: impl ToString) -> Self {
        Self::new(999, "failed to set up the pod network", details)
    }

    fn new(code: u32, msg: &str, details: impl ToString) -> Self {
        let (msg, details) = (msg.into(), details.to_string());
        Self { code, msg, details }
    }

    pub fn answer(&self, version: &str) -> Answer {
        let body = json!({
            "cniVersion": version,
            "code": self.code,
            "msg": format!("{}: {}", self.msg, self.details),
        });
        Answer { failed: true, stdout: body.to_string() }
    }
}

/// The parts of a network configuration that matter here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    pub cni_version: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub socket: Option<String>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// One attachment that the runtime still knows of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container: String,
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// What the runtime wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// A checked [`Call`].
#[derive(Debug, Clone)]
pub struct Request {
    pub command: Command,
    pub attachment: Attachment,
    pub netns: String,
    pub config: Config,
}

impl Request {
    pub fn parse(call: &Call) -> Result<Self, CniError> {
        let var = |name: &str| call.env.get(name).cloned().unwrap_or_default();
        let command = match var("CNI_COMMAND").as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            _ => return Err(CniError::environment("CNI_COMMAND")),
        };
        let mut config: Config = serde_json::from_str(&call.config).map_err(CniError::decode)?;
        if config.cni_version.is_empty() {
            config.cni_version = "0.1.0".into();
        }
        if command != Command::Version && !VERSIONS.contains(&config.cni_version.as_str()) {
            return Err(CniError::incompatible(&config.cni_version));
        }
        let request = Self {
            command,
            attachment: Attachment {
                container: var("CNI_CONTAINERID"),
                interface: var("CNI_IFNAME"),
            },
            netns: var("CNI_NETNS"),
            config,
        };
        request.check_variables()?;
        Ok(request)
    }

    fn check_variables(&self) -> Result<(), CniError> {
        let needs_attachment = matches!(self.command, Command::Add | Command::Del | Command::Check);
        let container = &self.attachment.container;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if needs_attachment && (container.is_empty() || !container.chars().all(plain)) {
            return Err(CniError::environment("CNI_CONTAINERID"));
        }
        let interface = &self.attachment.interface;
        let bad_interface = interface.is_empty()
            || interface.len() > 15
            || interface == "."
            || interface == ".."
            || interface.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if needs_attachment && bad_interface {
            return Err(CniError::environment("CNI_IFNAME"));
        }
        let needs_netns = matches!(self.command, Command::Add | Command::Check);
        if needs_netns && self.netns.is_empty() {
            return Err(CniError::environment("CNI_NETNS"));
        }
        Ok(())
    }
}

/// What ADD achieved.
#[derive(Debug, Clone)]
pub struct Attached {
    pub bridge: (String, String),
    pub host: (String, String),
    pub container: (String, String),
    pub netns: String,
    pub address: Ipv4Network,
    pub gateway: Ipv4Addr,
}

impl Attached {
    pub fn result(&self, version: &str) -> Value {
        let link = |(name, mac): &(String, String)| json!({"name": name, "mac": mac});
        let mut container = link(&self.container);
        container["sandbox"] = json!(self.netns);
        let mut ip = json!({
            "address": self.address.to_string(),
            "gateway": self.gateway.to_string(),
            "interface": 2,
        });
        mark_family(&mut ip, version);
        json!({
            "cniVersion": version,
            "interfaces": [link(&self.bridge), link(&self.host), container],
            "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": self.gateway.to_string()}],
            "dns": {},
        })
    }
}

/// The answer of the `loopback` plugin.
pub fn loopback_result(netns: &str, version: &str) -> Value {
    let mut ip = json!({"address": "127.0.0.1/8", "interface": 0});
    mark_family(&mut ip, version);
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}],
        "ips": [ip],
        "dns": {},
    })
}

/// Results before 1.0.0 name the address family.
fn mark_family(ip: &mut Value, version: &str) {
    if version.starts_with("0.") {
        ip["version"] = json!("4");
    }
}

pub fn version_answer(version: &str) -> Answer {
    let body = json!({"cniVersion": version, "supportedVersions": VERSIONS});
    Answer { failed: false, stdout: body.to_string() }
}

/// The list of plugins that containerd runs.
pub fn conflist(socket: &str) -> String {
    let body = json!({
        "name": "cbr0",
        "cniVersion": VERSION,
        "plugins": [{"type": "k3s-cni", "socket": socket}],
    });
    format!("{body:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, container: &str, interface: &str, config: &str) -> Call {
        let pairs = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_IFNAME", interface),
            ("CNI_NETNS", "/run/netns/x"),
        ];
        let env = pairs.map(|(k, v)| (k.to_string(), v.to_string())).into();
        let config = config.into();
        Call { env, config }
    }

    #[test]
    fn bad_calls_get_the_codes_of_the_specification() {
        let good = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"k3s-cni"}"#;
        let cases = [
            (call("ADD", "abc", "eth0", good), None),
            (call("", "abc", "eth0", good), Some(4)),
            (call("ADD", "", "eth0", good), Some(4)),
            (call("ADD", "../x", "eth0", good), Some(4)),
            (call("ADD", "abc", "eth0/..", good), Some(4)),
            (call("DEL", "abc", "sixteencharacter", good), Some(4)),
            (call("ADD", "abc", "eth0", "{"), Some(6)),
            (call("ADD", "abc", "eth0", r#"{"cniVersion":"9.0.0"}"#), Some(1)),
            (call("STATUS", "", "", good), None),
        ];
        for (call, code) in cases {
            let got = Request::parse(&call).err().map(|err| err.code);
            assert_eq!(got, code, "{call:?}");
        }
    }

    #[test]
    fn old_versions_get_the_address_family() {
        let new = loopback_result("/n", "1.0.0");
        let old = loopback_result("/n", "0.3.1");
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(old["ips"][0]["version"], "4");
    }
}
