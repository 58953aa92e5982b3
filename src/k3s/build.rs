//! Builds the pause program (`pause/main.rs`), a freestanding executable of a few KiB.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=pause/main.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "--target", &target])
        .args(["-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .args(["-Clink-arg=-no-pie", "-Clink-arg=-Wl,--build-id=none,-z,noseparate-code"])
        .arg("-o")
        .arg(&out)
        .arg("pause/main.rs")
        .status();
    assert!(status.is_ok_and(|status| status.success()), "building the pause program failed");
}
