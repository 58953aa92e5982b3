//! The only `unsafe` of this crate: adopting descriptors by number, on both sides of an exec.
//!
//! Invariant: a number is turned into an owner exactly once, right after it was handed over.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;

/// The first descriptor of the `LISTEN_FDS` protocol, sd_listen_fds(3).
pub(crate) const FIRST_PASSED: RawFd = 3;

/// Takes ownership of a descriptor that the parent process passed to this one.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: called once per passed number, at start, before anything else opens descriptors
    // that could be confused with it; sd_listen_fds(3) makes us its owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes the command's child see `fds` as descriptors 3, 4, … and nothing else of ours.
pub(crate) fn pass_fds(command: &mut std::process::Command, fds: Vec<OwnedFd>) {
    let place = move || -> io::Result<()> {
        // Out of the way first, so that no target number is overwritten before it is copied.
        let high = FIRST_PASSED + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX) + 16;
        let mut moved = Vec::with_capacity(fds.len());
        for fd in &fds {
            moved.push(rustix::io::fcntl_dupfd_cloexec(fd, high)?);
        }
        for (index, fd) in moved.iter().enumerate() {
            let number = FIRST_PASSED + RawFd::try_from(index).unwrap_or(RawFd::MAX);
            let mut target = std::mem::ManuallyDrop::new(adopt(number));
            rustix::io::dup2(fd, &mut target)?;
            debug_assert_eq!(target.as_raw_fd(), number);
        }
        Ok(())
    };
    // SAFETY: the closure makes only fcntl and dup2 calls between fork and exec, and the one
    // allocation happens in a child of a process whose supervisor thread holds no malloc lock
    // at fork time (the supervisor runs on a single thread).
    unsafe {
        command.pre_exec(place);
    }
}

/// Has the kernel send SIGTERM to the command's child when this process dies, and give it huge
/// pages again: what runs in a container is not ours to tune.
pub(crate) fn die_with_parent(command: &mut std::process::Command) {
    let parent = rustix::process::getpid();
    let ask = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::other("the supervisor is gone"));
        }
        let _fine_without = rustix::thread::disable_transparent_huge_pages(false);
        Ok(())
    };
    // SAFETY: prctl and getppid only, which are async-signal-safe.
    unsafe {
        command.pre_exec(ask);
    }
}
