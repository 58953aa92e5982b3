//! The component table: every process this executable can be, by name.
//!
//! Invariant: a component is in this table or it does not exist; the roles, `k3s status` and the
//! dispatch on `argv[0]` all read it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};
use daemon::{Component, Flavour};

/// One component of the executable.
pub(crate) struct Entry {
    pub(crate) component: &'static Component,
    pub(crate) about: &'static str,
    command: fn(Command) -> Command,
    main: fn(Vec<OsString>) -> ExitCode,
}

macro_rules! component {
    ($krate:ident, $flavour:ident, $about:literal) => {
        Entry {
            component: &$krate::COMPONENT,
            about: $about,
            command: |command| $krate::Args::augment_args(command),
            main: |args| {
                let entry = find($krate::COMPONENT.name).expect("the entry that is running");
                let matches = entry.clap().get_matches_from(args);
                match $krate::Args::from_arg_matches(&matches) {
                    Ok(args) => daemon::main(&$krate::COMPONENT, Flavour::$flavour, |cx| {
                        $krate::run(cx, args)
                    }),
                    Err(err) => err.exit(),
                }
            },
        }
    };
}

/// All components, in the order they are listed to people.
pub(crate) static COMPONENTS: &[Entry] = &[
    component!(k3s_store, MultiThread, "Datastore: the etcd v3 API over SQLite"),
    component!(k3s_apiserver, MultiThread, "The Kubernetes API"),
    component!(k3s_controller_manager, CurrentThread, "Controllers of the cluster"),
    component!(k3s_scheduler, CurrentThread, "Places pods on nodes"),
    component!(k3s_flannel, CurrentThread, "Pod network of this node"),
    component!(k3s_proxy, CurrentThread, "Services in nftables"),
];

/// The component with this name, with or without the `k3s-` prefix.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    let short = name.strip_prefix("k3s-").unwrap_or(name);
    COMPONENTS.iter().find(|entry| entry.component.name.strip_prefix("k3s-") == Some(short))
}

impl Entry {
    /// The component's command line.
    pub(crate) fn clap(&self) -> Command {
        (self.command)(Command::new(self.component.name))
            .about(self.about)
            .version(env!("CARGO_PKG_VERSION"))
            .args_override_self(true)
    }

    /// Runs the component in this process; `args` begins with the name.
    pub(crate) fn run(&self, args: Vec<OsString>) -> ExitCode {
        (self.main)(args)
    }
}
