//! The command line: kubectl's names for what there is of it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// kubectl controls the Kubernetes cluster manager. This is k3s' own, for machines without kubectl:
/// what it lacks, kubectl has.
#[derive(Debug, Parser)]
#[command(name = "kubectl", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Path to the kubeconfig file.
    #[arg(long, global = true, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the request.
    #[arg(long, short = 'n', global = true)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Display one or many resources.
    Get(GetArgs),
    /// Show details of a resource and its events.
    Describe(DescribeArgs),
    /// Apply a configuration by file or standard input, on the server's side.
    Apply(ApplyArgs),
    /// Delete resources by file, by name, or by label.
    Delete(DeleteArgs),
    /// Print the logs of a container.
    Logs(LogsArgs),
    /// Execute a command in a container.
    Exec(ExecArgs),
    /// Set a new size for a deployment, replica set or stateful set.
    Scale(ScaleArgs),
    /// Manage the rollout of a deployment, daemon set or stateful set.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Display resource usage of nodes or pods.
    #[command(subcommand)]
    Top(TopCommand),
    /// Forward local ports to a pod.
    PortForward(PortForwardArgs),
    /// Print the resources that the server has.
    ApiResources,
    /// Print the versions of client and server.
    Version,
}

/// Which objects of a type.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Which {
    /// Label selector.
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Field selector.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
    /// In all namespaces.
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// `TYPE[,TYPE] [NAME...]` or `TYPE/NAME...`
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// json, yaml, name, wide, jsonpath=TEMPLATE.
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub(crate) output: String,
    /// Files that name the objects.
    #[arg(long, short = 'f')]
    pub(crate) filename: Vec<PathBuf>,
    /// Also folders below.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// After listing, watch for changes.
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
    /// Watch without listing first.
    #[arg(long)]
    pub(crate) watch_only: bool,
    /// Read this path of the API and print what it says.
    #[arg(long)]
    pub(crate) raw: Option<String>,
    /// No header line.
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Show all labels as the last column.
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Labels to show as columns.
    #[arg(long, short = 'L', value_delimiter = ',')]
    pub(crate) label_columns: Vec<String>,
    /// Order by this field, a jsonpath.
    #[arg(long)]
    pub(crate) sort_by: Option<String>,
    /// An object that is not there is no error.
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Print managed fields too.
    #[arg(long)]
    pub(crate) show_managed_fields: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    /// `TYPE [NAME...]` or `TYPE/NAME...`
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Where manifests come from.
#[derive(Args, Debug)]
pub(crate) struct Files {
    /// Files, folders, or `-` for standard input.
    #[arg(long, short = 'f')]
    pub(crate) filename: Vec<PathBuf>,
    /// Also folders below.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Kustomize folders are not supported here.
    #[arg(long, short = 'k', hide = true)]
    pub(crate) kustomize: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Take fields over from other managers.
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// It is always on the server's side here.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) server_side: Option<bool>,
    /// Name of the field manager.
    #[arg(long, default_value = "kubectl")]
    pub(crate) field_manager: String,
    /// none or server.
    #[arg(long, default_value = "none", value_parser = ["none", "server"])]
    pub(crate) dry_run: String,
    /// json, yaml or name.
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub(crate) output: String,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// `TYPE [NAME...]` or `TYPE/NAME...`
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Every object of the type in the namespace.
    #[arg(long)]
    pub(crate) all: bool,
    /// Seconds that a pod gets to end.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) grace_period: i64,
    /// End at once (a grace period of one second).
    #[arg(long)]
    pub(crate) now: bool,
    /// With a grace period of zero: forget the object at once.
    #[arg(long)]
    pub(crate) force: bool,
    /// background, foreground or orphan.
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    pub(crate) cascade: String,
    /// An object that is not there is no error.
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Wait until the objects are gone.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) wait: bool,
    /// Print only the names: `-o name`.
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, value_parser = ["", "name"])]
    pub(crate) output: String,
}

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// `POD` or `TYPE/NAME`, then perhaps a container.
    pub(crate) target: Option<String>,
    pub(crate) container_name: Option<String>,
    /// Container.
    #[arg(long, short = 'c')]
    pub(crate) container: Option<String>,
    /// Go on as lines appear.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Of the container's previous instance.
    #[arg(long, short = 'p')]
    pub(crate) previous: bool,
    /// How many lines from the end.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) tail: i64,
    /// Only lines newer than this (`5s`, `2m`, `3h`).
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only lines after this moment (RFC 3339).
    #[arg(long)]
    pub(crate) since_time: Option<String>,
    /// A time in front of every line.
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// All containers of the pod, one after the other.
    #[arg(long)]
    pub(crate) all_containers: bool,
    /// The pod and container in front of every line.
    #[arg(long)]
    pub(crate) prefix: bool,
    /// The most bytes to print.
    #[arg(long)]
    pub(crate) limit_bytes: Option<u64>,
    /// Pods by label.
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
}

#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// `POD` or `TYPE/NAME`.
    pub(crate) target: String,
    /// Container.
    #[arg(long, short = 'c')]
    pub(crate) container: Option<String>,
    /// Pass standard input on.
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Standard input is a terminal.
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// Print only what the command prints.
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    /// `TYPE NAME...` or `TYPE/NAME...`
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    /// The size to have.
    #[arg(long)]
    pub(crate) replicas: u32,
    /// Only if it has this size now.
    #[arg(long)]
    pub(crate) current_replicas: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show the state of a rollout until it is done.
    Status {
        #[command(flatten)]
        target: RolloutTarget,
        /// Wait for the end.
        #[arg(long, short = 'w', default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        watch: bool,
        /// The longest to wait (`30s`, `5m`), 0 for ever.
        #[arg(long, default_value = "0s")]
        timeout: String,
    },
    /// Start every pod anew, one after the other.
    Restart(RolloutTarget),
    /// Go back to an earlier revision.
    Undo {
        #[command(flatten)]
        target: RolloutTarget,
        /// Revision to go back to, 0 for the one before.
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Show earlier revisions.
    History(RolloutTarget),
    /// Stop rolling out.
    Pause(RolloutTarget),
    /// Go on rolling out.
    Resume(RolloutTarget),
}

#[derive(Args, Debug)]
pub(crate) struct RolloutTarget {
    /// `TYPE NAME...` or `TYPE/NAME...`
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopCommand {
    /// Usage of nodes.
    #[command(alias = "nodes", alias = "no")]
    Node {
        name: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Usage of pods.
    #[command(alias = "pods", alias = "po")]
    Pod {
        name: Option<String>,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args, Debug)]
pub(crate) struct PortForwardArgs {
    /// `POD` or `TYPE/NAME`.
    pub(crate) target: String,
    /// `LOCAL:REMOTE`, `PORT`, `:REMOTE`.
    #[arg(required = true)]
    pub(crate) ports: Vec<String>,
    /// Addresses to listen on.
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    pub(crate) address: Vec<String>,
}
