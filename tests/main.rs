//! The tests that need a machine of their own: `tests e2e [FILTER]`, `tests packaging [FILTER]`
//! (after `tests prepare`) and `tests idle`.
//!
//! Run by `tests/run` inside `tests/isolate`. Invariant: real parts only, and every wait is for a
//! condition with a deadline.

mod cluster;
mod e2e;
mod idle;
mod packaging;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("e2e") => e2e::run(args.next().as_deref().unwrap_or_default()),
        Some("idle") => idle::run(),
        Some("prepare") => packaging::prepare(),
        Some("packaging") => packaging::run(args.next().as_deref().unwrap_or_default()),
        _ => {
            eprintln!("usage: tests e2e|packaging [FILTER] | tests prepare|idle");
            ExitCode::from(64)
        }
    }
}
