//! A small kubectl for machines that have none: reading, applying, deleting, logs, exec, rollouts.
//!
//! Prints what kubectl prints where people and scripts look. Invariant: it knows no kind's fields
//! beyond what a command is about; columns come from the server's tables, names from discovery.

mod apply;
mod cli;
mod delete;
mod describe;
mod discovery;
mod exec;
mod get;
mod jsonpath;
mod logs;
mod manifests;
mod output;
mod port_forward;
mod rollout;
mod scale;
mod select;
mod server;
mod socket;
mod table;
mod top;
mod yaml;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};
use crate::server::Server;

/// What a command failed with, in kubectl's words.
#[derive(Debug)]
pub(crate) struct Exit(u8);

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "command terminated with exit code {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// The command line, for help and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs a command line (without the program's name) against the cluster of this kubeconfig.
pub fn main(args: &[OsString], kubeconfig: &Path) -> ExitCode {
    let name = OsString::from("kubectl");
    let cli = match Cli::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { 1 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return fail(&err.into()),
    };
    let done = runtime.block_on(async {
        let kubeconfig = cli.global.kubeconfig.as_deref().unwrap_or(kubeconfig);
        let server = Server::connect(kubeconfig, &cli.global).await?;
        run(&server, cli.command).await
    });
    // A terminal that is being read from keeps a thread busy; nobody waits for it.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => fail(&err),
    }
}

async fn run(server: &Server, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Get(args) => get::run(server, &args).await,
        Command::Describe(args) => describe::run(server, &args).await,
        Command::Apply(args) => apply::run(server, &args).await,
        Command::Delete(args) => delete::run(server, &args).await,
        Command::Logs(args) => logs::run(server, &args).await,
        Command::Exec(args) => exec::run(server, &args).await,
        Command::Scale(args) => scale::run(server, &args).await,
        Command::Rollout(command) => rollout::run(server, &command).await,
        Command::Top(command) => top::run(server, &command).await,
        Command::PortForward(args) => port_forward::run(server, &args).await,
        Command::ApiResources => discovery::print(server).await,
        Command::Version => server::version(server).await,
    }
}

fn fail(err: &anyhow::Error) -> ExitCode {
    if let Some(Exit(code)) = err.downcast_ref() {
        eprintln!("{err}");
        return ExitCode::from(*code);
    }
    match err.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.reason.is_empty() => {
            eprintln!("Error from server ({}): {}", status.reason, status.message);
        }
        Some(kube::Error::Api(status)) => eprintln!("Error from server: {}", status.message),
        Some(other) => eprintln!("error: {}", client::describe(other)),
        None => eprintln!("error: {err:#}"),
    }
    ExitCode::FAILURE
}
