//! The store as a process of its own, for tests and benchmarks: `store --db FILE --listen …`.

use std::process::ExitCode;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: k3s_store::Args,
}

fn main() -> ExitCode {
    let cli = <Cli as clap::Parser>::parse();
    daemon::main(&k3s_store::COMPONENT, daemon::Flavour::CurrentThread, Default::default(), |cx| {
        k3s_store::run(cx, cli.args)
    })
}
