//! The attacker that needs nothing: no C library, no loader, no interpreter, only system calls.
//!
//! It is what an intruder would drop. Its tasks are lines of text (`plan::lines` writes them); of each attempt it prints
//! a line of JSON. Like the other attackers it does nothing outside of a sandbox.
#![no_std]
#![no_main]

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod machine;

use core::panic::PanicInfo;

use machine::{call, legacy, number};

/// Room for the tasks: more than there are.
const TASKS_MAX: usize = 1 << 20;
/// Room for what the arguments of one attempt point to.
const ROOM_MAX: usize = 1 << 18;
/// Bytes behind each of them, for a kernel that writes to it.
const BEHIND: usize = 4096;
/// Calls of one attempt, at most.
const CALLS_MAX: usize = 16;

const SIGCHLD: i64 = 17;
const SIGKILL: i64 = 9;
const POLLIN_AND_MILLIS: i64 = 5_000;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

fn exit(code: i64) -> ! {
    loop {
        call(number::EXIT_GROUP, [code, 0, 0, 0, 0, 0]);
    }
}

/// Where the program begins; `machine` jumps here with an aligned stack.
#[unsafe(no_mangle)]
extern "C" fn attack() -> ! {
    if !inside() {
        print(2, b"the attacks are only for the inside of a sandbox\n");
        exit(1);
    }
    let Some(memory) = map(TASKS_MAX + ROOM_MAX) else { exit(2) };
    let (tasks, room) = memory.split_at_mut(TASKS_MAX);
    let Some(length) = read_whole(b"/run/cogward/attacks.txt\0", tasks) else {
        print(2, b"the attacks cannot be read\n");
        exit(3);
    };
    for line in tasks[..length].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        one(line, room);
    }
    exit(0)
}

/// Whether this is a sandbox of ours: its host name, the agent's uid, and no way to new privileges.
fn inside() -> bool {
    let mut names = [0_u8; 6 * 65];
    let named = call(number::UNAME, [address(&mut names), 0, 0, 0, 0, 0]) == 0 && names[65..].starts_with(b"cogward\0");
    let (get_no_new_privs, uid) = (39, 1000);
    named && call(number::GETUID, [0; 6]) == uid && call(number::PRCTL, [get_no_new_privs, 0, 0, 0, 0, 0]) == 1
}

/// Carries one line out and says what became of it.
fn one(line: &[u8], room: &mut [u8]) {
    let mut words = line.split(|byte| *byte == b' ');
    let Some(id) = words.next() else { return };
    print(1, b"{\"id\":\"");
    print(1, id);
    print(1, b"\",\"errno\":");
    match attempt(words, room) {
        Some(errno) => decimal(errno),
        None => print(1, b"null"),
    }
    print(1, b"}\n");
}

/// In a process of its own: 0, the error, or the negative signal that ended it; nothing when it hung.
fn attempt<'a>(words: impl Iterator<Item = &'a [u8]>, room: &mut [u8]) -> Option<i64> {
    let mut ends = [0_i32; 2];
    if call(number::PIPE2, [address(&mut ends), 0, 0, 0, 0, 0]) != 0 {
        return None;
    }
    let [read_end, write_end] = ends.map(i64::from);
    let child = call(number::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]);
    if child == 0 {
        let mut errno = calls(words, room);
        call(number::WRITE, [write_end, address(&mut errno), 8, 0, 0, 0]);
        exit(0);
    }
    call(number::CLOSE, [write_end, 0, 0, 0, 0, 0]);
    if child < 0 {
        call(number::CLOSE, [read_end, 0, 0, 0, 0, 0]);
        return None;
    }
    // struct pollfd { int fd; short events, revents; } and struct timespec.
    let mut poll = [i32::try_from(read_end).unwrap_or(-1), 1];
    let mut limit = [POLLIN_AND_MILLIS / 1000, 0];
    let ready = call(number::PPOLL, [address(&mut poll), 1, address(&mut limit), 0, 0, 0]) == 1;
    let mut errno = 0_i64;
    let said = ready && call(number::READ, [read_end, address(&mut errno), 8, 0, 0, 0]) == 8;
    call(number::CLOSE, [read_end, 0, 0, 0, 0, 0]);
    if !ready || said {
        call(number::KILL, [child, SIGKILL, 0, 0, 0, 0]);
    }
    let mut status = 0_i32;
    call(number::WAIT4, [child, address(&mut status), 0, 0, 0, 0]);
    match (said, ready) {
        (true, _) => Some(errno),
        (false, true) if status & 0x7f != 0 => Some(-i64::from(status & 0x7f)),
        _ => None,
    }
}

/// Makes the calls of a line; the error of the first that is refused, or 0.
fn calls<'a>(words: impl Iterator<Item = &'a [u8]>, room: &mut [u8]) -> i64 {
    let (mut answers, mut made) = ([0_i64; CALLS_MAX], 0);
    let (mut args, mut given) = ([0_i64; 6], 0);
    let mut pending: Option<(bool, i64)> = None;
    let mut used = 0;
    for word in words.map(Some).chain([None]) {
        let (kind, rest) = match word.map(<[u8]>::split_first) {
            Some(Some((kind, rest))) => (*kind, rest),
            Some(None) => continue,
            None => (b'C', &b"0"[..]),
        };
        match kind {
            b'C' | b'L' => {
                if let Some((old, number)) = pending {
                    let answer = if old { legacy(number) } else { call(number, args) };
                    if (-4095..0).contains(&answer) {
                        return -answer;
                    }
                    if made < CALLS_MAX {
                        answers[made] = answer;
                        made += 1;
                    }
                }
                pending = Some((kind == b'L', integer(rest)));
                (args, given) = ([0; 6], 0);
                continue;
            }
            b'W' => args[given] = integer(rest),
            b'A' => args[given] = usize::try_from(integer(rest)).map_or(-1, |of| answers[of]),
            _ => {
                let bytes = &mut room[used..];
                let length = rest.len() / 2;
                for (byte, digits) in bytes.iter_mut().zip(rest.chunks_exact(2)) {
                    *byte = digit(digits[0]) << 4 | digit(digits[1]);
                }
                args[given] = bytes.as_ptr().addr() as i64;
                // Aligned, as the kernel may want structures to be. What lies behind is zero: this is a fresh copy.
                used = (used + length + BEHIND).next_multiple_of(16);
            }
        }
        given += 1;
    }
    0
}

fn integer(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let value = digits.iter().fold(0_i64, |value, byte| value.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')));
    if negative { value.wrapping_neg() } else { value }
}

fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => byte.wrapping_sub(b'a').wrapping_add(10),
    }
}

fn decimal(value: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut left = value.unsigned_abs();
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    if value < 0 {
        print(1, b"-");
    }
    print(1, &digits[at..]);
}

fn print(descriptor: i64, bytes: &[u8]) {
    let mut left = bytes;
    while !left.is_empty() {
        let written = call(number::WRITE, [descriptor, left.as_ptr().addr() as i64, left.len() as i64, 0, 0, 0]);
        match usize::try_from(written) {
            Ok(n) if n > 0 && n <= left.len() => left = &left[n..],
            _ => return,
        }
    }
}

fn address<T>(value: &mut T) -> i64 {
    core::ptr::from_mut(value).expose_provenance() as i64
}

/// Fresh memory, all zero.
fn map(length: usize) -> Option<&'static mut [u8]> {
    let (read_and_write, private_and_anonymous) = (3, 0x22);
    let at = call(number::MMAP, [0, length as i64, read_and_write, private_and_anonymous, -1, 0]);
    if at <= 0 {
        return None;
    }
    // SAFETY: the kernel has just mapped `length` zero bytes there, for nobody else, and they are never unmapped.
    Some(unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(at as usize), length) })
}

fn read_whole(path: &[u8], into: &mut [u8]) -> Option<usize> {
    let here = -100;
    let file = call(number::OPENAT, [here, path.as_ptr().addr() as i64, 0, 0, 0, 0]);
    let mut length = 0;
    loop {
        let rest = &mut into[length..];
        let n = call(number::READ, [file, rest.as_mut_ptr().expose_provenance() as i64, rest.len() as i64, 0, 0, 0]);
        match usize::try_from(n) {
            Ok(0) => return (length < TASKS_MAX).then_some(length),
            Ok(n) => length += n,
            Err(_) => return None,
        }
    }
}

// What the compiler and the compiled core refer to by themselves; there is no library that has them.

/// Named by code that unwinds. Nothing does: a panic ends the process.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Copies.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for n in 0..length {
        // SAFETY: the caller promises `length` bytes at both. Volatile, so that this is not made a call of itself.
        unsafe { to.add(n).write_volatile(from.add(n).read()) };
    }
    to
}

/// Fills.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    for n in 0..length {
        // SAFETY: the caller promises `length` bytes. Volatile as above.
        unsafe { to.add(n).write_volatile(value as u8) };
    }
    to
}

/// Compares.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for n in 0..length {
        // SAFETY: the caller promises `length` bytes at both. Volatile as above.
        let (a, b) = unsafe { (one.add(n).read_volatile(), other.add(n).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}
