//! The system calls that no safe wrapper covers, each with the proof that it is sound.
//!
//! Everything else in the launcher goes through `rustix` and `nix`.
#![expect(unsafe_code, reason = "clone3, mount_setattr, seccomp, some prctls and ioctls have no safe wrapper")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// `struct clone_args` up to its `cgroup` field.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a fork this is.
pub enum Side {
    /// The new process.
    Child,
    /// The one that made it: the child's process id and descriptor.
    Parent(rustix::process::Pid, OwnedFd),
}

/// Makes a process in new namespaces, inside `cgroup` from its first instruction when that is given.
///
/// The calling process must have a single thread: locks held by another would stay held in the child for ever.
pub fn clone_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    debug_assert!(is_single_threaded());
    let mut pidfd: libc::c_int = -1;
    let mut flags = namespaces | u64::try_from(libc::CLONE_PIDFD).unwrap_or_default();
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let mut args = CloneArgs {
        flags,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or_default(),
        cgroup: cgroup.and_then(|c| u64::try_from(c.as_raw_fd()).ok()).unwrap_or_default(),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a whole `struct clone_args` of the size that is passed, and lives across the call. Without
    // CLONE_VM and without a stack the call behaves as fork: the child runs on a copy of this memory. The process
    // has one thread, so no lock is held by a thread that the child lacks. `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has just stored this new descriptor for us (CLONE_PIDFD); nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            Ok(Side::Parent(pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?, pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// `CLONE_INTO_CGROUP` does not fit the C library's signed constant.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whether this process has exactly one thread.
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() <= 1)
}

/// `struct mount_attr`, first version.
#[repr(C, align(8))]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Adds attributes to the mount at `mount`, and below it when `recursive`. Attributes are never taken away.
pub fn mount_add_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, userns: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string, `attr` is a whole `struct mount_attr` of the size that is passed, and
    // both outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a detached mount attributes, cuts it off from what is mounted elsewhere later, and shows its files with the
/// owners that a user namespace says, where one is given.
pub fn mount_of_its_own(
    mount: BorrowedFd<'_>,
    attributes: u64,
    owners: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let set = if owners.is_some() { attributes | IDMAP } else { attributes };
    let userns = owners.and_then(|fd| u64::try_from(fd.as_raw_fd()).ok()).unwrap_or_default();
    let attr = MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, userns };
    let flags = if recursive { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    // SAFETY: as in `mount_add_attributes`: the path is an empty C string, `attr` a whole `struct mount_attr` of the size
    // that is passed, and both outlive the call, which only reads them. `owners` is open for as long.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an `ifreq` of zeroes is a valid value: it is plain integers and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(1);
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, std::ptr::from_ref(&request)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One instruction of a filter, as the kernel takes it.
pub type Instruction = seccompiler::sock_filter;

/// Puts a system-call filter on this thread. With `listen`, refused calls are reported on the descriptor returned.
pub fn seccomp_install(program: &[Instruction], listen: bool) -> io::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        filter: *const Instruction,
    }
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let arg = Program { len, filter: program.as_ptr() };
    // WAIT_KILLABLE_RECV: a signal does not restart a call that the supervisor has already seen.
    let flags =
        if listen { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV } else { 0 };
    // SAFETY: `arg` is a `struct sock_fprog` that points to `len` instructions; both outlive the call, which copies them.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&arg)) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if !listen {
        return Ok(None);
    }
    let fd = i32::try_from(answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: with NEW_LISTENER a positive answer is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// A refused system call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Names the waiting call to the kernel.
    id: u64,
    /// The number of the system call.
    pub number: i32,
    /// Its arguments as they were when it was refused. What a pointer points to is not looked at.
    pub args: [u64; 6],
}

/// The next refused call, if one waits.
pub fn seccomp_receive(listener: BorrowedFd<'_>) -> io::Result<Option<Refused>> {
    // SAFETY: `seccomp_notif` is plain integers; the kernel demands that it is zeroed.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one `seccomp_notif`, which outlives the call.
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, std::ptr::from_mut(&mut notice))
    };
    if done == 0 {
        return Ok(Some(Refused { id: notice.id, number: notice.data.nr, args: notice.data.args }));
    }
    match io::Error::last_os_error() {
        // The caller died, or a signal took it away, between the poll and now.
        e if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => Ok(None),
        e => Err(e),
    }
}

/// Lets a refused call return `EPERM`. There is no way in this crate to let one continue.
pub fn seccomp_refuse(listener: BorrowedFd<'_>, refused: Refused) -> io::Result<()> {
    let answer = libc::seccomp_notif_resp { id: refused.id, val: 0, error: -libc::EPERM, flags: 0 };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one `seccomp_notif_resp`, which outlives the call.
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, std::ptr::from_ref(&answer)) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            e => Err(e),
        },
    }
}

/// Gives every signal its default action, so that nothing the plane ignores is ignored by the agent.
pub fn signals_to_default() {
    // The kernel's `struct sigaction`: handler, flags, restorer, mask. All zeroes is SIG_DFL without flags. The C
    // library's own function would leave out the two signals that it keeps for itself.
    let default = [0_u64; 4];
    for signal in 1..=64_i32 {
        // SAFETY: reads one `struct sigaction`, which outlives the call, and writes nothing. SIG_DFL runs no code of
        // ours; a signal that has no changeable action is refused and skipped.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize)
        };
    }
}

/// Has memory of this process, and of all that it forks and executes, never executed once it could be written. For good.
pub fn refuse_execution_of_what_was_written() -> io::Result<()> {
    let unused: libc::c_ulong = 0;
    let gain = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    // SAFETY: takes integers only, and changes nothing about memory that is mapped.
    let done = unsafe { libc::prctl(libc::PR_SET_MDWE, gain, unused, unused, unused) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tries to have memory executed that could be written, in both ways, and says what the kernel answered to each.
pub fn execution_of_what_was_written() -> [io::Result<()>; 2] {
    const LENGTH: usize = 4096;
    let map = |protection| {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), LENGTH, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
    };
    let unmap = |at| {
        // SAFETY: exactly the mapping that was made above; nothing refers to it.
        let _ = unsafe { libc::munmap(at, LENGTH) };
    };
    let (write, execute) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let at_once = map(write | execute).map(unmap);
    let later = map(write).and_then(|at| {
        // SAFETY: exactly the mapping that was made above; nothing refers to it.
        let done = unsafe { libc::mprotect(at, LENGTH, execute) };
        let answer = if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        unmap(at);
        answer
    });
    [at_once, later]
}

/// Calls `clone3` with arguments that can never make a process, and says what the kernel answered.
pub fn clone3_answer() -> io::Error {
    // SAFETY: a null pointer of size zero is refused by the kernel (EINVAL) or by our filter (ENOSYS) before use.
    let _ = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0_usize) };
    io::Error::last_os_error()
}

/// Forks. The calling process must have a single thread.
pub fn fork() -> io::Result<Option<nix::unistd::Pid>> {
    debug_assert!(is_single_threaded());
    // SAFETY: the process has one thread, so the child may use everything that this process may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(None),
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
    }
}

/// Ends this process at once, without running anything of the parent's that is still in memory.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Takes ownership of a descriptor that this process was started with.
///
/// Returns `None` when it is not open. Must be called at most once per number, before anything else could own it.
pub fn inherited(fd: i32) -> Option<OwnedFd> {
    nix::fcntl::fcntl(borrowed(fd), nix::fcntl::FcntlArg::F_GETFD).ok()?;
    // SAFETY: it is open (checked above), and by the contract of this function nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn borrowed(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: used for one fcntl that fails with EBADF when the descriptor is not open; it is not kept.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Marks every descriptor from `first` on to be closed by the next `execve`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from 3 on, except those named.
///
/// For a process that has just been forked: values that own closed descriptors must never be used or dropped.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers only. Closing is sound for the callers: one marks, the other is a fresh fork that
    // uses nothing but the descriptors it names.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `fd` this process's descriptor number `target` (0, 1 or 2), open across `execve`.
pub fn move_to_standard(fd: &OwnedFd, target: i32) -> io::Result<()> {
    // SAFETY: dup2 onto a standard descriptor; the callers are processes that use none of Rust's standard streams.
    if unsafe { libc::dup2(fd.as_raw_fd(), target) } == target { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The version of Landlock that the kernel has.
pub fn landlock_abi() -> io::Result<u32> {
    // SAFETY: with LANDLOCK_CREATE_RULESET_VERSION (1) the pointer must be null and the size zero; nothing is read.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// The version of the kernel's KVM interface.
pub fn kvm_version(kvm: BorrowedFd<'_>) -> io::Result<i32> {
    const KVM_GET_API_VERSION: u64 = 0xAE00;
    // SAFETY: takes no argument beyond the request.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION as _, 0) };
    if version >= 0 { Ok(version) } else { Err(io::Error::last_os_error()) }
}

/// What became of system calls that were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempted {
    /// The last of them did what it was asked.
    Succeeded,
    /// One of them, and those after it were not made, with this error.
    Refused(i32),
    /// The process that made them died of this signal.
    Died(i32),
    /// It did not come back.
    Hung,
}

/// A system call to try.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub args: [Word; 6],
}

/// An argument of a system call to try.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    /// This value.
    Value(i64),
    /// What the call at this place, one before, answered.
    Answer(usize),
}

/// The address of bytes, as an argument of [`attempt`].
pub fn address(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.as_ptr().addr()).unwrap_or_default()
}

/// Makes system calls, each only when the one before succeeded, in a process of its own, which then ends. For attacks,
/// inside of a sandbox.
///
/// The calling process must have a single thread.
pub fn attempt(calls: &[Call]) -> io::Result<Attempted> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = fork()? else {
        let mut answers = Vec::new();
        let mut errno = 0;
        for call in calls {
            let [a, b, c, d, e, f] = call.args.map(|word| match word {
                Word::Value(value) => value,
                Word::Answer(of) => answers.get(of).copied().unwrap_or(-1),
            });
            // SAFETY: whatever the call does, it does to this process, a copy that uses nothing afterwards but one
            // descriptor and integers, and ends.
            let answer = unsafe { libc::syscall(call.number, a, b, c, d, e, f) };
            if answer < 0 {
                errno = io::Error::last_os_error().raw_os_error().unwrap_or(-1);
                break;
            }
            answers.push(answer);
        }
        let _ = rustix::io::write(&write, &errno.to_ne_bytes());
        exit_now(0);
    };
    drop(write);
    let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&read, rustix::event::PollFlags::IN)];
    let ready = matches!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1));
    let mut errno = [0; 4];
    let said = ready && matches!(rustix::io::read(&read, &mut errno), Ok(4));
    if !ready || said {
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    }
    let ended = nix::sys::wait::waitpid(child, None);
    Ok(match (said, i32::from_ne_bytes(errno), ended) {
        (true, 0, _) => Attempted::Succeeded,
        (true, errno, _) => Attempted::Refused(errno),
        (false, _, Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _))) if ready => Attempted::Died(signal as i32),
        (false, ..) => Attempted::Hung,
    })
}
