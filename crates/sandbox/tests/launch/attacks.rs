//! One program that tries to get out by every way profile `standard` claims to close. Nothing may be allowed.

use cogward_sandbox::ExitCause;

use crate::rig::{drain, python, run};

pub const TESTS: &[crate::Test] = &[
    ("no_attack_from_inside_succeeds", battery),
    ("the_environment_and_descriptors_hold_nothing_of_ours", nothing_inherited),
    ("refused_calls_are_reported_by_name", reported),
    ("two_runs_cannot_see_each_other", strangers),
];

/// Each check prints `ALLOWED name` when it gets through. The last line proves that the program ran to its end.
const BATTERY: &str = r#"
import ctypes, errno, os, socket, struct, sys, mmap
libc = ctypes.CDLL(None, use_errno=True)
count = 0
def syscall(number, *args):
    ctypes.set_errno(0)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def denied(name, attack, *expected):
    global count
    count += 1
    try:
        got = attack()
    except OSError as e:
        if expected and e.errno not in expected:
            print('ALLOWED', name, 'answered', errno.errorcode.get(e.errno, e.errno))
        return
    except Exception as e:
        print('ALLOWED', name, 'failed otherwise:', e); return
    print('ALLOWED', name, repr(got)[:80])
P, A = errno.EPERM, errno.EACCES

# A check that let everything pass would find nothing: these two must be found.
denied('control: a call that succeeds', os.getpid)
denied('control: another answer than expected', lambda: os.listdir('/nowhere'), errno.EPERM)

# The network.
def connect(family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind); s.settimeout(2); s.connect(address); return s
denied('tcp to the internet', lambda: connect(socket.AF_INET, ('1.1.1.1', 443)), A)
denied('tcp to the metadata service', lambda: connect(socket.AF_INET, ('169.254.169.254', 80)), A)
denied('tcp to another local port', lambda: connect(socket.AF_INET, ('127.0.0.1', 22)), A)
denied('tcp over ipv6', lambda: connect(socket.AF_INET6, ('2606:4700:4700::1111', 443)), A)
denied('udp to the internet', lambda: connect(socket.AF_INET, ('1.1.1.1', 53), socket.SOCK_DGRAM), errno.ENETUNREACH)
def bind():
    s = socket.socket(); s.bind(('127.0.0.1', 0)); return s
denied('bind a tcp port', bind, A)
def take_port():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', 28471))
denied('bind the port of the plane', take_port, A)
denied('resolve a name', lambda: socket.gethostbyname('example.com'))
for name, family, kind, proto in [('packet', 17, 3, 0), ('packet raw', 17, 3, 0x300), ('alg', 38, 5, 0), ('vsock', 40, 1, 0),
        ('netlink audit', 16, 3, 9), ('netlink netfilter', 16, 3, 12), ('netlink kobject', 16, 3, 15), ('bluetooth', 31, 3, 1),
        ('can', 29, 3, 1), ('xdp', 44, 3, 0), ('key', 15, 3, 2), ('kcm', 41, 5, 0), ('tipc', 30, 1, 0), ('smc', 43, 1, 0),
        ('mptcp', 2, 1, 262), ('mptcp ipv6', 10, 1, 262), ('sctp', 2, 1, 132), ('udplite', 2, 2, 136), ('l2tp', 2, 2, 115), ('dccp', 2, 6, 33),
        ('rds', 21, 5, 0), ('icmp raw', 2, 3, 1), ('ipv6 raw', 10, 3, 58)]:
    denied('socket ' + name, lambda: socket.socket(family, kind, proto), P)

# The kernel.
for name, number, *args in [('ptrace', 101, 0, 0, 0, 0), ('ptrace seize', 101, 0x4206, 1, 0, 0), ('process_vm_readv', 310, 1, 0, 0, 0, 0, 0),
        ('process_vm_writev', 311, 1, 0, 0, 0, 0, 0), ('mount', 165, 0, 0, 0, 0, 0), ('umount2', 166, 0, 2), ('pivot_root', 155, 0, 0),
        ('chroot', 161, b'/work'), ('unshare user', 272, 0x10000000), ('unshare mount', 272, 0x20000), ('unshare nothing', 272, 0), ('setns', 308, 0, 0),
        ('clone user', 56, 0x10000000 | 17, 0, 0, 0, 0), ('clone net', 56, 0x40000000 | 17, 0, 0, 0, 0), ('clone time', 56, 0x80 | 17, 0, 0, 0, 0),
        ('open_tree', 428, -100, b'/', 1), ('move_mount', 429, -100, b'/', -100, b'/work', 0), ('fsopen', 430, b'tmpfs', 0),
        ('fsconfig', 431, 0, 0, 0, 0, 0), ('fsmount', 432, 0, 0, 0), ('mount_setattr', 442, -100, b'/', 0, 0, 0),
        ('bpf', 321, 0, 0, 0), ('perf_event_open', 298, 0, 0, -1, -1, 0), ('userfaultfd', 323, 0), ('userfaultfd user', 323, 1), ('io_uring_setup', 425, 8, 0),
        ('io_uring_enter', 426, 0, 0, 0, 0, 0, 0), ('io_uring_register', 427, 0, 0, 0, 0), ('keyctl', 250, 0, -3, 0), ('add_key', 248, b'user', b'a', b'b', 1, -3),
        ('request_key', 249, b'user', b'a', 0, -3), ('kexec_load', 246, 0, 0, 0, 0), ('kexec_file_load', 320, 0, 0, 0, 0, 0), ('init_module', 175, 0, 0, b''),
        ('finit_module', 313, 0, b'', 0), ('delete_module', 176, b'x', 0), ('reboot', 169, 0xfee1dead, 672274793, 0, 0), ('swapon', 167, b'/work/x', 0),
        ('syslog', 103, 3, 0, 0), ('settimeofday', 164, 0, 0), ('clock_settime', 227, 0, 0), ('adjtimex', 159, 0), ('sethostname', 170, b'x', 1),
        ('iopl', 172, 3), ('ioperm', 173, 0, 1, 1), ('modify_ldt', 154, 0, 0, 0), ('acct', 163, 0), ('quotactl', 179, 0, 0, 0, 0),
        ('name_to_handle_at', 303, -100, b'/', 0, 0, 0), ('open_by_handle_at', 304, 0, 0, 0), ('kcmp', 312, 1, 1, 0, 0, 0), ('pidfd_getfd', 438, 0, 0, 0),
        ('fanotify_init', 300, 0, 0), ('vmsplice', 278, 1, 0, 0, 0), ('personality no-randomize', 135, 0x40000), ('seccomp', 317, 1, 0, 0), ('memfd_secret', 447, 0),
        ('memfd executable', 319, b'm', 0), ('mbind', 237, 0, 0, 0, 0, 0, 0), ('migrate_pages', 256, 0, 0, 0, 0), ('mknod device', 133, b'/work/d', 0o020600, 0x103),
        ('mknodat block', 259, -100, b'/work/d', 0o060600, 0x100), ('tiocsti', 16, 0, 0x5412, b'x'), ('tioclinux', 16, 0, 0x541c, b'x'),
        ('tiocsti high bits', 16, 0, 0x5412 | 1 << 32, b'x'), ('an unknown call', 999), ('uselib', 134, b'/work/x'), ('process_madvise', 440, 0, 0, 0, 0, 0)]:
    denied(name, lambda: syscall(number, *args), P)
denied('clone3', lambda: syscall(435, 0, 0), errno.ENOSYS)
denied('x32 getpid', lambda: syscall(0x40000000 | 39), P, errno.ENOSYS)
denied('raise the open files', lambda: syscall(160, 7, struct.pack('QQ', 1 << 20, 1 << 20)), P)
denied('become root', lambda: os.setuid(0) or 'root', P)
denied('become another group', lambda: os.setgroups([0]) or 'root', P)
denied('signal init', lambda: os.kill(1, 9), P, errno.ESRCH)
denied('real-time priority', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), P)
denied('lower oom score', lambda: open('/proc/self/oom_score_adj', 'w').write('-1000'))

# Files.
for path in ['/etc/shadow', '/etc/sudoers', '/root/.bashrc', '/run/landlock-probe', '/proc/1/environ', '/proc/1/root/etc/shadow', '/proc/1/mem', '/proc/1/cwd/etc/passwd',
        '/proc/self/mem', '/proc/kallsyms', '/proc/kcore', '/proc/keys', '/proc/cmdline', '/proc/config.gz', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger',
        '/proc/net/tcp', '/sys/kernel/notes', '/sys/fs/cgroup/cgroup.procs', '/dev/kmsg', '/dev/mem', '/dev/vda', '/dev/kvm', '/dev/fuse', '/dev/net/tun', '/dev/tty',
        '/var/run/docker.sock', '/old_root/etc/passwd', 'SECRET', 'SPEC']:
    denied('read ' + path, lambda: open(path, 'rb').read(1) if path != '/proc/self/mem' else open(path, 'r+b'))
for path in ['/escape', '/app/x', '/usr/x', '/usr/bin/python3', '/etc/passwd', '/run/x', '/run/cogward/input.json', '/run/cogward/x', '/dev/x', '/proc/self/comm',
        '/proc/self/uid_map', '/proc/self/setgroups', '/proc/self/attr/current', '/proc/self/fd/0', '/dev/stdin']:
    denied('write ' + path, lambda: open(path, 'wb').write(b'x'))
denied('remove from the package', lambda: os.remove('/app/main.py') or 'removed')
denied('make the package writable', lambda: os.chmod('/app/main.py', 0o777) or 'changed')
denied('hard link of the package', lambda: os.link('/app/main.py', '/work/l') or 'linked')
denied('list the root', lambda: os.listdir('/'))
denied('list the host', lambda: os.listdir('/home'))
os.symlink('/proc/1/root', '/work/out')
denied('through a link', lambda: os.listdir('/work/out/etc'))
with open('/work/sh', 'wb') as f: f.write(open('/usr/bin/true', 'rb').read())
os.chmod('/work/sh', 0o4755)
def execute(path):
    import subprocess
    return subprocess.run([path]).returncode
def execute_loaded(path):
    import subprocess
    if subprocess.run(['/lib64/ld-linux-x86-64.so.2', path], stderr=subprocess.DEVNULL).returncode: raise OSError(P, '')
denied('execute a dropped program', lambda: execute('/work/sh'), A)
denied('execute from shm', lambda: (open('/dev/shm/sh', 'wb').write(open('/usr/bin/true','rb').read()), os.chmod('/dev/shm/sh', 0o755), execute('/dev/shm/sh')), A)
denied('load a dropped program', lambda: execute_loaded('/work/sh'))
import mmap
dropped = open('/work/sh', 'rb')
denied('map dropped code', lambda: mmap.mmap(dropped.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC), P)
def memory_file():
    fd = syscall(319, b'm', 8)
    os.write(fd, open('/usr/bin/true', 'rb').read())
    return os.execve(fd, ['true'], {}) if os.fork() == 0 else os.wait()
pid = os.fork()
if pid == 0:
    try:
        fd = syscall(319, b'm', 8); os.write(fd, open('/usr/bin/true', 'rb').read()); os.execve('/proc/self/fd/%d' % fd, ['true'], {})
    except OSError: os._exit(7)
denied('execute a memory file', lambda: None if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 else (_ for _ in ()).throw(OSError(P, '')), P)
status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines() if ':' in l)
for key, want in [('NoNewPrivs', '1'), ('Seccomp', '2'), ('CapEff', '0' * 16), ('CapBnd', '0' * 16), ('CapPrm', '0' * 16), ('CapAmb', '0' * 16), ('CapInh', '0' * 16)]:
    count += 1
    if status[key].strip() != want: print('ALLOWED', key, status[key])
if os.getuid() != 1000 or os.getgroups(): print('ALLOWED uid', os.getuid(), os.getgroups())
if open('/proc/self/oom_score_adj').read().strip() != '500': print('ALLOWED to outlive the plane in an out-of-memory')
visible = [p for p in os.listdir('/proc') if p.isdigit()]
if visible != [str(os.getpid())]: print('ALLOWED to see processes', visible)
if open('/proc/self/cgroup').read().count('cogward'): print('ALLOWED to see the names of cgroups', open('/proc/self/cgroup').read())
print('attacks', count)
"#;

fn battery() {
    run(async {
        let rig = python("");
        let (secret, spec) = (rig.data.path().join("secret"), rig.spec.run_dir.join("spec.json"));
        let program = BATTERY
            .replace("'SECRET'", &format!("{:?}", secret.to_str().unwrap()))
            .replace("'SPEC'", &format!("{:?}", spec.to_str().unwrap()));
        std::fs::write(rig.data.path().join("code/main.py"), program).unwrap();
        let exit = rig.finished().await;
        let said = rig.log("stdout.log");
        assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Exited), "{said}{}", rig.log("stderr.log"));
        let allowed: Vec<&str> = said.lines().filter(|l| l.starts_with("ALLOWED")).collect();
        let (controls, allowed): (Vec<&str>, Vec<&str>) = allowed.into_iter().partition(|l| l.contains(" control: "));
        assert!(allowed.is_empty(), "{allowed:#?}");
        assert_eq!(controls.len(), 2, "the program does not notice what is allowed");
        let attacks: u32 = said.lines().last().unwrap().strip_prefix("attacks ").unwrap().parse().unwrap();
        assert!(attacks > 150, "{attacks}");
        println!("{attacks} attacks, none allowed");
    });
}

fn nothing_inherited() {
    run(async {
        let mut rig = python(
            "import os, json, subprocess\nprint(json.dumps({'env': dict(os.environ), 'fds': sorted(os.listdir('/proc/self/fd')), \
             'mounts': 'MARK' in open('/proc/self/mountinfo').read(), 'sig': [l for l in open('/proc/self/status') if l.startswith(('SigIgn','SigBlk'))]}))",
        );
        rig.spec.env.push(("LC_ALL".into(), "C".into()));
        let exit = rig.finished().await;
        let said: serde_json::Value = serde_json::from_slice(&exit.output.unwrap()).unwrap();
        let env = said["env"].as_object().unwrap();
        assert_eq!(env.keys().map(String::as_str).collect::<Vec<_>>(), ["HOME", "LC_ALL", "PATH"]);
        // The fourth is the one that lists the directory.
        assert_eq!(said["fds"].as_array().unwrap().len(), 4, "{said}");
        assert_eq!(said["fds"][3], "3");
        // Python itself ignores SIGPIPE and SIGXFSZ.
        assert_eq!(said["sig"][0].as_str().unwrap().split_whitespace().last(), Some("0000000000000000"));
        assert_eq!(said["sig"][1].as_str().unwrap().split_whitespace().last(), Some("0000000001001000"));
    });
}

fn reported() {
    run(async {
        let rig = python(
            "import ctypes, os\nlibc = ctypes.CDLL(None)\nfor _ in range(1000): libc.syscall(165, 0, 0, 0, 0, 0)\n\
             try:\n import socket; socket.socket(38, 5, 0)\nexcept OSError: pass\nlibc.syscall(999)",
        );
        let run = rig.held().await;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        assert_eq!(run.wait().await.code, Some(0));
        let seen = drain(&mut violations);
        let count = |object: &str| seen.iter().filter(|v| v.object == object).map(|v| v.count).sum::<u64>();
        assert_eq!((count("mount"), count("socket"), count("syscall_999")), (1000, 1, 1), "{seen:?}");
        assert!(seen.len() < 100 && seen.iter().all(|v| v.layer == "seccomp" && v.action == "deny"));
    });
}

fn strangers() {
    run(async {
        let program = "import os, socket, sys, time\nopen('/dev/shm/mark', 'w').write('x')\n\
             s = socket.socket(socket.AF_UNIX); s.bind('\\0cogward-test')\n\
             open('/work/mark','w').write('x'); open('/tmp/mark','w').write('x')\n\
             print('up', len([p for p in os.listdir('/proc') if p.isdigit()]), flush=True)\nsys.stdin.close()\ntime.sleep(99)";
        let (one, two) = (python(program), python(program));
        let (first, second) = (one.started().await, two.started().await);
        // The second could neither bind the same name nor would it see one process only, if they shared anything.
        one.until("up 1").await;
        two.until("up 1").await;
        assert_ne!(first.enforcement().uid_base, second.enforcement().uid_base);
        first.kill().await.unwrap();
        assert!(second.suspend().await.is_ok());
        second.kill().await.unwrap();
    });
}
