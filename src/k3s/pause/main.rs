//! The pause program: holds a pod's namespaces, and as their first process reaps orphans.
//!
//! Freestanding (no libc, a few KiB static), built by `build.rs` and shipped inside the executable.
//! Invariant: it does nothing but wait; SIGTERM and SIGINT end it.
#![no_std]
#![no_main]

use core::arch::asm;
use core::panic::PanicInfo;

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const MASK: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
const MASK_BYTES: usize = size_of::<u64>();

#[cfg(target_arch = "x86_64")]
mod number {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 60;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 93;
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let mask = MASK;
    let at = &raw const mask as usize;
    syscall(number::SIGPROCMASK, [SIG_BLOCK, at, 0, MASK_BYTES]);
    loop {
        match syscall(number::SIGTIMEDWAIT, [at, 0, 0, MASK_BYTES]) as u64 {
            SIGINT | SIGTERM => {
                syscall(number::EXIT, [0, 0, 0, 0]);
            }
            _ => while syscall(number::WAIT4, [usize::MAX, 0, WNOHANG, 0]) > 0 {},
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the four calls made here read at most the eight bytes of `mask`, which outlives them.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the four calls made here read at most the eight bytes of `mask`, which outlives them.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}
