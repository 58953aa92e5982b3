//! The executable: picks what to be by `argv[0]` or by its first argument.
//!
//! Invariant: `main` decides and delegates; every component and role lives in its own file or crate.

mod backend;
mod bus;
mod cli;
mod components;
mod containerd;
mod images;
mod role;
mod server;
mod settings;
mod status;
mod systemd;
mod tools;
mod trust;
mod units;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use daemon::config::Setting;
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
        Ok((args, from_files)) => {
            let matches = components::cli().get_matches_from(args);
            let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
            run(cli.command, &from_files)
        }
        Err(err) => fail(&err.into()),
    }
}

fn run(command: Command, from_files: &[Setting]) -> ExitCode {
    let done = match command {
        Command::Server(args) => return serve(*args, from_files),
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

fn serve(args: ServerArgs, from_files: &[Setting]) -> ExitCode {
    match settings::Server::new(args) {
        Ok(server) => {
            daemon::main(&server::COMPONENT, Flavour::CurrentThread, |cx| server::run(cx, server))
        }
        Err(err) => fail(&located(err, from_files).into()),
    }
}

/// Adds to each problem of a flag the place in the files that set it.
fn located(err: ConfigError, from_files: &[Setting]) -> ConfigError {
    let lines = err.0.lines().map(|line| {
        let key = line.strip_prefix("--").and_then(|rest| rest.split(':').next());
        match from_files.iter().find(|setting| Some(setting.key.as_str()) == key) {
            Some(setting) => format!("{}: {line}", setting.place),
            None => line.to_owned(),
        }
    });
    ConfigError(lines.collect::<Vec<_>>().join("\n"))
}

/// Puts what the configuration files say between the subcommand and the flags given, which win.
/// Returns what of the files counts.
fn with_config(mut args: Vec<OsString>) -> Result<(Vec<OsString>, Vec<Setting>), ConfigError> {
    let command = Cli::command();
    let server = match command.find_subcommand("server") {
        Some(server) if args.get(1).is_some_and(|arg| arg == "server") => server,
        _ => return Ok((args, Vec::new())),
    };
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
    let valid = |flag: &str| match server.clone().try_get_matches_from(["server", flag]) {
        Ok(_) => Ok(()),
        Err(err) => {
            let text = err.to_string();
            Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    };
    let flags = config::Flags { known: &known, valid: &valid };
    let mut settings = config::read(&config_file(&args), &flags)?;
    // What the command line gives counts alone, lists as a whole.
    let given = server.clone().ignore_errors(true).try_get_matches_from(args.iter().skip(1)).ok();
    settings.retain(|setting| {
        let id = setting.key.replace('-', "_");
        let source = given.as_ref().and_then(|given| {
            given.try_contains_id(&id).ok()?;
            given.value_source(&id)
        });
        source != Some(clap::parser::ValueSource::CommandLine)
    });
    let flags = settings.iter().flat_map(|setting| setting.flags.iter().map(OsString::from));
    let flags: Vec<OsString> = flags.collect();
    args.splice(2..2, flags);
    Ok((args, settings))
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
