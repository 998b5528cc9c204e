//! System calls of x86-64.

use core::arch::{asm, global_asm};

/// The calls that the attacker itself needs.
pub mod number {
    pub const READ: i64 = 0;
    pub const WRITE: i64 = 1;
    pub const CLOSE: i64 = 3;
    pub const MMAP: i64 = 9;
    pub const CLONE: i64 = 56;
    pub const WAIT4: i64 = 61;
    pub const KILL: i64 = 62;
    pub const UNAME: i64 = 63;
    pub const GETUID: i64 = 102;
    pub const PRCTL: i64 = 157;
    pub const EXIT_GROUP: i64 = 231;
    pub const OPENAT: i64 = 257;
    pub const PPOLL: i64 = 271;
    pub const PIPE2: i64 = 293;
}

// The kernel jumps here. The end of the stack is marked and the stack aligned, as a function may expect.
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call attack", "ud2", options(att_syntax));

/// Makes a system call; what it answers, errors negative.
pub fn call(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    let answer;
    // SAFETY: this is how a system call is made; the kernel changes no register but these. What the call does to this
    // process is the caller's.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// Makes a system call without arguments in the way of 32-bit programs.
pub fn legacy(number: i64) -> i64 {
    let answer: i64;
    // SAFETY: as above; this gate keeps all registers but these. Its answer is a 32-bit one.
    unsafe {
        asm!("int 0x80", inlateout("rax") number => answer, in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") 0,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _, options(nostack));
    }
    i64::from(answer as i32)
}
