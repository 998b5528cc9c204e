//! Known ways out of containers, each as its advisory or a collection of such tools (CDK, deepce) tells it.

use nix::libc;

use super::{
    ANY,
    Arg::{Answer, Bytes, Text, Word},
    Attack, DENIED, call, calls, hardened, python, refused_with, shell,
};

/// `struct open_how` for reading.
const HOW: &[u8] = &[0; 24];

/// Opens a path of the host by a descriptor that a runtime left open, and by a working directory outside the root.
const LEAKED: &str = "
for n in range(3, 200):
    for to in ('../../../../../../../../etc/shadow', '../../../../../../../../proc/1/environ'):
        try: found(os.open('/proc/self/fd/%d/%s' % (n, to), os.O_RDONLY))
        except OSError: pass
        else: raise SystemExit(0)
raise OSError(errno.EPERM, 'no descriptor leads out')";

/// Overwrites a page of a file that it can only read, through a pipe that still holds the page.
const DIRTY_PIPE: &str = "
path = '/run/cogward/attacks.json'
before = open(path, 'rb').read(64)
read, write = os.pipe()
size = 65536
os.write(write, b'x' * size); os.read(read, size)
fd = os.open(path, os.O_RDONLY)
offset = ctypes.c_longlong(3)
if libc.splice(fd, ctypes.byref(offset), write, None, 1, 0) < 0: raise OSError(ctypes.get_errno(), '')
os.write(write, b'DIRTY')
found(open(path, 'rb').read(64) != before)";

/// Asks the kernel, by netlink, for something that only a network's administrator may; its answer is the error.
macro_rules! netlink {
    ($kind:literal, $body:literal) => {
        concat!(
            "s = socket.socket(16, 3, 0); s.bind((0, 0)); body = ",
            $body,
            "\ns.send(struct.pack('IHHII', 16 + len(body), ",
            $kind,
            ", 0x405, 1, 0) + body)\nerror = struct.unpack('i', s.recv(4096)[16:20])[0]\n\
             if error: raise OSError(-error, '')"
        )
    };
}

/// The attacks.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    // A runtime's own descriptors (CVE-2024-21626) and its own program (CVE-2019-5736).
    python("escape.leaked-descriptor", "leave by a descriptor that was left open", LEAKED, DENIED),
    python("escape.leaked-directory", "leave by a working directory outside of the root", "found(os.getcwd().startswith('(') or os.path.exists('../../../../../../etc/shadow'))", DENIED),
    python("escape.working-directory-of-init", "leave by the working directory of init", "os.chdir('/proc/1/cwd')", ANY),
    refused_with(call("escape.program-of-init", "open the program of init", libc::SYS_openat, &[Word(-100), Text("/proc/1/exe"), Word(0)]), ANY),
    refused_with(call("escape.program-of-itself", "overwrite the program that it runs", libc::SYS_openat, &[Word(-100), Text("/proc/self/exe"), Word(1)]), ANY),
    python("escape.program-of-itself-by-path", "the same, by a descriptor of the path", "fd = os.open('/proc/self/exe', os.O_PATH); os.open('/proc/self/fd/%d' % fd, os.O_WRONLY)", ANY),
    python("escape.program-of-parent", "overwrite the program of its parent", "os.open('/proc/%d/exe' % os.getppid(), os.O_WRONLY | os.O_TRUNC)", ANY),
    // Masked paths and the devices under them (CVE-2025-31133, -52565, -52881; CVE-2026-41579).
    refused_with(call("escape.replace-null", "remove /dev/null, to have it replaced by a link", libc::SYS_unlinkat, &[Word(-100), Text("/dev/null"), Word(0)]), ANY),
    refused_with(call("escape.link-in-dev", "a link in /dev", libc::SYS_symlinkat, &[Text("/proc/sys/kernel/core_pattern"), Word(-100), Text("/dev/console")]), ANY),
    refused_with(call("escape.rename-null", "rename /dev/null", libc::SYS_renameat2, &[Word(-100), Text("/dev/null"), Word(-100), Text("/work/null"), Word(0)]), ANY),
    refused_with(call("escape.exchange-work", "exchange the workspace with another place", libc::SYS_renameat2, &[Word(-100), Text("/work"), Word(-100), Text("/tmp"), Word(2)]), ANY),
    refused_with(call("escape.remove-work", "remove the workspace", libc::SYS_unlinkat, &[Word(-100), Text("/work"), Word(0x200)]), ANY),
    refused_with(call("escape.rename-proc", "rename /proc", libc::SYS_renameat2, &[Word(-100), Text("/proc"), Word(-100), Text("/work/proc"), Word(0)]), ANY),
    // Programs that the kernel executes for the host.
    refused_with(call("escape.core-pattern", "a program that the host executes at a crash", libc::SYS_openat, &[Word(-100), Text("/proc/sys/kernel/core_pattern"), Word(1)]), ANY),
    refused_with(call("escape.modprobe", "the program that loads modules", libc::SYS_openat, &[Word(-100), Text("/proc/sys/kernel/modprobe"), Word(1)]), ANY),
    refused_with(call("escape.uevent-helper", "the program for events of devices", libc::SYS_openat, &[Word(-100), Text("/sys/kernel/uevent_helper"), Word(1)]), ANY),
    refused_with(call("escape.binfmt", "an interpreter for the host's programs", libc::SYS_openat, &[Word(-100), Text("/proc/sys/fs/binfmt_misc/register"), Word(1)]), ANY),
    refused_with(call("escape.hotplug", "the program for plugged devices", libc::SYS_openat, &[Word(-100), Text("/proc/sys/kernel/hotplug"), Word(1)]), ANY),
    refused_with(call("escape.poweroff", "the program that ends the host", libc::SYS_openat, &[Word(-100), Text("/proc/sys/kernel/poweroff_cmd"), Word(1)]), ANY),
    refused_with(call("escape.namespaces-of-users", "more namespaces for users", libc::SYS_openat, &[Word(-100), Text("/proc/sys/user/max_user_namespaces"), Word(1)]), ANY),
    refused_with(call("escape.drop-caches", "drop the caches of the host", libc::SYS_openat, &[Word(-100), Text("/proc/sys/vm/drop_caches"), Word(1)]), ANY),
    python("escape.core-limit", "be one whose crash the host's program is executed for", "import resource; found(resource.getrlimit(resource.RLIMIT_CORE) != (1, 1))", DENIED),
    calls("escape.core-limit-lower", "become one, by a limit that such programs do not heed", &[(libc::SYS_prlimit64, &[Word(0), Word(4), Bytes(&[0; 16]), Word(0)])], DENIED),
    calls("escape.core-limit-high-bits", "the same with bits that the kernel ignores", &[(libc::SYS_prlimit64, &[Word(0), Word(0x1_0000_0004), Bytes(&[0; 16]), Word(0)])], DENIED),
    // Control groups (release_agent, CVE-2022-0492; devices.allow; a mount of one's own).
    calls("escape.mount-cgroup", "mount control groups", &[(libc::SYS_mount, &[Text("cgroup"), Text("/work"), Text("cgroup"), Word(0), Text("memory")])], DENIED),
    calls("escape.mount-cgroup2", "mount control groups, version 2", &[(libc::SYS_mount, &[Text("none"), Text("/work"), Text("cgroup2"), Word(0), Word(0)])], DENIED),
    calls("escape.open-cgroup2", "the same by the newer calls", &[(libc::SYS_fsopen, &[Text("cgroup2"), Word(0)])], DENIED),
    refused_with(call("escape.devices-allow", "permit itself every device", libc::SYS_openat, &[Word(-100), Text("/sys/fs/cgroup/devices/devices.allow"), Word(1)]), ANY),
    refused_with(call("escape.cgroup-kill", "kill by a control group", libc::SYS_openat, &[Word(-100), Text("/sys/fs/cgroup/cgroup.kill"), Word(1)]), ANY),
    python("escape.cgroup-view", "see where its control group is", "found([l for l in open('/proc/self/cgroup') if '/..' in l or l.strip().split(':')[2] != '/'])", DENIED),
    call("escape.unshare-cgroup", "a control group namespace", libc::SYS_unshare, &[Word(0x0200_0000)]),
    // File systems that do the work of an escape.
    calls("escape.mount-overlay", "an overlay (GameOver(lay), CVE-2023-0386)", &[(libc::SYS_mount, &[Text("overlay"), Text("/work"), Text("overlay"), Word(0), Text("lowerdir=/usr,upperdir=/work,workdir=/tmp")])], DENIED),
    calls("escape.mount-bind", "bind the root", &[(libc::SYS_mount, &[Text("/"), Text("/work"), Word(0), Word(0x1000), Word(0)])], DENIED),
    calls("escape.mount-sysfs", "mount sysfs", &[(libc::SYS_mount, &[Text("sysfs"), Text("/work"), Text("sysfs"), Word(0), Word(0)])], DENIED),
    calls("escape.mount-debugfs", "mount debugfs", &[(libc::SYS_mount, &[Text("debugfs"), Text("/work"), Text("debugfs"), Word(0), Word(0)])], DENIED),
    calls("escape.mount-device", "mount a disk", &[(libc::SYS_mount, &[Text("/dev/vda"), Text("/work"), Text("ext4"), Word(0), Word(0)])], DENIED),
    calls("escape.mount-fuse", "a file system of its own", &[(libc::SYS_fsopen, &[Text("fuse"), Word(0)])], DENIED),
    calls("escape.mount-shared", "make its mounts shared with the host", &[(libc::SYS_mount, &[Word(0), Text("/"), Word(0), Word(0x10_4000), Word(0)])], DENIED),
    calls("escape.mount-remount-proc", "make /proc writable", &[(libc::SYS_mount, &[Word(0), Text("/proc"), Word(0), Word(0x20), Word(0)])], DENIED),
    // Handles past every directory (shocker, CDK cap_dac_read_search).
    call("escape.shocker", "open the host's root by its handle", libc::SYS_open_by_handle_at, &[Word(-100), Bytes(&[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Word(0)]),
    calls("escape.shocker-by-work", "the same, from the workspace", &[(libc::SYS_openat, &[Word(-100), Text("/work"), Word(0)]), (libc::SYS_open_by_handle_at, &[Answer(0), Bytes(&[8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Word(0)])], DENIED),
    // Namespaces by descriptors of processes.
    calls("escape.namespaces-of-init", "enter the namespaces of init", &[(libc::SYS_pidfd_open, &[Word(1), Word(0)]), (libc::SYS_setns, &[Answer(0), Word(0x2000_0000)])], DENIED),
    calls("escape.namespace-file", "enter a namespace by its file", &[(libc::SYS_openat, &[Word(-100), Text("/proc/self/ns/user"), Word(0)]), (libc::SYS_setns, &[Answer(0), Word(0)])], DENIED),
    calls("escape.parent-namespace", "the user namespace that its own is in", &[(libc::SYS_openat, &[Word(-100), Text("/proc/self/ns/user"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(0xb702)])], DENIED),
    calls("escape.parent-of-processes", "the process namespace that its own is in", &[(libc::SYS_openat, &[Word(-100), Text("/proc/self/ns/pid"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(0xb702)])], DENIED),
    calls("escape.next-namespace", "the mount namespace beside its own", &[(libc::SYS_openat, &[Word(-100), Text("/proc/self/ns/mnt"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(0x8010_b70b), Bytes(&[0; 16])])], &[libc::EPERM, libc::ENOENT, libc::ENOTTY, libc::EINVAL]),
    refused_with(call("escape.namespace-of-init", "the file of init's namespace", libc::SYS_openat, &[Word(-100), Text("/proc/1/ns/mnt"), Word(0)]), ANY),
    calls("escape.descriptor-of-init", "take a descriptor of init", &[(libc::SYS_pidfd_open, &[Word(1), Word(0)]), (libc::SYS_pidfd_getfd, &[Answer(0), Word(3), Word(0)])], DENIED),
    calls("escape.kill-init", "kill init by its descriptor", &[(libc::SYS_pidfd_open, &[Word(1), Word(0)]), (libc::SYS_pidfd_send_signal, &[Answer(0), Word(9), Word(0), Word(0)])], &[libc::EPERM, libc::ESRCH]),
    calls("escape.advise-init", "advise on memory of init", &[(libc::SYS_pidfd_open, &[Word(1), Word(0)]), (libc::SYS_process_madvise, &[Answer(0), Word(0), Word(0), Word(21), Word(0)])], DENIED),
    refused_with(call("escape.signal-init", "a forged signal to init", libc::SYS_rt_sigqueueinfo, &[Word(1), Word(9), Bytes(&[9, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255])]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("escape.limits-of-init", "change the limits of init", libc::SYS_prlimit64, &[Word(1), Word(7), Bytes(&[0; 16]), Word(0)]), &[libc::EPERM, libc::ESRCH]),
    refused_with(call("escape.processors-of-init", "bind init to a processor", libc::SYS_sched_setaffinity, &[Word(1), Word(8), Bytes(&[1])]), &[libc::EPERM, libc::ESRCH]),
    // Pages of files that it can only read (Dirty Pipe CVE-2022-0847, Copy Fail CVE-2026-31431).
    python("escape.dirty-pipe", "overwrite a file that it can only read, through a pipe", DIRTY_PIPE, DENIED),
    python("escape.copy-fail", "overwrite a file that it can only read, through the kernel's cryptography", "s = socket.socket(38, 5, 0); s.bind(('aead', 'authencesn(hmac(sha256),cbc(aes))'))", DENIED),
    call("escape.copy-fail-high-bits", "such a socket with bits that the kernel ignores", libc::SYS_socket, &[Word(0x1_0000_0026), Word(5), Word(0)]),
    calls("escape.write-lease", "be asked before the host opens a file", &[(libc::SYS_openat, &[Word(-100), Text("/usr/bin/env"), Word(0)]), (libc::SYS_fcntl, &[Answer(0), Word(1024), Word(1)])], &[libc::EACCES, libc::EPERM, libc::EAGAIN]),
    hardened(calls("escape.watch-directory", "be told what the host opens in a directory", &[(libc::SYS_openat, &[Word(-100), Text("/usr/bin"), Word(0)]), (libc::SYS_fcntl, &[Answer(0), Word(1026), Word(1)])], DENIED)),
    calls("escape.freeze-file-system", "stop all writing to a file system", &[(libc::SYS_openat, &[Word(-100), Text("/usr"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(0xc004_5877), Word(0)])], DENIED),
    calls("escape.freeze-work", "stop all writing to the workspace", &[(libc::SYS_openat, &[Word(-100), Text("/work"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(0xc004_5877), Word(0)])], DENIED),
    calls("escape.blocks-of-file", "where a file of the host is on the disk", &[(libc::SYS_openat, &[Word(-100), Text("/usr/bin/env"), Word(0)]), (libc::SYS_ioctl, &[Answer(0), Word(1), Bytes(&[0; 8])])], &[libc::EPERM, libc::ENOTTY]),
    calls("escape.swap-file", "swap to the workspace", &[(libc::SYS_openat, &[Word(-100), Text("/work/swap"), Word(0x42), Word(0o600)]), (libc::SYS_swapon, &[Text("/work/swap"), Word(0)])], DENIED),
    // Beneath and beside the root.
    refused_with(call("escape.openat2-root", "the root of init by the newer call", libc::SYS_openat2, &[Word(-100), Text("/proc/1/root"), Bytes(HOW), Word(24)]), ANY),
    calls("escape.openat2-magic", "its own root by a magic link, and up", &[(libc::SYS_openat, &[Word(-100), Text("/proc/self/root"), Word(0x21_0000)]), (libc::SYS_openat, &[Answer(0), Text("../../../etc/shadow"), Word(0)])], ANY),
    calls("escape.up-from-work", "up from the workspace, step by step", &[(libc::SYS_chdir, &[Text("/work")]), (libc::SYS_chdir, &[Text("..")]), (libc::SYS_chdir, &[Text("..")]), (libc::SYS_openat, &[Word(-100), Text("etc/shadow"), Word(0)])], ANY),
    calls("escape.chroot-twice", "a root within the root, and out of it", &[(libc::SYS_mkdirat, &[Word(-100), Text("/work/jail"), Word(0o700)]), (libc::SYS_chroot, &[Text("/work/jail")])], DENIED),
    // Forged identity, and rules of the network.
    python("escape.forged-credentials", "say that it is another process and root", "a, b = socket.socketpair(); a.sendmsg([b'x'], [(socket.SOL_SOCKET, 2, struct.pack('iII', 1, 0, 0))])", &[libc::EPERM, libc::EINVAL]),
    python("escape.packet-filter", "rules of the packet filter (CVE-2021-22555)", "socket.socket().setsockopt(0, 64, bytes(96))", DENIED),
    python("escape.packet-filter-ipv6", "rules of the packet filter for IPv6", "socket.socket(socket.AF_INET6).setsockopt(41, 64, bytes(96))", DENIED),
    python("escape.repair", "repair a connection", "socket.socket().setsockopt(6, 19, 1)", DENIED),
    python("escape.receive-buffer", "buffers past the limit", "socket.socket().setsockopt(1, 33, 1 << 28)", DENIED),
    python("escape.send-buffer", "buffers for sending past the limit", "socket.socket().setsockopt(1, 32, 1 << 28)", DENIED),
    python("escape.priority", "a priority of packets that is the host's own", "socket.socket().setsockopt(1, 12, 7)", DENIED),
    python("escape.layered-protocol", "a protocol of the kernel over TCP (kTLS)", "socket.socket().setsockopt(6, 31, b'tls')", DENIED),
    python("escape.socket-filter", "a program in the kernel that sees packets", "socket.socket().setsockopt(1, 26, struct.pack('HP', 1, ctypes.addressof(ctypes.create_string_buffer(8))))", DENIED),
    python("escape.socket-program", "a loaded program on a socket", "socket.socket().setsockopt(1, 50, 0)", DENIED),
    python("escape.reuseport-filter", "a program that chooses who is connected to", "socket.socket().setsockopt(1, 51, bytes(16))", DENIED),
    python("escape.reuseport-program", "a loaded program that chooses who is connected to", "socket.socket().setsockopt(1, 52, 0)", DENIED),
    hardened(python("escape.urgent-pair", "urgent data on a pair (CVE-2025-38236)", "a, b = socket.socketpair(); a.send(b'x', socket.MSG_OOB)", DENIED)),
    hardened(python("escape.urgent-message", "the same as a message", "a, b = socket.socketpair(); a.sendmsg([b'x'], [], socket.MSG_OOB)", DENIED)),
    hardened(python("escape.urgent-receive", "receive urgent data", "a, b = socket.socketpair(); b.setblocking(False); b.recv(1, socket.MSG_OOB)", DENIED)),
    hardened(python("escape.urgent-receive-message", "receive urgent data as a message", "a, b = socket.socketpair(); b.setblocking(False); b.recvmsg(1, 0, socket.MSG_OOB)", DENIED)),
    python("escape.netlink-address", "an address for an interface", netlink!(20, "struct.pack('BBBBIHH4B', 2, 8, 0, 0, 1, 8, 2, 10, 9, 8, 7)"), DENIED),
    python("escape.netlink-route", "a route", netlink!(24, "struct.pack('BBBBBBBBIHHI', 2, 0, 0, 0, 254, 3, 0, 1, 0, 8, 4, 1)"), DENIED),
    python("escape.netlink-interface", "an interface", netlink!(16, "bytes(16) + struct.pack('HH8sHHHH5sxxx', 12, 3, b'escape', 16, 18, 9, 1, b'dummy')"), DENIED),
    python("escape.netlink-queue", "a queue of packets (CVE-2023-4623 and its like)", netlink!(36, "struct.pack('BxHiIII', 0, 0, 1, 0x10000, 0xffffffff, 0)"), DENIED),
    python("escape.netlink-filter", "a filter of packets (CVE-2022-2588)", netlink!(44, "struct.pack('BxHiIII', 0, 0, 1, 0, 0xffff0000, 0)"), DENIED),
];

/// What a collection of such tools asks for at a prompt.
#[rustfmt::skip]
pub const AT_A_PROMPT: &[Attack] = &[
    shell("escape.docker-socket", "the sockets of container daemons", "ls /var/run/docker.sock /run/containerd/containerd.sock /run/crio/crio.sock /run/podman/podman.sock 2>/dev/null | grep -q ."),
    shell("escape.service-account", "the account of a pod", "cat /var/run/secrets/kubernetes.io/serviceaccount/token /run/secrets/kubernetes.io/serviceaccount/token"),
    shell("escape.cloud-credentials", "credentials of a cloud", "cd /root && cat .aws/credentials .config/gcloud/credentials.db .azure/accessTokens.json .kube/config 2>/dev/null | grep -q ."),
    shell("escape.other-users", "keys and histories of users", "for d in /root $(cd /home && ls -d $PWD/*); do cat $d/.ssh/* $d/.bash_history; done 2>/dev/null | grep -q ."),
    shell("escape.set-uid-programs", "programs that run as another", "find / -xdev -perm -4000 -type f -exec sh -c 'test \"$(id -u)\" = 0' \\; -print 2>/dev/null | grep -q ."),
    shell("escape.writable-root", "a place of the root that can be written to", "for d in / /app /etc /usr /usr/bin /usr/lib /dev /run /run/cogward /proc; do (: > \"$d/.escape\") 2>/dev/null && exit 0; done; exit 1"),
    shell("escape.host-interfaces", "an interface of the host", "test \"$(grep -c : /proc/self/net/dev)\" -gt 1"),
    shell("escape.host-connections", "a connection of the host", "test \"$(grep -vc local_address /proc/self/net/tcp)\" -gt 8"),
    shell("escape.host-name", "the name of the host", "test \"$(uname -n)\" != cogward"),
    shell("escape.release-agent-mount", "the classic: a control group with a program", "mkdir /work/cg && mount -t cgroup -o rdma cgroup /work/cg && echo 1 > /work/cg/notify_on_release"),
    shell("escape.user-namespace-root", "root in a namespace of its own, to mount", "unshare -UrmCpf --mount-proc true"),
    shell("escape.loader-preload", "a library of its own in a program of the root", "cp /usr/lib/*/libm.so.6 /work/pre.so 2>/dev/null || cp /usr/lib64/libm.so.6 /work/pre.so; LD_PRELOAD=/work/pre.so /usr/bin/env cat /proc/self/maps | grep -q 'r-xp.*pre.so'"),
];
