use clap::{Args, Command, FromArgMatches};
fn main() -> std::process::ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let m = k3s_apiserver::Args::augment_args(Command::new("apiserver")).get_matches_from(args);
    let args = k3s_apiserver::Args::from_arg_matches(&m).unwrap();
    daemon::main(&k3s_apiserver::COMPONENT, daemon::Flavour::MultiThread, |cx| {
        k3s_apiserver::run(cx, args)
    })
}
