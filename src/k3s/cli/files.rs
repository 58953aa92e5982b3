//! Configuration files in front of the command line: what they say becomes flags right after the
//! role's name, so that flags given win.
//!
//! Invariant: one file may serve both roles; a key of the other role is skipped, a key of neither is
//! refused with its line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::ValueRange;
use daemon::config::{Key, Setting};
use daemon::{ConfigError, config};

use super::CONFIG_FILE;

const ROLES: [&str; 2] = ["server", "agent"];

/// Puts what the configuration files say between the role and the flags given, which win.
/// Returns what of the files counts. Other subcommands read no files.
pub(crate) fn with_config(
    mut args: Vec<OsString>,
) -> Result<(Vec<OsString>, Vec<Setting>), ConfigError> {
    let args_move = global_flags(&args);
    args[1..].rotate_left(args_move);
    let command = super::command();
    let Some(name) = ROLES.into_iter().find(|role| args.get(1).is_some_and(|arg| arg == role))
    else {
        args[1..].rotate_right(args_move);
        return Ok((args, Vec::new()));
    };
    let find = |name: &str| command.find_subcommand(name).expect("the roles are subcommands");
    let role = find(name);
    let others: Vec<&Command> =
        ROLES.into_iter().filter(|other| *other != name).map(find).collect();
    let known = |key: &str| {
        lookup(role, key).or_else(|| {
            let (name, _) = others.iter().find_map(|other| lookup(other, key))?;
            Some((name, Key::Elsewhere))
        })
    };
    let valid = |flag: &str| match role.clone().try_get_matches_from([name, flag]) {
        Ok(_) => Ok(()),
        Err(err) => {
            let text = err.to_string();
            Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    };
    let given = role.clone().ignore_errors(true).try_get_matches_from(args.iter().skip(1)).ok();
    // `--config`, `-c`, `K3S_CONFIG_FILE`, or the usual place.
    let file = given.as_ref().and_then(|given| given.get_one::<PathBuf>("config").cloned());
    let file = file.unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
    if let Some(url) = file.to_str().filter(|file| file.starts_with("http")) {
        return Err(ConfigError(format!(
            "--config: {url}: reading the configuration from a server is not available yet"
        )));
    }
    let mut settings = config::read(&file, &config::Flags { known: &known, valid: &valid })?;
    // What the command line gives counts alone, lists as a whole.
    settings.retain(|setting| {
        let arg = role.get_arguments().find(|arg| arg.get_long() == Some(&setting.key));
        let source = given.as_ref().zip(arg).and_then(|(given, arg)| {
            given.try_contains_id(arg.get_id().as_str()).ok()?;
            given.value_source(arg.get_id().as_str())
        });
        source != Some(clap::parser::ValueSource::CommandLine)
    });
    let flags = settings.iter().flat_map(|setting| setting.flags.iter().map(OsString::from));
    let flags: Vec<OsString> = flags.collect();
    args.splice(2..2, flags);
    Ok((args, settings))
}

/// What the roles' configuration files say of the data folder, for tools that look at what a role
/// made there. Whatever else the files say is the role's business.
pub(crate) fn data_dir() -> Result<Option<PathBuf>, ConfigError> {
    let file = std::env::var_os("K3S_CONFIG_FILE").unwrap_or_else(|| CONFIG_FILE.into());
    data_dir_of(Path::new(&file))
}

fn data_dir_of(file: &Path) -> Result<Option<PathBuf>, ConfigError> {
    const KEY: &str = "data-dir";
    let known = |key: &str| match key {
        KEY | "d" => Some((KEY.to_owned(), Key::Single)),
        other => Some((other.to_owned(), Key::Elsewhere)),
    };
    let settings = config::read(file, &config::Flags { known: &known, valid: &|_| Ok(()) })?;
    let found = settings.iter().find(|setting| setting.key == KEY);
    let flag = found.and_then(|setting| setting.flags.last());
    Ok(flag.and_then(|flag| flag.split_once('=')).map(|(_, folder)| folder.into()))
}

/// How many arguments stand before the subcommand: k3s takes `--debug` and `--data-dir` there.
fn global_flags(args: &[OsString]) -> usize {
    let mut count = 0;
    while let Some(arg) = args.get(1 + count).and_then(|arg| arg.to_str()) {
        count += match arg {
            "--debug" => 1,
            "--data-dir" | "-d" => 2,
            _ if arg.starts_with("--debug=") || arg.starts_with("--data-dir=") => 1,
            _ => break,
        };
    }
    if args.len() > 1 + count { count } else { 0 }
}

/// A role's flag by its long name, an alias or its letter: the name under which it is given, and
/// what it takes.
fn lookup(role: &Command, key: &str) -> Option<(String, Key)> {
    let arg = role.get_arguments().find(|arg| {
        arg.get_long() == Some(key)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&key))
            || arg.get_short().is_some_and(|letter| key == letter.to_string())
    })?;
    let name = arg.get_long().map_or_else(|| key.to_owned(), str::to_owned);
    let kind = match arg.get_action() {
        clap::ArgAction::Append => Key::List,
        _ if arg.get_num_args() == Some(ValueRange::from(0..=1)) => Key::Switch,
        clap::ArgAction::Set => Key::Single,
        _ => return None,
    };
    Some((name, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_find_the_data_folder_in_the_roles_file() {
        let file = std::env::temp_dir().join(format!("k3s-tools-{}.yaml", std::process::id()));
        let check = |text: &str, expected: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            assert_eq!(data_dir_of(&file).unwrap(), expected.map(PathBuf::from), "{text}");
        };
        check("data-dir: /srv/k3s\nnode-label: [a=b]\nserver: https://x\n", Some("/srv/k3s"));
        check("token: x\n", None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(data_dir_of(&file).unwrap(), None);
    }

    fn check(role: &str, file: &str, args: &[&str], expected: Result<&[&str], &str>) {
        let path = std::env::temp_dir().join(format!(
            "k3s-files-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, file).unwrap();
        let config = format!("--config={}", path.display());
        let all = ["k3s", role].into_iter().chain(args.iter().copied()).chain([&*config]);
        let got = with_config(all.map(OsString::from).collect());
        std::fs::remove_file(&path).unwrap();
        match (got, expected) {
            (Ok((got, _)), Ok(expected)) => {
                let got: Vec<String> =
                    got[2..got.len() - 1].iter().map(|arg| arg.display().to_string()).collect();
                assert_eq!(got, expected);
                super::super::command()
                    .try_get_matches_from(["k3s", role].iter().map(|s| (*s).to_owned()).chain(got))
                    .unwrap();
            }
            (Err(got), Err(expected)) => assert!(got.0.contains(expected), "{}", got.0),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn one_file_serves_both_roles_and_letters_are_flags() {
        let both = "t: secret\nv: 4\ncluster-domain: k8s\nlb-server-port: 7444\ndebug: true\n";
        check(
            "server",
            both,
            &[],
            Ok(&[
                "--cluster-domain=k8s",
                "--debug",
                "--lb-server-port=7444",
                "--token=secret",
                "-v=4",
            ]),
        );
        check(
            "agent",
            both,
            &[],
            Ok(&["--debug", "--lb-server-port=7444", "--token=secret", "-v=4"]),
        );
        check("agent", "bogus: 1\n", &[], Err(":1: unknown key \"bogus\""));
    }

    #[test]
    fn what_is_given_counts_alone() {
        let file = "token: a\nnode-label: [a=b, c=d]\nno-deploy: traefik\n";
        check(
            "server",
            file,
            &["-t", "b", "--node-label=e=f"],
            Ok(&["--disable=traefik", "-t", "b", "--node-label=e=f"]),
        );
    }

    #[test]
    fn flags_before_the_role_are_moved_behind_it() {
        for (args, expected) in [
            (&["k3s", "--debug", "server"][..], 1),
            (&["k3s", "--data-dir", "/x", "--debug", "server"], 3),
            (&["k3s", "server", "--debug"], 0),
            (&["k3s", "--debug"], 0),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(global_flags(&args), expected, "{args:?}");
        }
    }
}
