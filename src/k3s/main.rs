//! The executable: picks what to be by `argv[0]` or by its first argument.
//!
//! Invariant: `main` decides and delegates; every component and role lives in its own file or crate.

mod bus;
mod cli;
mod components;
mod containerd;
mod images;
mod role;
mod server;
mod settings;
mod status;
mod tools;
mod trust;
mod units;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use daemon::{ConfigError, Flavour, config};

use crate::cli::{Cli, Command, ServerArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    match name.as_str() {
        daemon::supervise::ACTIVATE => {
            return fail(&daemon::supervise::activate(args.into_iter().skip(1)).into());
        }
        "k3s-cni" | "loopback" => return k3s_flannel::cni::main(),
        "k3s-server" => args.splice(..1, ["k3s".into(), "server".into()]).for_each(drop),
        "kubectl" | "crictl" | "ctr" => {
            args.splice(..1, ["k3s".into(), name.into()]).for_each(drop);
        }
        _ => {
            if let Some(entry) = components::find(&name).filter(|_| name.starts_with("k3s-")) {
                return entry.run(args);
            }
        }
    }
    let first = args.get(1).map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(entry) = components::find(&first) {
        args.remove(0);
        return entry.run(args);
    }
    match with_config(args) {
        Ok(args) => {
            let matches = components::cli().get_matches_from(args);
            let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
            run(cli.command)
        }
        Err(err) => fail(&err.into()),
    }
}

fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Server(args) => return serve(*args),
        Command::Status(args) => block_on(status::run(args.json)),
        Command::Kubectl(passed) => tools::kubectl(&passed.args).map(|()| ExitCode::SUCCESS),
        Command::Crictl(passed) => tools::crictl(&passed.args).map(|()| ExitCode::SUCCESS),
        Command::Ctr(passed) => tools::ctr(&passed.args).map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut components::cli(), "k3s", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|err| fail(&err))
}

fn serve(args: ServerArgs) -> ExitCode {
    match settings::Server::new(args) {
        Ok(server) => {
            daemon::main(&server::COMPONENT, Flavour::CurrentThread, |cx| server::run(cx, server))
        }
        Err(err) => fail(&err.into()),
    }
}

/// Puts what the configuration files say between the subcommand and the flags given, which win.
fn with_config(mut args: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    if args.get(1).is_none_or(|arg| arg != "server") {
        return Ok(args);
    }
    let command = Cli::command();
    let Some(server) = command.find_subcommand("server") else { return Ok(args) };
    let file = config_file(&args);
    let known = |key: &str| {
        let arg = server.get_arguments().find(|arg| {
            arg.get_long() == Some(key) || arg.get_short().is_some_and(|c| key == c.to_string())
        })?;
        Some(match arg.get_action() {
            clap::ArgAction::SetTrue => config::Key::Switch,
            clap::ArgAction::Append => config::Key::List,
            _ => config::Key::Single,
        })
    };
    let given = server.clone().ignore_errors(true).try_get_matches_from(args.iter().skip(1)).ok();
    let from_files = config::flags(&file, &known)?.into_iter().filter(|flag| {
        // A list on the command line replaces the whole list of the files.
        let key = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
        let id = key.replace('-', "_");
        let on_command_line = given.as_ref().and_then(|given| {
            given.try_contains_id(&id).ok()?;
            given.value_source(&id)
        });
        known(key) != Some(config::Key::List)
            || on_command_line != Some(clap::parser::ValueSource::CommandLine)
    });
    let from_files: Vec<OsString> = from_files.map(OsString::from).collect();
    args.splice(2..2, from_files);
    Ok(args)
}

/// `--config`, `-c`, `K3S_CONFIG_FILE`, or the usual place.
fn config_file(args: &[OsString]) -> PathBuf {
    let command = Cli::command();
    let matches = command
        .find_subcommand("server")
        .and_then(|server| {
            server.clone().ignore_errors(true).try_get_matches_from(args.iter().skip(1)).ok()
        })
        .and_then(|matches| ServerArgs::from_arg_matches(&matches).ok());
    matches.map_or_else(|| PathBuf::from(cli::CONFIG_FILE), |args| args.node.config)
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// One line on stderr; 78 for configuration errors.
fn fail(err: &anyhow::Error) -> ExitCode {
    eprintln!("k3s: {err:#}");
    ExitCode::from(if err.is::<ConfigError>() { 78 } else { 1 })
}
