//! k3s' flags whose feature is not there yet: accepted by name, answered with a reason.
//!
//! Invariant: a flag of k3s is either a field of the argument structs or an entry of [`MISSING`];
//! giving one of these either refuses the start or says that it changes nothing. The entry goes
//! when its feature comes.

use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use daemon::ConfigError;

/// The role that a command line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Agent,
}

/// Who knows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Server,
    /// Both roles.
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    List,
}

/// What giving the flag leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody relies on what would not happen: the role does not start.
    Refused,
    /// Nothing is lost: the role starts and says that the flag has no effect.
    Warned,
    /// It asks for what is so in any case.
    Granted,
}

/// One flag.
struct Missing {
    flag: &'static str,
    of: Of,
    takes: Takes,
    verdict: Verdict,
    why: &'static str,
    short: Option<char>,
    env: Option<&'static str>,
    /// A value that asks for nothing.
    neutral: Option<&'static str>,
}

const fn missing(
    of: Of,
    flag: &'static str,
    takes: Takes,
    verdict: Verdict,
    why: &'static str,
) -> Missing {
    Missing { flag, of, takes, verdict, why, short: None, env: None, neutral: None }
}

impl Missing {
    const fn env(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    const fn neutral(mut self, value: &'static str) -> Self {
        self.neutral = Some(value);
        self
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.flag)
            .long(self.flag)
            .help(format!("Not available yet: {}", self.why))
            .hide(true);
        let arg = match self.takes {
            Takes::Nothing => arg.action(ArgAction::SetTrue),
            Takes::Value => arg.action(ArgAction::Set),
            Takes::List => arg.action(ArgAction::Append),
        };
        let arg = if let Some(letter) = self.short { arg.short(letter) } else { arg };
        if let Some(name) = self.env { arg.env(name).hide_env_values(true) } else { arg }
    }

    /// Whether somebody gave it, with a value that asks for something.
    fn given(&self, matches: &ArgMatches) -> bool {
        let source = matches.value_source(self.flag);
        if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            return false;
        }
        let neutral = match self.takes {
            Takes::Nothing => Some("false"),
            _ => self.neutral,
        };
        let mut values = matches.get_raw(self.flag).into_iter().flatten();
        !values.all(|value| Some(value) == neutral.map(OsStr::new))
            // A switch without a value has none that is raw.
            || (self.takes == Takes::Nothing && matches.get_flag(self.flag))
    }
}

const NO_ETCD: &str = "there is no embedded etcd; a server keeps its data in SQLite";
const NO_SNAPSHOTS: &str = "no snapshots are taken; back up server/db with the server stopped";
const NO_S3: &str = "snapshots to S3 are not there yet; copy server/db with the server stopped";
const NO_HELM: &str = "there is no Helm controller; install charts with helm";
const NO_CLOUD: &str = "there is no cloud controller; nodes need none to become ready";
const NO_REGISTRIES: &str = "registry mirrors are not there yet; images are pulled as named";
const NO_LOG_FILES: &str = "logs go to stderr or the journal; redirect them there";
const NO_DATASTORE_TLS: &str =
    "the datastore's own TLS settings are not there yet; use a local endpoint";

/// Every flag of k3s that leads to nothing yet.
#[rustfmt::skip]
static MISSING: &[Missing] = {
    use Of::{Node, Server};
    use Takes::{List, Nothing, Value};
    use Verdict::{Granted, Refused, Warned};
    &[
        // Logs.
        missing(Node, "vmodule", Value, Warned, "levels are per component: K3S_LOG_LEVEL"),
        missing(Node, "log", Value, Warned, NO_LOG_FILES).short('l'),
        missing(Node, "alsologtostderr", Nothing, Granted, NO_LOG_FILES),
        // Several servers and datastores.
        missing(Server, "cluster-init", Nothing, Refused, NO_ETCD).env("K3S_CLUSTER_INIT"),
        missing(Server, "cluster-reset", Nothing, Refused, NO_ETCD).env("K3S_CLUSTER_RESET"),
        missing(Server, "cluster-reset-restore-path", Value, Refused, NO_ETCD),
        missing(Server, "datastore-cafile", Value, Refused, NO_DATASTORE_TLS).env("K3S_DATASTORE_CAFILE"),
        missing(Server, "datastore-certfile", Value, Refused, NO_DATASTORE_TLS).env("K3S_DATASTORE_CERTFILE"),
        missing(Server, "datastore-keyfile", Value, Refused, NO_DATASTORE_TLS).env("K3S_DATASTORE_KEYFILE"),
        missing(Server, "etcd-arg", List, Refused, NO_ETCD),
        missing(Server, "etcd-expose-metrics", Nothing, Warned, NO_ETCD),
        missing(Server, "disable-apiserver", Nothing, Refused, "servers without an API need several servers, which are not there yet"),
        missing(Server, "disable-etcd", Nothing, Refused, NO_ETCD),
        // Snapshots.
        missing(Server, "etcd-disable-snapshots", Nothing, Granted, NO_SNAPSHOTS),
        missing(Server, "etcd-snapshot-schedule-cron", Value, Refused, NO_SNAPSHOTS),
        missing(Server, "etcd-snapshot-name", Value, Warned, NO_SNAPSHOTS),
        missing(Server, "etcd-snapshot-retention", Value, Warned, NO_SNAPSHOTS),
        missing(Server, "etcd-snapshot-dir", Value, Warned, NO_SNAPSHOTS),
        missing(Server, "etcd-snapshot-compress", Nothing, Warned, NO_SNAPSHOTS),
        missing(Server, "etcd-s3", Nothing, Refused, NO_S3),
        missing(Server, "etcd-s3-endpoint", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-endpoint-ca", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-skip-ssl-verify", Nothing, Warned, NO_S3),
        missing(Server, "etcd-s3-access-key", Value, Warned, NO_S3).env("AWS_ACCESS_KEY_ID"),
        missing(Server, "etcd-s3-secret-key", Value, Warned, NO_S3).env("AWS_SECRET_ACCESS_KEY"),
        missing(Server, "etcd-s3-bucket", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-region", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-folder", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-proxy", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-config-secret", Value, Warned, NO_S3),
        missing(Server, "etcd-s3-insecure", Nothing, Warned, NO_S3),
        missing(Server, "etcd-s3-timeout", Value, Warned, NO_S3),
        // Listeners and tunnels.
        missing(Server, "advertise-port", Value, Refused, "the API is advertised with --https-listen-port"),
        missing(Server, "tls-san-security", Nothing, Granted, "names are only ever added with --tls-san").neutral("true"),
        missing(Server, "egress-selector-mode", Value, Warned, "the API server reaches kubelets through their tunnels, and pods directly").neutral("agent"),
        missing(Server, "supervisor-metrics", Nothing, Warned, "each component serves its own metrics"),
        missing(Node, "enable-pprof", Nothing, Warned, "there is no Go runtime to profile; use perf"),
        missing(Node, "vpn-auth", Value, Refused, "VPN integration is not there yet").env("K3S_VPN_AUTH"),
        missing(Node, "vpn-auth-file", Value, Refused, "VPN integration is not there yet").env("K3S_VPN_AUTH_FILE"),
        // Pod network.
        missing(Server, "flannel-ipv6-masq", Nothing, Refused, "IPv6 is not there yet"),
        missing(Server, "flannel-external-ip", Nothing, Refused, "the pod network runs between the nodes' own addresses"),
        missing(Node, "flannel-conf", Value, Refused, "the pod network is set up by --flannel-backend and --flannel-iface only"),
        missing(Node, "flannel-cni-conf", Value, Refused, "the pod network is set up by --flannel-backend and --flannel-iface only"),
        // Parts that k3s packs.
        missing(Server, "servicelb-namespace", Value, Warned, "the service load balancer has no pods"),
        missing(Server, "helm-job-image", Value, Warned, NO_HELM),
        missing(Server, "helm-controller-arg", List, Warned, NO_HELM),
        missing(Server, "disable-helm-controller", Nothing, Granted, NO_HELM),
        missing(Server, "kube-cloud-controller-manager-arg", List, Warned, NO_CLOUD),
        missing(Server, "disable-cloud-controller", Nothing, Granted, NO_CLOUD),
        missing(Server, "disable-network-policy", Nothing, Granted, "nothing acts on network policies"),
        missing(Server, "system-default-registry", Value, Warned, "no system image is pulled").env("K3S_SYSTEM_DEFAULT_REGISTRY"),
        missing(Server, "embedded-registry", Nothing, Refused, "images are not shared between nodes"),
        // Security.
        missing(Server, "secrets-encryption", Nothing, Refused, "Secrets are stored as they are; encrypt the disk"),
        missing(Server, "secrets-encryption-provider", Value, Warned, "Secrets are stored as they are; encrypt the disk").neutral("aescbc"),
        missing(Node, "selinux", Nothing, Refused, "SELinux labels are not set yet").env("K3S_SELINUX"),
        missing(Node, "protect-kernel-defaults", Nothing, Refused, "the kubelet sets the kernel's settings it needs"),
        missing(Node, "rootless", Nothing, Refused, "k3s needs root"),
        // Node.
        missing(Node, "node-external-ip", List, Refused, "nodes have one address, --node-ip"),
        missing(Node, "node-internal-dns", List, Refused, "nodes have one address, --node-ip"),
        missing(Node, "node-external-dns", List, Refused, "nodes have one address, --node-ip"),
        // Container runtime and images.
        missing(Node, "image-service-endpoint", Value, Refused, "images come from --container-runtime-endpoint"),
        missing(Node, "default-runtime", Value, Refused, "pods run with runc").neutral("runc"),
        missing(Node, "docker", Nothing, Refused, "containerd runs the pods"),
        missing(Node, "disable-default-registry-endpoint", Nothing, Refused, NO_REGISTRIES),
        missing(Node, "private-registry", Value, Refused, NO_REGISTRIES),
        missing(Node, "airgap-extra-registry", List, Refused, NO_REGISTRIES),
        missing(Node, "image-credential-provider-bin-dir", Value, Refused, "use imagePullSecrets"),
        missing(Node, "image-credential-provider-config", Value, Refused, "use imagePullSecrets"),
        missing(Node, "prefer-bundled-bin", Nothing, Warned, "nothing is bundled; the system's programs are used"),
    ]
};

/// Adds the flags that a role has in k3s and not here.
pub(crate) fn augment(command: Command, role: Role) -> Command {
    let known = MISSING.iter().filter(|missing| role == Role::Server || missing.of == Of::Node);
    command.args(known.map(Missing::arg))
}

/// What a command line asks for in vain: a warning each.
///
/// # Errors
/// Everything that must not be ignored, one per line, each with its flag.
pub(crate) fn check(matches: &ArgMatches) -> Result<Vec<String>, ConfigError> {
    let given = |missing: &&Missing| {
        matches.try_contains_id(missing.flag).is_ok() && missing.given(matches)
    };
    let given: Vec<&Missing> = MISSING.iter().filter(given).collect();
    let say = |verdict: Verdict| -> Vec<String> {
        let of = given.iter().filter(|missing| missing.verdict == verdict);
        of.map(|missing| format!("--{}: not available yet: {}", missing.flag, missing.why))
            .collect()
    };
    let refused = say(Verdict::Refused);
    if refused.is_empty() {
        return Ok(say(Verdict::Warned));
    }
    Err(ConfigError(refused.join("\n")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// k3s' flags, `server` or `agent`, its name and perhaps its environment variable a line.
    const FLAGS: &str = include_str!("flags.txt");

    fn check(args: &[&str], expected: Result<&[&str], &[&str]>) {
        let matches = super::super::command().try_get_matches_from(args).unwrap();
        let (_, role) = matches.subcommand().unwrap();
        match (super::check(role), expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(got.len(), expected.len(), "{got:?}");
                for (got, flag) in got.iter().zip(expected) {
                    assert!(got.starts_with(&format!("--{flag}: ")), "{got}");
                }
            }
            (Err(got), Err(expected)) => {
                for flag in expected {
                    assert!(got.0.contains(&format!("--{flag}: ")), "{flag} not in {}", got.0);
                }
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_refused_or_said() {
        check(&["k3s", "server"], Ok(&[]));
        check(&["k3s", "server", "--cluster-init"], Err(&["cluster-init"]));
        check(
            &["k3s", "server", "--cluster-init=true", "--docker"],
            Err(&["cluster-init", "docker"]),
        );
        check(&["k3s", "server", "--cluster-init=false"], Ok(&[]));
        check(
            &["k3s", "server", "--etcd-snapshot-retention=7", "-l", "x"],
            Ok(&["log", "etcd-snapshot-retention"]),
        );
        check(&["k3s", "server", "--tls-san-security=true", "--default-runtime=runc"], Ok(&[]));
        check(
            &["k3s", "server", "--disable-network-policy", "--disable-cloud-controller"],
            Ok(&[]),
        );
        check(&["k3s", "agent", "--selinux"], Err(&["selinux"]));
    }

    #[test]
    fn every_flag_of_k3s_is_accepted_by_its_role() {
        let command = super::super::command();
        let mut unknown = Vec::new();
        for line in FLAGS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (role, flag, env) = (words.next().unwrap(), words.next().unwrap(), words.next());
            let roles = if role == "agent" { &["server", "agent"][..] } else { &["server"] };
            for role in roles {
                let arg = command.find_subcommand(role).unwrap().get_arguments().find(|arg| {
                    let mut names = arg.get_long_and_visible_aliases().unwrap_or_default();
                    names.extend(arg.get_all_aliases().unwrap_or_default());
                    names.contains(&flag) || arg.get_short().is_some_and(|c| flag == c.to_string())
                });
                let has_env =
                    |arg: &Arg| env.is_none_or(|env| arg.get_env().is_some_and(|have| have == env));
                if !arg.is_some_and(has_env) {
                    unknown.push(format!("{role} {line}"));
                }
            }
        }
        assert!(unknown.is_empty(), "{unknown:#?}");
    }

    #[test]
    fn no_flag_is_listed_twice() {
        let flags: BTreeSet<_> = MISSING.iter().map(|missing| missing.flag).collect();
        assert_eq!(flags.len(), MISSING.len());
    }
}
