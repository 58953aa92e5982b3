//! The flags of kube-controller-manager and kube-scheduler that ours have no use for, so that a
//! command line written for upstream's starts ours, or is told why not.
//!
//! Invariant: every flag of upstream's is a field of the component's arguments or has a verdict here.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// component, flag, type and default, as upstream has them.
const FLAGS: &str = include_str!("cli/upstream.tsv");
/// What becomes of those that we do not have.
const VERDICTS: &str = include_str!("cli/verdicts.txt");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    Warned,
    Fixed,
    Refused,
}

/// One flag of upstream's.
#[derive(Clone, Copy, Debug)]
struct Flag {
    name: &'static str,
    kind: &'static str,
    default: &'static str,
}

/// The flags of upstream's component; none for those that are ours alone.
fn flags(component: &str) -> impl Iterator<Item = Flag> {
    let component = component.trim_start_matches("k3s-").to_owned();
    FLAGS.lines().filter_map(move |line| {
        let mut parts = line.split('\t');
        let of = parts.next()?;
        let (name, kind) = (parts.next()?, parts.next()?);
        let default = parts.next().unwrap_or_default();
        (of == component).then_some(Flag { name, kind, default })
    })
}

/// What becomes of a flag, and why.
fn verdict(component: &str, flag: &str) -> Option<(Verdict, &'static str)> {
    let component = component.trim_start_matches("k3s-");
    VERDICTS.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut parts = line.splitn(4, ' ');
        let (of, name) = (parts.next()?, parts.next()?);
        let fits = match name.strip_suffix('*') {
            Some(start) => flag.starts_with(start),
            None => flag == name,
        };
        if !fits || !(of == "*" || of == component) {
            return None;
        }
        let verdict = match parts.next()? {
            "granted" => Verdict::Granted,
            "warned" => Verdict::Warned,
            "fixed" => Verdict::Fixed,
            _ => Verdict::Refused,
        };
        Some((verdict, parts.next()?))
    })
}

/// Adds the flags that the component does not have itself.
pub(crate) fn augment(command: Command) -> Command {
    let own: Vec<String> =
        command.get_arguments().filter_map(|it| it.get_long().map(str::to_owned)).collect();
    let component = command.get_name().to_owned();
    let missing = flags(&component).filter(|flag| !own.iter().any(|it| it == flag.name));
    command.args(missing.map(arg))
}

fn arg(flag: Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).hide(true).action(ArgAction::Append);
    let arg = match flag.kind {
        "bool" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg.allow_hyphen_values(true),
    };
    if flag.name == "v" { arg.short('v') } else { arg }
}

/// What is to be said about the flags that were given; an error when one is refused.
pub(crate) fn check(component: &str, matches: &ArgMatches) -> Result<Vec<String>, String> {
    let (mut warnings, mut refusals) = (Vec::new(), Vec::new());
    for flag in flags(component) {
        let name = flag.name;
        let given = matches.try_contains_id(name).is_ok_and(|it| it)
            && matches.value_source(name) == Some(ValueSource::CommandLine);
        let Some((verdict, why)) = verdict(component, name).filter(|_| given) else { continue };
        let values = matches.get_raw(name).into_iter().flatten();
        let values: Vec<String> = values.map(|it| it.to_string_lossy().into_owned()).collect();
        let asks = values.iter().any(|value| !is_neutral(flag, value));
        match verdict {
            Verdict::Warned if asks => warnings.push(format!("--{name} has no effect: {why}")),
            Verdict::Refused if asks => refusals.push(format!("--{name}: {why}")),
            Verdict::Fixed if values.iter().any(|value| !same(value, flag.default)) => {
                refusals.push(format!("--{name} can only be {:?}: {why}", flag.default));
            }
            _ => {}
        }
    }
    if refusals.is_empty() { Ok(warnings) } else { Err(refusals.join("\n")) }
}

/// Whether the value asks for nothing.
fn is_neutral(flag: Flag, value: &str) -> bool {
    let none = match flag.name {
        "cloud-provider" => value == "external",
        "tls-min-version" => value == "VersionTLS12",
        _ => false,
    };
    none || value.is_empty() || (flag.kind == "bool" && value == "false")
}

/// Durations may be written in several ways.
fn same(value: &str, default: &str) -> bool {
    let duration = |text: &str| client::parse_duration(text).ok();
    value == default || duration(value).is_some_and(|it| Some(it) == duration(default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::find;

    #[test]
    fn every_flag_of_upstreams_is_known() {
        for component in ["k3s-controller-manager", "k3s-scheduler"] {
            let entry = find(component).unwrap();
            let own = entry.own_flags();
            for flag in flags(component) {
                let ours = own.iter().any(|it| it == flag.name);
                let judged = verdict(component, flag.name).is_some();
                assert!(ours || judged, "{component}: --{} is neither ours nor judged", flag.name);
            }
        }
    }

    fn judged(component: &str, args: &[&str], want: Result<usize, &str>) {
        let entry = find(component).unwrap();
        let args = [component, "--kubeconfig=x"].into_iter().chain(args.iter().copied());
        let matches = entry.clap().try_get_matches_from(args).unwrap();
        let found = check(component, &matches);
        match want {
            Ok(count) => assert_eq!(found.map(|it| it.len()), Ok(count)),
            Err(text) => assert!(found.as_ref().is_err_and(|it| it.contains(text)), "{found:?}"),
        }
    }

    #[test]
    fn a_command_line_for_upstreams_starts_ours_or_says_why_not() {
        let manager = "k3s-controller-manager";
        judged(manager, &["--leader-elect=false", "--concurrent-gc-syncs", "5", "--v=2"], Ok(1));
        judged(manager, &["--leader-elect", "--use-service-account-credentials=true"], Ok(2));
        judged(manager, &["--cloud-provider=external"], Ok(0));
        judged(manager, &["--cloud-provider=aws"], Err("--cloud-provider: there is no cloud"));
        judged(manager, &["--horizontal-pod-autoscaler-sync-period=15s"], Ok(0));
        judged(manager, &["--horizontal-pod-autoscaler-downscale-stabilization=300s"], Ok(0));
        let fixed = "can only be \"15s\"";
        judged(manager, &["--horizontal-pod-autoscaler-sync-period=5s"], Err(fixed));
        judged("k3s-scheduler", &["--profiling", "--kube-api-qps", "100"], Ok(0));
        judged("k3s-scheduler", &["--master=http://x"], Err("--master: name the server"));
    }
}
