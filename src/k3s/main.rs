//! The executable: picks what to be by `argv[0]` or by its first argument.
//!
//! Invariant: `main` decides and delegates; every component and role lives in its own file or crate.

mod agent;
mod backend;
mod bus;
mod certificate;
mod check_config;
mod cli;
mod components;
mod containerd;
mod control;
mod images;
mod manifests;
mod owners;
mod renewal;
mod replace;
mod role;
mod runtime;
mod server;
mod settings;
mod status;
mod systemd;
mod token;
mod tools;
mod trust;
mod units;
mod upstream;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};
use daemon::config::Setting;
use daemon::{ConfigError, Flavour};
use tracing::warn;

use crate::cli::{AgentArgs, Cli, Command, ServerArgs, missing};

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
        "k3s-agent" => args.splice(..1, ["k3s".into(), "agent".into()]).for_each(drop),
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
    match cli::files::with_config(args) {
        Ok((args, from_files)) => {
            let matches = components::cli().get_matches_from(args);
            let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
            let given = Given { matches, from_files };
            run(cli.command, &given)
        }
        Err(err) => fail(&err.into()),
    }
}

/// What was given: the command line, and what of it comes from files.
struct Given {
    matches: ArgMatches,
    from_files: Vec<Setting>,
}

fn run(command: Command, given: &Given) -> ExitCode {
    let done = match command {
        Command::Server(args) => serve(*args, given),
        Command::Agent(args) => join(*args, given),
        Command::Status(args) => block_on(status::run(&args)),
        Command::Kubectl(passed) => return tools::kubectl(&passed.args),
        Command::Crictl(passed) => tools::crictl(&passed.args).map(|()| ExitCode::SUCCESS),
        Command::Ctr(passed) => tools::ctr(&passed.args).map(|()| ExitCode::SUCCESS),
        Command::Token(command) => {
            block_on(async { token::run(command).await.map(|()| ExitCode::SUCCESS) })
        }
        Command::Certificate(command) => certificate::run(command).map(|()| ExitCode::SUCCESS),
        Command::CheckConfig(args) => check_config::run(&args.data_dir).map(|good| match good {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
        Command::SecretsEncrypt(_) => {
            Err(not_yet("k3s secrets-encrypt", "Secrets are stored as they are; encrypt the disk"))
        }
        Command::EtcdSnapshot(_) => Err(not_yet(
            "k3s etcd-snapshot",
            "there is no embedded etcd; copy server/db with the server stopped",
        )),
        Command::Completion { shell, install: true } => {
            tools::install_completion(shell).map(|()| ExitCode::SUCCESS)
        }
        Command::Completion { shell, .. } => {
            clap_complete::generate(shell, &mut components::cli(), "k3s", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|err| fail(&err))
}

fn serve(args: ServerArgs, given: &Given) -> anyhow::Result<ExitCode> {
    let warnings = warnings(given)?;
    let debug = args.node.debug();
    let server = settings::Server::new(args).map_err(|err| located(err, &given.from_files))?;
    let shown = components::effective(&given.matches);
    Ok(daemon::main(&server::COMPONENT, Flavour::CurrentThread, shown, |cx| {
        begin(debug, warnings);
        server::run(cx, server, server_again)
    }))
}

/// The command of this role as flags and files say now, and what of it comes from files.
fn again(role: &str) -> anyhow::Result<(Command, Vec<Setting>)> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if !args.iter().any(|arg| arg == role) {
        args.insert(1, role.into());
    }
    let (args, from_files) = cli::files::with_config(args)?;
    let matches = components::cli().try_get_matches_from(args)?;
    Ok((Cli::from_arg_matches(&matches)?.command, from_files))
}

fn server_again() -> anyhow::Result<settings::Server> {
    match again("server")? {
        (Command::Server(args), from_files) => {
            Ok(settings::Server::new(*args).map_err(|err| located(err, &from_files))?)
        }
        _ => anyhow::bail!("this process is no server"),
    }
}

fn agent_again() -> anyhow::Result<settings::Agent> {
    match again("agent")? {
        (Command::Agent(args), from_files) => {
            Ok(settings::Agent::new(*args).map_err(|err| located(err, &from_files))?)
        }
        _ => anyhow::bail!("this process is no agent"),
    }
}

fn join(args: AgentArgs, given: &Given) -> anyhow::Result<ExitCode> {
    let mut warnings = warnings(given)?;
    // One file may serve both roles, so it is no mistake.
    if args.node.bind_address.is_some() {
        warnings.push("--bind-address: an agent's kubelet listens on every address".to_owned());
    }
    let debug = args.node.debug();
    let agent = settings::Agent::new(args).map_err(|err| located(err, &given.from_files))?;
    let shown = components::effective(&given.matches);
    Ok(daemon::main(&agent::COMPONENT, Flavour::CurrentThread, shown, |cx| {
        begin(debug, warnings);
        agent::run(cx, agent, agent_again)
    }))
}

/// The first that a role does: logs as it was told to, and says what it was told in vain.
fn begin(debug: bool, warnings: Vec<String>) {
    if debug && let Err(err) = daemon::set_log_level("debug") {
        warn!(err, "Could not log more");
    }
    for warning in warnings {
        warn!(flag = warning, "A flag has no effect");
    }
}

/// The flags of a role that have no effect; those that must not be ignored refuse.
fn warnings(given: &Given) -> Result<Vec<String>, ConfigError> {
    let (_, role) = given.matches.subcommand().expect("a role is running");
    missing::check(role).map_err(|err| located(err, &given.from_files))
}

fn not_yet(what: &str, why: &str) -> anyhow::Error {
    ConfigError(format!("{what} is not available yet: {why}")).into()
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

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// One line on stderr; 78 for configuration errors.
fn fail(err: &anyhow::Error) -> ExitCode {
    eprintln!("k3s: {err:#}");
    ExitCode::from(if err.is::<ConfigError>() { 78 } else { 1 })
}
