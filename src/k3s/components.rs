//! The component table: every process this executable can be, by name.
//!
//! Invariant: a component is in this table or it does not exist; the roles, `k3s status` and the
//! dispatch on `argv[0]` all read it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use daemon::{Component, Flavour};

use crate::{cli, upstream};

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
                let judged = upstream::check($krate::COMPONENT.name, &matches);
                match $krate::Args::from_arg_matches(&matches) {
                    Ok(args) => {
                        let configuration = configuration(&entry.clap(), &matches);
                        let run = |cx| async move {
                            for warning in judged.map_err(daemon::ConfigError)? {
                                tracing::warn!("{warning}");
                            }
                            $krate::run(cx, args).await
                        };
                        daemon::main(&$krate::COMPONENT, Flavour::$flavour, configuration, run)
                    }
                    Err(err) => err.exit(),
                }
            },
        }
    };
}

/// All components, in the order they are listed to people.
pub(crate) static COMPONENTS: &[Entry] = &[
    component!(k3s_store, CurrentThread, "Datastore: the etcd v3 API over SQLite"),
    component!(k3s_apiserver, MultiThread, "The Kubernetes API"),
    component!(k3s_controller_manager, CurrentThread, "Controllers of the cluster"),
    component!(k3s_scheduler, CurrentThread, "Places pods on nodes"),
    component!(k3s_kubelet, CurrentThread, "Node agent: runs the pods of this node"),
    component!(k3s_flannel, CurrentThread, "Pod network of this node"),
    component!(k3s_proxy, CurrentThread, "Services in nftables"),
    component!(k3s_dns, CurrentThread, "Cluster DNS"),
];

/// The component with this name, with or without the `k3s-` prefix.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    let short = name.strip_prefix("k3s-").unwrap_or(name);
    COMPONENTS.iter().find(|entry| entry.component.name.strip_prefix("k3s-") == Some(short))
}

/// Whether a component takes `key=value` as its flag, or why not.
pub(crate) fn accepts(component: &str, arg: &str) -> Result<(), String> {
    let Some(entry) = find(component) else { return Ok(()) };
    let flag = format!("--{}", arg.trim_start_matches('-'));
    match entry.clap().try_get_matches_from([component, &flag]) {
        // What else it needs comes from the role.
        Err(err) if err.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
        Ok(matches) => upstream::check(entry.component.name, &matches).map(drop),
        Err(err) => {
            let text = err.to_string();
            Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

/// The whole command line: the roles and tools, then the components.
pub(crate) fn cli() -> Command {
    cli::command().subcommands(COMPONENTS.iter().map(|entry| {
        let name = entry.component.name;
        entry.clap().name(name.strip_prefix("k3s-").unwrap_or(name)).display_name(name)
    }))
}

impl Entry {
    /// The component's command line.
    pub(crate) fn clap(&self) -> Command {
        upstream::augment((self.command)(Command::new(self.component.name)))
            .about(self.about)
            .version(env!("CARGO_PKG_VERSION"))
            .args_override_self(true)
    }

    /// The flags that the component itself reads.
    #[cfg(test)]
    pub(crate) fn own_flags(&self) -> Vec<String> {
        let command = (self.command)(Command::new(self.component.name));
        command.get_arguments().filter_map(|it| it.get_long().map(str::to_owned)).collect()
    }

    /// Runs the component in this process; `args` begins with the name.
    pub(crate) fn run(&self, args: Vec<OsString>) -> ExitCode {
        (self.main)(args)
    }
}

/// The [`configuration`] of the subcommand that was given.
pub(crate) fn effective(given: &ArgMatches) -> BTreeMap<String, String> {
    let shown = given
        .subcommand()
        .and_then(|(name, matches)| Some(configuration(cli().find_subcommand(name)?, matches)));
    shown.unwrap_or_default()
}

/// Every flag of `command` with the value in effect; secrets are not told.
fn configuration(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let flags = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    flags
        .filter_map(|(arg, flag)| {
            let values: Vec<String> = matches
                .try_get_raw(arg.get_id().as_str())
                .ok()??
                .map(|value| value.to_string_lossy().into_owned())
                .collect();
            let secret = arg.is_hide_env_values_set();
            Some((flag.to_owned(), if secret { "(hidden)".to_owned() } else { values.join(",") }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap_complete::Shell;

    use super::*;

    /// The completions in the tree are what the command line says; `GENERATE=1` writes them.
    #[test]
    fn completions_are_up_to_date() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../completions");
        for (shell, name) in
            [(Shell::Bash, "k3s.bash"), (Shell::Zsh, "_k3s"), (Shell::Fish, "k3s.fish")]
        {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut cli(), "k3s", &mut text);
            check_generated(&folder, name, &text);
        }
    }

    /// So are the man pages: roles and components in section 8, what people type in section 1.
    #[test]
    fn man_pages_are_up_to_date() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/man");
        // Each page shows one command; those below it are shown with it, flattened.
        let page = |command: Command, title: &str, section: &str| {
            let command = command.name(title.to_owned()).display_name(title.to_owned());
            let man = clap_mangen::Man::new(command)
                .title(title.to_uppercase())
                .section(section)
                .source(concat!("k3s ", env!("CARGO_PKG_VERSION")))
                .manual("k3s")
                .date("");
            let mut text = Vec::new();
            man.render(&mut text).unwrap();
            check_generated(&folder, &format!("{title}.{section}"), &text);
        };
        page(cli(), "k3s", "1");
        for command in cli().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let daemon = find(name).is_some() || matches!(name, "server" | "agent");
            let command = command.clone().flatten_help(true);
            page(command, &format!("k3s-{name}"), if daemon { "8" } else { "1" });
        }
    }

    fn check_generated(folder: &Path, name: &str, text: &[u8]) {
        let path = folder.join(name);
        if std::env::var_os("GENERATE").is_some() {
            fs::create_dir_all(folder).unwrap();
            fs::write(&path, text).unwrap();
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(committed == text, "{name}: run GENERATE=1 cargo test -p k3s and commit it");
    }

    #[test]
    fn the_configuration_shown_has_the_defaults_and_no_secrets() {
        let command = cli();
        let server = command.find_subcommand("server").unwrap();
        let args = ["server", "--token=secret", "--https-listen-port=7443"];
        let matches = server.clone().try_get_matches_from(args).unwrap();
        let shown = configuration(server, &matches);
        let get = |flag: &str| shown.get(flag).map(String::as_str);
        assert_eq!(get("https-listen-port"), Some("7443"));
        assert_eq!(get("cluster-domain"), Some("cluster.local"));
        assert_eq!(get("token"), Some("(hidden)"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        cli().debug_assert();
    }
}
