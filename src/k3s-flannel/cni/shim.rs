//! The plugin executable, `k3s-cni` (and `loopback`): environment and standard input to the
//! daemon's socket, the answer to standard output.
//!
//! Synchronous and small, since it starts once per pod. Invariant: a daemon that is being restarted
//! costs a wait and no error; every command is safe to send twice.

use super::protocol::{Answer, Call, CniError, Config, SOCKET, VERSION, version_answer};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a missing daemon is waited for.
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest that one command may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const CONFIG_MAX_BYTES: u64 = 1 << 20;

pub fn main() -> ExitCode {
    let answer = answer();
    // A closed standard output leaves nobody to tell.
    let _ = std::io::stdout().write_all(answer.stdout.as_bytes());
    ExitCode::from(u8::from(answer.failed))
}

fn answer() -> Answer {
    let mut config = String::new();
    let stdin = std::io::stdin().lock();
    if let Err(err) = stdin.take(CONFIG_MAX_BYTES).read_to_string(&mut config) {
        return CniError::decode(err).answer(VERSION);
    }
    let parsed: Config = serde_json::from_str(&config).unwrap_or_default();
    let version = match parsed.cni_version.as_str() {
        "" => VERSION,
        version => version,
    };
    let env = std::env::vars().filter(|(name, _)| name.starts_with("CNI_"));
    let call = Call { env: env.collect(), config };
    if call.env.get("CNI_COMMAND").map(String::as_str) == Some("VERSION") {
        return version_answer(version);
    }
    let socket =
        std::env::var("K3S_CNI_SOCKET").ok().or(parsed.socket).unwrap_or_else(|| SOCKET.into());
    ask_patiently(&socket, &call)
        .unwrap_or_else(|err| CniError::try_later(format!("{socket}: {err}")).answer(version))
}

fn ask_patiently(socket: &str, call: &Call) -> std::io::Result<Answer> {
    let started = Instant::now();
    loop {
        match ask(socket, call) {
            Err(_) if started.elapsed() < RETRY_MAX => std::thread::park_timeout(RETRY_PAUSE),
            other => return other,
        }
    }
}

fn ask(socket: &str, call: &Call) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(&serde_json::to_vec(call)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}
