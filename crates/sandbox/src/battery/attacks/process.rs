//! Its own identity, other processes, and programs of its own.

use nix::libc;

use super::{
    ACCESS,
    Arg::{Text, Word},
    Attack, DENIED, call, python, refused_with,
};

/// Without root there is one uid inside, and any other is no uid at all.
const UNMAPPED: &[i32] = &[libc::EPERM, libc::EINVAL];

/// The attacks.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    call("process.ptrace", "be traced", libc::SYS_ptrace, &[Word(0), Word(0), Word(0), Word(0)]),
    call("process.ptrace-attach", "trace init", libc::SYS_ptrace, &[Word(16), Word(1), Word(0), Word(0)]),
    call("process.ptrace-seize", "seize init", libc::SYS_ptrace, &[Word(0x4206), Word(1), Word(0), Word(0)]),
    call("process.vm-read", "read the memory of init", libc::SYS_process_vm_readv, &[Word(1), Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("process.vm-write", "write the memory of init", libc::SYS_process_vm_writev, &[Word(1), Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("process.kcmp", "compare kernel objects", libc::SYS_kcmp, &[Word(1), Word(1), Word(0), Word(0), Word(0)]),
    call("process.pidfd-getfd", "take a descriptor of another process", libc::SYS_pidfd_getfd, &[Word(0), Word(0), Word(0)]),
    refused_with(call("process.kill-init", "kill init", libc::SYS_kill, &[Word(1), Word(9)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.kill-everything", "signal everything as init", libc::SYS_tgkill, &[Word(1), Word(1), Word(9)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.real-time", "real-time priority", libc::SYS_sched_setscheduler, &[Word(0), Word(1), Text("\u{1}")]), DENIED),
    refused_with(call("process.nice", "a better priority", libc::SYS_setpriority, &[Word(0), Word(0), Word(-5)]), &[libc::EACCES, libc::EPERM]),
    python("identity.root", "become root", "os.setuid(0)", UNMAPPED),
    python("identity.root-group", "become the group of root", "os.setgid(0)", UNMAPPED),
    python("identity.groups", "become a member of groups", "os.setgroups([0])", DENIED),
    python("identity.saved", "become root by the saved uid", "os.setresuid(0, 0, 0)", UNMAPPED),
    python("identity.open-files", "raise the number of open files", "call(302 if os.uname().machine == 'x86_64' else 261, 0, 7, struct.pack('QQ', 1 << 20, 1 << 20), 0)", &[libc::EPERM]),
    python("identity.core", "allow core dumps", "call(302 if os.uname().machine == 'x86_64' else 261, 0, 4, struct.pack('QQ', 1 << 20, 1 << 20), 0)", DENIED),
    python("identity.capabilities", "hold a capability", "found([l for l in open('/proc/self/status') if l.startswith('Cap') and set(l.split()[1]) != {'0'}])", DENIED),
    python("identity.new-privileges", "be without no_new_privs", "found('NoNewPrivs:\\t1\\n' not in open('/proc/self/status').read())", DENIED),
    python("identity.no-filter", "be without a filter", "found('Seccomp:\\t2\\n' not in open('/proc/self/status').read())", DENIED),
    python("identity.uid", "be anyone but the agent", "found(os.getuid() != 1000 or os.getgroups())", DENIED),
    refused_with(call("process.limits-of-init", "let init have no more descriptors", libc::SYS_prlimit64, &[Word(1), Word(7), Text(""), Word(0)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.schedule-init", "let init run when nothing else does", libc::SYS_sched_setscheduler, &[Word(1), Word(5), Text("")]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.nice-init", "let init wait for all others", libc::SYS_setpriority, &[Word(0), Word(1), Word(19)]), &[libc::EPERM, libc::ESRCH, libc::EACCES]),
    refused_with(call("process.input-of-init", "let init wait for the disk", libc::SYS_ioprio_set, &[Word(1), Word(1), Word(0x6000)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.signal-init-thread", "a signal to init's thread", libc::SYS_tkill, &[Word(1), Word(9)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("process.kill-init-high-bits", "kill init with bits that the kernel ignores", libc::SYS_kill, &[Word(0x1_0000_0001), Word(9)]), &[libc::EPERM, libc::ESRCH]),
    python("identity.oom", "outlive the plane when memory ends", "os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000')", &[]),
    python("identity.environment", "find a secret in the environment", "found([k for k in os.environ if k not in ('PATH', 'HOME', 'LC_CTYPE')])", DENIED),
    python("identity.descriptors", "find a descriptor of the plane", "found([f for f in os.listdir('/proc/self/fd') if int(f) > 2 and os.path.exists('/proc/self/fd/' + f) and not os.readlink('/proc/self/fd/' + f).startswith(('pipe:', '/run/cogward/', '/proc/'))])", DENIED),
    python("process.others", "see a process of another", "found([p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (os.getpid(), os.getppid())])", DENIED),
    python("process.cgroup-names", "see the names of control groups", "found('cogward' in open('/proc/self/cgroup').read())", DENIED),
    python("execute.dropped-work", "execute a program that it wrote to /work", "open('/work/t', 'wb').write(open('/usr/bin/true', 'rb').read()); os.chmod('/work/t', 0o755)\nos.execv('/work/t', ['true'])", ACCESS),
    python("execute.dropped-tmp", "execute a program that it wrote to /tmp", "open('/tmp/t', 'wb').write(open('/usr/bin/true', 'rb').read()); os.chmod('/tmp/t', 0o755)\nos.execv('/tmp/t', ['true'])", ACCESS),
    python("execute.dropped-dev-shm", "execute a program that it wrote to /dev/shm", "open('/dev/shm/t', 'wb').write(open('/usr/bin/true', 'rb').read()); os.chmod('/dev/shm/t', 0o755)\nos.execv('/dev/shm/t', ['true'])", ACCESS),
    python("execute.set-uid", "execute a set-uid program that it wrote", "open('/work/s', 'wb').write(open('/usr/bin/true', 'rb').read()); os.chmod('/work/s', 0o4755)\nos.execv('/work/s', ['true'])", ACCESS),
    python("execute.script", "execute a script that it wrote, by its first line", "open('/work/s.sh', 'w').write('#!/bin/sh\\nexit 0\\n'); os.chmod('/work/s.sh', 0o755); os.execv('/work/s.sh', ['s'])", ACCESS),
    python("execute.link", "execute a program that it wrote, through a link", "open('/work/p', 'wb').write(open('/usr/bin/true', 'rb').read()); os.chmod('/work/p', 0o755); os.symlink('/work/p', '/tmp/ln'); os.execv('/tmp/ln', ['true'])", ACCESS),
    python("execute.memory-file", "execute a memory file", "fd = call(319 if os.uname().machine == 'x86_64' else 279, b'm', 8); os.write(fd, open('/usr/bin/true', 'rb').read()); os.execve('/proc/self/fd/%d' % fd, ['true'], {})", &[libc::EACCES, libc::EPERM]),
    python("execute.memory-file-seal", "execute a memory file after changing its mode", "fd = call(319 if os.uname().machine == 'x86_64' else 279, b'm', 8); os.write(fd, open('/usr/bin/true', 'rb').read()); os.fchmod(fd, 0o755); os.execve(fd, ['true'], {})", &[libc::EACCES, libc::EPERM]),
    python("execute.library-work", "load a library that it wrote to /work", "import glob, shutil\nshutil.copyfile((glob.glob('/usr/lib/*/libm.so.6') + glob.glob('/usr/lib*/libm.so.6'))[0], '/work/lib.so')\ntry: ctypes.CDLL('/work/lib.so')\nexcept OSError as e: raise OSError(errno.EPERM, str(e))", DENIED),
    python("execute.library-tmp", "load a library that it wrote to /tmp", "import glob, shutil\nshutil.copyfile((glob.glob('/usr/lib/*/libm.so.6') + glob.glob('/usr/lib*/libm.so.6'))[0], '/tmp/lib.so')\ntry: ctypes.CDLL('/tmp/lib.so')\nexcept OSError as e: raise OSError(errno.EPERM, str(e))", DENIED),
    python("execute.library-dev-shm", "load a library that it wrote to /dev/shm", "import glob, shutil\nshutil.copyfile((glob.glob('/usr/lib/*/libm.so.6') + glob.glob('/usr/lib*/libm.so.6'))[0], '/dev/shm/lib.so')\ntry: ctypes.CDLL('/dev/shm/lib.so')\nexcept OSError as e: raise OSError(errno.EPERM, str(e))", DENIED),
    python("execute.map", "map a file that it wrote as a program", "import mmap; f = open('/work/m', 'w+b'); f.write(bytes(4096)); f.flush(); mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)", DENIED),
];
