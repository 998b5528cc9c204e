//! The calls that the standard library does not have, each with the proof that it is sound.
//!
//! The C library is linked statically; its functions are declared here as its headers declare them on Linux with
//! 64-bit addresses.
#![expect(unsafe_code, reason = "the standard library has no fork, poll, capset, mount and vsock")]

use std::{
    ffi::{CString, c_char, c_int, c_long, c_short, c_uint, c_ulong, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the declarations of this file are those of 64-bit Linux");

/// One descriptor that is waited for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PollFd {
    /// The descriptor; a negative one is passed over.
    pub fd: RawFd,
    /// What is waited for.
    pub events: c_short,
    /// What is the case.
    pub revents: c_short,
}

/// There is something to read, or the end.
pub const IN: c_short = 1;
/// There is room to write.
pub const OUT: c_short = 4;
/// An error, or both directions are over; reported unasked.
pub const GONE: c_short = 8 | 16 | 32;

/// `sigset_t` of both C libraries of Linux.
#[repr(C)]
struct SignalSet([u64; 16]);

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn fork() -> c_int;
    fn _exit(code: c_int) -> !;
    fn getpid() -> c_int;
    fn geteuid() -> c_uint;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn setsid() -> c_int;
    fn umask(mode: c_uint) -> c_uint;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn capget(header: *mut CapabilityHeader, data: *mut CapabilityData) -> c_int;
    fn capset(header: *mut CapabilityHeader, data: *const CapabilityData) -> c_int;
    fn setgroups(count: usize, groups: *const c_uint) -> c_int;
    fn getgroups(count: c_int, groups: *mut c_uint) -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn getresgid(real: *mut c_uint, effective: *mut c_uint, saved: *mut c_uint) -> c_int;
    fn getresuid(real: *mut c_uint, effective: *mut c_uint, saved: *mut c_uint) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut [u64; 2]) -> c_int;
    fn setrlimit(resource: c_int, limit: *const [u64; 2]) -> c_int;
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn mknod(path: *const c_char, mode: c_uint, device: u64) -> c_int;
    fn sethostname(name: *const c_char, length: usize) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn sync();
}

const EINTR: i32 = 4;
/// `EACCES`
pub const ACCESS: i32 = 13;
/// `EROFS`
pub const READ_ONLY: i32 = 30;
pub(crate) fn done(answer: c_int) -> io::Result<()> {
    if answer >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn owned(answer: c_int) -> io::Result<OwnedFd> {
    done(answer)?;
    // SAFETY: every caller passes the answer of a call that makes a descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Waits until one of the descriptors is ready or the time is over; an interruption counts as nothing ready.
pub fn wait(fds: &mut [PollFd], limit: Option<Duration>) -> io::Result<usize> {
    let millis = limit.map_or(-1, |limit| c_int::try_from(limit.as_millis().saturating_add(1)).unwrap_or(c_int::MAX));
    // SAFETY: the pointer and the count are those of one slice, which outlives the call.
    let ready = unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, millis) };
    match usize::try_from(ready) {
        Ok(ready) => Ok(ready),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(EINTR) => Ok(0),
            e => Err(e),
        },
    }
}

/// Makes a copy of this process: `None` in the copy. This program never has a second thread.
pub fn copy() -> io::Result<Option<c_int>> {
    // SAFETY: the process has one thread, so the copy may use everything that this process may.
    let pid = unsafe { fork() };
    done(pid)?;
    Ok((pid != 0).then_some(pid))
}

/// Ends this process at once.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { _exit(code) }
}

/// Whether this is the first process of its namespace.
pub fn is_first() -> bool {
    // SAFETY: has no preconditions.
    unsafe { getpid() == 1 }
}

/// Whether the effective uid is 0.
pub fn is_root() -> bool {
    // SAFETY: has no preconditions.
    unsafe { geteuid() == 0 }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A child that has ended, if one has; `Err` when there is no child at all.
pub fn reap() -> Result<Option<(c_int, End)>, ()> {
    loop {
        let mut status: c_int = 0;
        // SAFETY: `status` outlives the call. WNOHANG is 1.
        let pid = unsafe { waitpid(-1, &raw mut status, 1) };
        match pid {
            0 => return Ok(None),
            pid if pid > 0 => {
                let signal = status & 0x7f;
                return Ok(Some((
                    pid,
                    if signal == 0 { End::Code((status >> 8) & 0xff) } else { End::Signal(signal) },
                )));
            }
            _ if io::Error::last_os_error().raw_os_error() == Some(EINTR) => {}
            _ => return Err(()),
        }
    }
}

/// Sends a signal to every process that this one may signal, but not to itself. Only for pid 1 of a namespace.
pub fn signal_all(signal: c_int) {
    if is_first() {
        // SAFETY: takes integers. As pid 1 of its namespace it reaches nothing outside of it.
        let _ = unsafe { kill(-1, signal) };
    }
}

/// `SIGKILL`
pub const KILL: c_int = 9;
/// `SIGTERM`
pub const TERM: c_int = 15;

/// Begins a session.
pub fn new_session() -> io::Result<()> {
    // SAFETY: has no preconditions.
    done(unsafe { setsid() })
}

/// Files are made readable for others.
pub fn plain_umask() {
    // SAFETY: has no preconditions.
    let _ = unsafe { umask(0o022) };
}

/// Makes `fd` the standard descriptor `target`, open across `execve`.
pub fn make_standard(fd: BorrowedFd<'_>, target: c_int) -> io::Result<()> {
    // SAFETY: takes two numbers; the callers use none of the standard library's standard streams afterwards.
    done(unsafe { dup2(fd.as_raw_fd(), target) })
}

/// A pipe: the end to read and the end to write, both closed by `execve`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [c_int; 2] = [-1; 2];
    // SAFETY: the array has room for the two descriptors and outlives the call.
    done(unsafe { pipe2(fds.as_mut_ptr(), CLOSE_ON_EXEC) })?;
    let [read, write] = fds;
    Ok((owned(read)?, owned(write)?))
}

pub(crate) const CLOSE_ON_EXEC: c_int = 0o2_000_000;
pub(crate) const NONBLOCK: c_int = 0o4000;

/// Reads and writes of this descriptor no longer wait.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL (3) and F_SETFL (4) take and give integers.
    unsafe {
        let flags = fcntl(fd.as_raw_fd(), 3);
        done(flags)?;
        done(fcntl(fd.as_raw_fd(), 4, flags | NONBLOCK))
    }
}

/// Closes every descriptor from 3 on, except those given.
///
/// For a process that uses nothing but these afterwards: at its very start, or freshly forked.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<c_int> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd >= 3).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        close_between(first, fd - 1)?;
        first = fd + 1;
    }
    close_between(first, c_int::MAX)
}

fn close_between(first: c_int, last: c_int) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: `close_range` (436) takes integers. By the contract of the caller nobody uses what is closed.
    if unsafe { syscall(436, first, last, 0) } == 0 {
        return Ok(());
    }
    // Kernels and sandboxes without it: one by one. No descriptor is beyond the limit that was in force.
    let mut limit = [0_u64; 2];
    // SAFETY: `limit` is a whole `struct rlimit` and outlives the call; 7 is RLIMIT_NOFILE.
    done(unsafe { getrlimit(7, &raw mut limit) })?;
    let most = c_int::try_from(limit[1].min(1 << 20)).unwrap_or(1 << 20);
    for fd in first..=last.min(most) {
        // SAFETY: takes an integer; a number that is not open is refused.
        let _ = unsafe { close(fd) };
    }
    Ok(())
}

/// This process's memory is nobody's to look at.
pub fn set_not_dumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE (4) takes an integer.
    done(unsafe { prctl(4, 0_usize, 0_usize, 0_usize, 0_usize) })
}

/// Nothing that is executed from here on has more rights than this process.
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS (38) takes integers.
    done(unsafe { prctl(38, 1_usize, 0_usize, 0_usize, 0_usize) })
}

/// Whether the same is in force.
pub fn no_new_privileges() -> bool {
    // SAFETY: PR_GET_NO_NEW_PRIVS (39) takes integers.
    unsafe { prctl(39, 0_usize, 0_usize, 0_usize, 0_usize) == 1 }
}

/// Whether a system-call filter is in force.
pub fn is_filtered() -> bool {
    // SAFETY: PR_GET_SECCOMP (21) takes integers.
    unsafe { prctl(21, 0_usize, 0_usize, 0_usize, 0_usize) == 2 }
}

/// Capabilities that exist at most.
const CAPABILITIES_MAX: usize = 64;
/// `CAP_DAC_READ_SEARCH`
pub const CAP_READ: u32 = 2;
/// `CAP_KILL`
pub const CAP_KILL: u32 = 5;
/// `CAP_SYS_BOOT`
pub const CAP_BOOT: u32 = 22;

/// Empties the bounding set. Nothing to do for a process that has none of them to give up.
pub fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: PR_CAPBSET_READ (23) and PR_CAPBSET_DROP (24) take integers.
        match unsafe { prctl(23, capability, 0_usize, 0_usize, 0_usize) } {
            // SAFETY: as above.
            1 => done(unsafe { prctl(24, capability, 0_usize, 0_usize, 0_usize) })?,
            0 => {}
            // Past the last capability of this kernel.
            _ => break,
        }
    }
    Ok(())
}

/// Whether the bounding set is empty.
pub fn bounding_set_is_empty() -> bool {
    // SAFETY: PR_CAPBSET_READ (23) takes integers.
    (0..CAPABILITIES_MAX).all(|capability| unsafe { prctl(23, capability, 0_usize, 0_usize, 0_usize) } != 1)
}

/// Keeps these capabilities and no other, for good.
///
/// # Errors
/// When one of them is not there to be kept.
pub fn keep_capabilities(keep: &[u32]) -> io::Result<()> {
    // SAFETY: PR_CAP_AMBIENT (47), PR_CAP_AMBIENT_CLEAR_ALL (4) take integers. A kernel that does not know ambient
    // capabilities has none of them.
    let _ = unsafe { prctl(47, 4_usize, 0_usize, 0_usize, 0_usize) };
    let mut header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    // All that are used have numbers below 32.
    let kept = keep.iter().fold(0, |set, number| set | 1_u32.checked_shl(*number).unwrap_or_default());
    let data = [CapabilityData { effective: kept, permitted: kept, inheritable: 0 }, CapabilityData::default()];
    // SAFETY: with this version the kernel reads one header and two sets of data, which outlive the call.
    done(unsafe { capset(&raw mut header, data.as_ptr()) })
}

/// Whether there are no capabilities, ambient ones included.
pub fn has_no_capabilities() -> io::Result<bool> {
    let mut header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let mut data = [CapabilityData { effective: 1, permitted: 1, inheritable: 1 }; 2];
    // SAFETY: with this version the kernel writes two sets of data, for which there is room.
    done(unsafe { capget(&raw mut header, data.as_mut_ptr()) })?;
    let ambient = (0..CAPABILITIES_MAX).any(|capability| {
        // SAFETY: PR_CAP_AMBIENT (47), PR_CAP_AMBIENT_IS_SET (1) take integers.
        unsafe { prctl(47, 1_usize, capability, 0_usize, 0_usize) == 1 }
    });
    Ok(!ambient && data.iter().all(|d| d.effective | d.permitted | d.inheritable == 0))
}

/// Becomes another uid and gid without supplementary groups, for good.
pub fn become_for_good(uid: u32) -> io::Result<()> {
    // SAFETY: an empty list of groups is not read; the rest takes integers.
    unsafe {
        done(setgroups(0, std::ptr::null()))?;
        done(setresgid(uid, uid, uid))?;
        done(setresuid(uid, uid, uid))
    }
}

/// Stays who it is, without supplementary groups.
pub fn leave_groups() -> io::Result<()> {
    // SAFETY: an empty list of groups is not read.
    done(unsafe { setgroups(0, std::ptr::null()) })
}

/// Whether every uid and gid is this one and there are no other groups.
pub fn is_only(uid: u32) -> bool {
    let mut ids = [c_uint::MAX; 6];
    let [a, b, c, d, e, f] = &mut ids;
    // SAFETY: six integers that outlive the calls; with the count 0 no group is written.
    let read = unsafe {
        getresuid(&raw mut *a, &raw mut *b, &raw mut *c) == 0
            && getresgid(&raw mut *d, &raw mut *e, &raw mut *f) == 0
            && getgroups(0, std::ptr::null_mut()) == 0
    };
    read && ids.iter().all(|id| *id == uid)
}

/// Bounds a resource, never above what is already in force.
pub fn limit(resource: c_int, wanted: u64) -> io::Result<()> {
    let mut now = [0_u64; 2];
    // SAFETY: a whole `struct rlimit` of 64-bit Linux, which outlives both calls.
    unsafe {
        done(getrlimit(resource, &raw mut now))?;
        let [_, most] = now;
        let bound = [wanted.min(most); 2];
        done(setrlimit(resource, &raw const bound))
    }
}

/// Every signal has its default action and none is blocked.
pub fn reset_signals() -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    const RT_SIGACTION: c_long = 13;
    #[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
    const RT_SIGACTION: c_long = 134;
    // The kernel's `struct sigaction`. All zeroes is SIG_DFL without flags. The C library's own function would leave
    // out the two signals that it keeps for itself.
    let default = [0_u64; 4];
    for signal in 1..=64_i32 {
        // SAFETY: reads one `struct sigaction`, which outlives the call, and writes nothing. SIG_DFL runs no code of
        // ours; a signal that has no changeable action is refused and skipped.
        unsafe { syscall(RT_SIGACTION, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize) };
    }
    let mut none = SignalSet([0; 16]);
    // SAFETY: the set outlives the calls; 2 is SIG_SETMASK.
    unsafe {
        done(sigemptyset(&raw mut none))?;
        done(sigprocmask(2, &raw const none, std::ptr::null_mut()))
    }
}

/// A descriptor that is ready when a child has ended. Children that end earlier are not lost.
pub fn child_signals() -> io::Result<OwnedFd> {
    let mut set = SignalSet([0; 16]);
    // SAFETY: the set outlives the calls; 17 is SIGCHLD, 0 is SIG_BLOCK.
    unsafe {
        done(sigemptyset(&raw mut set))?;
        done(sigaddset(&raw mut set, 17))?;
        done(sigprocmask(0, &raw const set, std::ptr::null_mut()))?;
        owned(signalfd(-1, &raw const set, CLOSE_ON_EXEC | NONBLOCK))
    }
}

/// Executes a program in the place of this one; returns only with an error.
pub fn execute(path: &str, argv: &[CString], env: &[CString]) -> io::Error {
    let path = match text(path) {
        Ok(path) => path,
        Err(error) => return error,
    };
    let list = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: both lists end with a null pointer and point to C strings, which all outlive the call.
    unsafe { execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Attaches a file system or, with [`BIND`], a directory.
pub fn attach(source: &str, target: &str, kind: &str, flags: c_ulong, options: &str) -> io::Result<()> {
    let (source, target, kind, options) = (text(source)?, text(target)?, text(kind)?, text(options)?);
    // SAFETY: four C strings that outlive the call.
    done(unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) })
}

/// Nothing of it can be written to.
pub const MOUNT_READ_ONLY: c_ulong = 1;
/// No program of it changes its user.
pub const NO_SET_UID: c_ulong = 2;
/// Its device nodes are none.
pub const NO_DEVICES: c_ulong = 4;
/// Nothing of it is executed.
pub const NO_EXECUTION: c_ulong = 8;
/// Changes a mount that exists.
pub const REMOUNT: c_ulong = 32;
/// Shows a directory at a second place.
pub const BIND: c_ulong = 4096;
/// Moves a mount.
pub const MOVE: c_ulong = 8192;

/// Takes a mount away.
pub fn detach(target: &str) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: one C string that outlives the call; 2 is MNT_DETACH.
    done(unsafe { umount2(target.as_ptr(), 2) })
}

/// Makes the working directory the root.
pub fn enter_root() -> io::Result<()> {
    // SAFETY: one C string that outlives the call.
    done(unsafe { chroot(c".".as_ptr()) })
}

/// Makes a character device that everyone may use.
pub fn character_device(path: &str, major: u64, minor: u64) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: one C string that outlives the call. Small numbers have the same form in both encodings of devices.
    done(unsafe { mknod(path.as_ptr(), 0o020_666, (major << 8) | minor) })
}

/// Names this machine.
pub fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: reads as many bytes as are passed.
    done(unsafe { sethostname(name.as_ptr().cast(), name.len()) })
}

/// Ends the machine. Returns only when it may not.
pub fn power_off() {
    // SAFETY: takes an integer: RB_AUTOBOOT, which a machine monitor takes as the end.
    unsafe {
        sync();
        let _ = reboot(0x0123_4567);
    }
}
