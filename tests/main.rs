//! The tests that need a machine of their own: `tests e2e [FILTER]`, `tests packaging [FILTER]`
//! (after `tests prepare`), `tests idle`, and `tests vm`.
//!
//! Run by `tests/run` inside `tests/isolate`, all but the last, which takes half an hour. Invariant: real parts only, and every wait is for a
//! condition with a deadline.

mod cluster;
mod e2e;
mod idle;
mod load;
mod outside;
mod packaging;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("e2e") => e2e::run(args.next().as_deref().unwrap_or_default()),
        Some("idle") => idle::run(),
        Some("prepare") => packaging::prepare(),
        Some("vm") => packaging::run_vm(),
        Some("packaging") => packaging::run(args.next().as_deref().unwrap_or_default()),
        _ => {
            eprintln!("usage: tests e2e|packaging [FILTER] | tests prepare|idle|vm");
            ExitCode::from(64)
        }
    }
}
