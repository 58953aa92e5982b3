//! The command line: k3s' subcommands, flags and environment variables.
//!
//! One definition; help, man pages and completions are made from it. Flags of features that are not
//! there yet stand in [`missing`], so that none is silently ignored.

pub(crate) mod files;
pub(crate) mod missing;
mod node;
mod server;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand};
use daemon::ConfigError;

pub(crate) use node::{AgentArgs, NodeArgs};
pub(crate) use server::ServerArgs;

/// Where configuration is read from unless `--config` or `K3S_CONFIG_FILE` says otherwise.
pub(crate) const CONFIG_FILE: &str = "/etc/rancher/k3s/config.yaml";
/// Where all state is unless `--data-dir` or `K3S_DATA_DIR` says otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/rancher/k3s";

/// What `k3s --version` says after the name, as k3s words it.
const VERSION: &str = concat!("version v", env!("CARGO_PKG_VERSION"));

/// Kubernetes for small machines.
#[derive(Debug, Parser)]
#[command(name = "k3s", version = VERSION, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server: control plane and, unless disabled, a node.
    #[command(args_override_self = true)]
    Server(Box<ServerArgs>),
    /// Run a node that joins the cluster of a server.
    #[command(args_override_self = true)]
    Agent(Box<AgentArgs>),
    /// Show the components of this node and their state.
    Status(StatusArgs),
    /// Run the system's kubectl, or a smaller one of our own, on this cluster.
    #[command(disable_help_flag = true)]
    Kubectl(Passed),
    /// Run the system's crictl on this node's containerd.
    #[command(disable_help_flag = true)]
    Crictl(Passed),
    /// Run the system's ctr on this node's containerd.
    #[command(disable_help_flag = true)]
    Ctr(Passed),
    /// Manage the tokens that nodes join with.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show and renew certificates.
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Manage the encryption of Secrets in the datastore.
    SecretsEncrypt(Passed),
    /// Manage snapshots of the datastore.
    EtcdSnapshot(Passed),
    /// Check that this machine can run k3s.
    CheckConfig(CheckConfigArgs),
    /// Print a completion script.
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
        /// Have the shell's start-up file read it, for bash and zsh.
        #[arg(short = 'i')]
        install: bool,
    },
}

/// Arguments handed on unread.
#[derive(Debug, Args)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every second.
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
}

/// What the tools of a server need to find it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ToolArgs {
    /// Folder of all state.
    #[arg(long, short = 'd', env = "K3S_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Kubeconfig to reach the API with; the administrator's by default.
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl ToolArgs {
    /// The folder of all state: as given, as the roles' configuration files say, or the usual one.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match &self.data_dir {
            Some(folder) => Ok(folder.clone()),
            None => Ok(files::data_dir()?.unwrap_or_else(|| PathBuf::from(DATA_DIR))),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a bootstrap token on the server.
    Create {
        #[command(flatten)]
        tool: ToolArgs,
        /// Token to create; a random one by default.
        token: Option<String>,
        /// What the token is for, in a person's words.
        #[arg(long)]
        description: Option<String>,
        /// Groups that the token authenticates as.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "system:bootstrappers:k3s:default-node-token"
        )]
        groups: Vec<String>,
        /// How long the token is valid (`2h`, `30m`); 0 for ever.
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What the token may be used for.
        #[arg(long, value_delimiter = ',', default_value = "signing,authentication")]
        usages: Vec<String>,
    },
    /// Delete bootstrap tokens on the server.
    Delete {
        #[command(flatten)]
        tool: ToolArgs,
        /// Tokens or their ids.
        #[arg(required = true)]
        token: Vec<String>,
    },
    /// Print a random bootstrap token; the server does not learn of it.
    Generate,
    /// List the bootstrap tokens on the server.
    List {
        #[command(flatten)]
        tool: ToolArgs,
        /// Format of the list.
        #[arg(long, short = 'o', default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// Replace the server's token.
    Rotate {
        #[command(flatten)]
        tool: ToolArgs,
        /// The token in force.
        #[arg(long, short = 't', env = "K3S_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// The token to be in force; a random one by default.
        #[arg(long, env = "K3S_NEW_TOKEN", hide_env_values = true)]
        new_token: Option<String>,
        /// Server to ask.
        #[arg(long, short = 's', env = "K3S_URL", default_value = "https://127.0.0.1:6443")]
        server: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// Show what each certificate of this node is for and when it ends.
    Check {
        #[command(flatten)]
        tool: ToolArgs,
        /// Services to look at, comma-separated; all by default.
        #[arg(long, short = 's', value_delimiter = ',')]
        service: Vec<String>,
        /// Format of the answer.
        #[arg(long, short = 'o', default_value = "text", value_parser = ["text", "table"])]
        output: String,
    },
    /// Give components new keys and certificates; a server that runs goes on with them at once.
    Rotate {
        #[command(flatten)]
        tool: ToolArgs,
        /// Services whose certificates to replace, comma-separated; all by default.
        #[arg(long, short = 's', value_delimiter = ',')]
        service: Vec<String>,
    },
    /// Put new certificate authorities in force.
    RotateCa {
        #[command(flatten)]
        tool: ToolArgs,
        /// Folder with the new authorities, laid out as the data folder's `server`.
        #[arg(long)]
        path: PathBuf,
        /// Also accept authorities that do not share a root with those in force: every node and
        /// kubeconfig must then be made anew.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfigArgs {
    /// Folder of all state: its disk is measured.
    #[arg(long, short = 'd', env = "K3S_DATA_DIR", default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}

/// The roles and tools as clap sees them, with the flags of [`missing`] features.
pub(crate) fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("server", |server| missing::augment(server, missing::Role::Server))
        .mut_subcommand("agent", |agent| missing::augment(agent, missing::Role::Agent))
        .mut_subcommands(|command| command.mut_args(as_k3s))
}

/// Switches take `--flag`, `--flag=true` and `--flag=false`; an empty variable counts as unset.
fn as_k3s(arg: Arg) -> Arg {
    let arg = match arg.get_env() {
        Some(name) if std::env::var_os(name).as_deref() == Some(OsStr::new("")) => {
            arg.env(Resettable::Reset)
        }
        _ => arg,
    };
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}
