//! A few of the attacks of the battery that every boundary refuses, and those on what this carrier adds.

use crate::{Carrier, rig::run};

pub const CHECKS: &[crate::Check] =
    &[("nothing_of_the_host_or_of_the_carrier_is_reachable", reachable), ("two_runs_cannot_see_each_other", strangers)];

const REACHABLE: &str = r#"
import ctypes, errno, glob, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
secret = sys.argv[1]
def tried(name, attack):
    try: got = attack()
    except (OSError, ValueError): return
    if got: print('ALLOWED', name, repr(got)[:200])
def call(number, *args):
    if libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) else ctypes.c_long(a) for a in args]) < 0:
        raise OSError(ctypes.get_errno(), '')
    return True
for path in (secret, '/root', '/home', '/var', '/etc/shadow', '/etc/hostname', '/boot', '/dev/sda', '/dev/mem', '/dev/kmsg', '/dev/kvm',
        '/run/.cogward/carrier', '/run/.cogward/carrier/control.sock', '/proc/1/root', '/proc/1/mem', '/proc/kcore'):
    tried('read ' + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(16))
# What a kernel in user space shows of another's process is a name at most: nothing of it opens. The first three are
# the agent's own.
for fd in range(3, 64):
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        tried(f'first process, descriptor {fd}', lambda: os.open(f'/proc/1/fd/{fd}', mode))
def environment():
    return [v for v in open('/proc/1/environ').read().split('\0') if v and v != 'HOME=/']
tried('environment of the first process', environment)
for path in glob.glob('/run/.cogward/*') + ['/run/.cogward/carrier/model.sock', '/run/.cogward/carrier/control.sock']:
    def unix():
        s = socket.socket(socket.AF_UNIX); s.connect(path); return True
    tried('connect ' + path, unix)
def packet():
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
tried('packet', packet)
tried('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
tried('setuid', lambda: os.setuid(0) or True)
tried('kill 1', lambda: os.kill(1, 9) or True)
tried('signal 1', lambda: os.kill(1, 15) or True)
tried('ptrace 1', lambda: call(101, 16, 1, 0, 0))
tried('mount', lambda: call(165, b'none', b'/tmp', b'tmpfs', 0, 0))
tried('mount over root', lambda: call(165, b'/tmp', b'/usr', b'none', 4096, 0))
tried('chroot', lambda: os.chroot('/tmp') or True)
tried('pivot', lambda: call(155, b'/tmp', b'/tmp'))
tried('module', lambda: call(313, 0, b'', 0))
tried('kexec', lambda: call(246, 0, 0, 0, 0))
tried('reboot', lambda: call(169, 0xfee1dead, 672274793, 0x1234567, 0))
tried('hostname', lambda: call(170, b'x', 1))
tried('bpf', lambda: call(321, 0, 0, 0))
tried('mknod', lambda: os.mknod('/work/disk', 0o60666, os.makedev(8, 0)) or open('/work/disk', 'rb').read(1))
tried('open by handle', lambda: call(304, -100, b'\0' * 64, 0))
tried('remount', lambda: call(165, b'none', b'/', b'none', 32, 0))
tried('sysctl', lambda: open('/proc/sys/kernel/core_pattern', 'w').write('|/work/x'))
tried('sysrq', lambda: open('/proc/sysrq-trigger', 'w').write('b'))
tried('cgroup', lambda: glob.glob('/sys/fs/cgroup/*/cgroup.procs'))
print('mark' if 'plane-secret' in open('/proc/self/mountinfo').read() else 'end')
"#;

fn reachable(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(REACHABLE);
        rig.spec.argv.push(rig.data.path().join("secret").to_string_lossy().into_owned());
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stdout.log").as_str()), (Some(0), "end\n"), "{}", rig.log("stderr.log"));
    });
}

fn strangers(carrier: &Carrier) {
    run(async {
        let program = "import os, time\nopen('/dev/shm/mark', 'x').write('x')\nopen('/work/mark','x').write('x'); open('/tmp/mark','x').write('x')\n\
             print('up', os.uname().nodename, flush=True)\ntime.sleep(99)";
        let (one, two) = (carrier.python(program), carrier.python(program));
        let (first, second) = (one.started().await, two.started().await);
        // The second could not make its files anew if the two shared a place.
        one.until("up cogward").await;
        two.until("up cogward").await;
        first.kill().await.unwrap();
        assert!(second.suspend().await.is_ok());
        second.kill().await.unwrap();
    });
}
