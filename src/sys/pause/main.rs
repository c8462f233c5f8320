//! The pause program: holds a sandbox's namespaces, reaps what is orphaned into it, ends on SIGTERM or SIGINT.
//!
//! A static program of a few KB without a library; build.rs compiles it and `sys::pause` carries its bytes.
//! It blocks the three signals and waits for them synchronously: there is no handler, and nothing is missed in between.
#![no_std]
#![no_main]
use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call {main}", main = sym main, options(att_syntax));
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {main}", main = sym main);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 60;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 93;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
}

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// Kernel's sigset_t: a bit a signal, from 1 on.
static SET: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);

#[cfg(target_arch = "x86_64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result;
    // SAFETY: the system calls used here only touch memory that their arguments name: SET, which is static, or nothing.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
            lateout("rcx") _, lateout("r11") _)
    };
    result
}
#[cfg(target_arch = "aarch64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result;
    // SAFETY: the system calls used here only touch memory that their arguments name: SET, which is static, or nothing.
    unsafe { asm!("svc 0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1], in("x2") args[2], in("x3") args[3]) };
    result
}

extern "C" fn main() -> ! {
    let set = &raw const SET as usize;
    call(number::RT_SIGPROCMASK, [SIG_BLOCK, set, 0, 8]);
    loop {
        while call(number::WAIT4, [usize::MAX, 0, WNOHANG, 0]) > 0 {}
        match call(number::RT_SIGTIMEDWAIT, [set, 0, 0, 8]) {
            SIGINT | SIGTERM => exit(),
            _ => {}
        }
    }
}

fn exit() -> ! {
    loop {
        call(number::EXIT, [0; 4]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit()
}
