//! Memory: code that was written as data, and what else of memory is the kernel's or another's.

use nix::libc;

use super::{
    ACCESS, ANY,
    Arg::{Answer, Text, Word},
    Attack, DENIED, call, calls, hardened, python, refused_with,
};

/// The attacks.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    hardened(refused_with(call("memory.writable-and-executable", "memory that is written and executed", libc::SYS_mmap, &[Word(0), Word(4096), Word(7), Word(0x22), Word(-1), Word(0)]), ACCESS)),
    hardened(refused_with(call("memory.writable-and-executable-shared", "shared memory that is written and executed", libc::SYS_mmap, &[Word(0), Word(4096), Word(7), Word(0x21), Word(-1), Word(0)]), ACCESS)),
    hardened(refused_with(call("memory.writable-and-executable-low", "the same below 2 GiB", libc::SYS_mmap, &[Word(0), Word(4096), Word(6), Word(0x62), Word(-1), Word(0)]), ACCESS)),
    hardened(calls("memory.execute-after-writing", "execute what was written", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x22), Word(-1), Word(0)]), (libc::SYS_mprotect, &[Answer(0), Word(4096), Word(5)])], ACCESS)),
    hardened(calls("memory.execute-after-writing-shared", "execute shared memory that was written", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x21), Word(-1), Word(0)]), (libc::SYS_mprotect, &[Answer(0), Word(4096), Word(5)])], ACCESS)),
    hardened(calls("memory.execute-reserved", "execute memory that was only reserved", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(0), Word(0x22), Word(-1), Word(0)]), (libc::SYS_mprotect, &[Answer(0), Word(4096), Word(4)])], ACCESS)),
    hardened(calls("memory.execute-everything", "make writable memory executable as well", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x22), Word(-1), Word(0)]), (libc::SYS_mprotect, &[Answer(0), Word(4096), Word(7)])], ACCESS)),
    hardened(calls("memory.execute-moved", "execute written memory that was moved", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x22), Word(-1), Word(0)]), (libc::SYS_mremap, &[Answer(0), Word(4096), Word(8192), Word(1), Word(0)]), (libc::SYS_mprotect, &[Answer(1), Word(4096), Word(5)])], ACCESS)),
    hardened(calls("memory.execute-by-key", "the same by a protection key", &[(libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x22), Word(-1), Word(0)]), (libc::SYS_pkey_mprotect, &[Answer(0), Word(4096), Word(5), Word(-1)])], DENIED)),
    hardened(calls("memory.execute-file", "execute a memory file that was mapped", &[(libc::SYS_memfd_create, &[Text("m"), Word(8)]), (libc::SYS_ftruncate, &[Answer(0), Word(4096)]), (libc::SYS_mmap, &[Word(0), Word(4096), Word(5), Word(2), Answer(0), Word(0)])], DENIED)),
    hardened(calls("memory.execute-file-twice-mapped", "write a memory file by one mapping and execute it by another", &[(libc::SYS_memfd_create, &[Text("m"), Word(8)]), (libc::SYS_ftruncate, &[Answer(0), Word(4096)]), (libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(1), Answer(0), Word(0)]), (libc::SYS_mmap, &[Word(0), Word(4096), Word(5), Word(1), Answer(0), Word(0)])], DENIED)),
    hardened(calls("memory.execute-segment", "execute a segment of shared memory", &[(libc::SYS_shmget, &[Word(0), Word(4096), Word(0o1700)]), (libc::SYS_shmat, &[Answer(0), Word(0), Word(0x8000)])], DENIED)),
    hardened(call("memory.undo", "take the protection of memory back", libc::SYS_prctl, &[Word(65), Word(0), Word(0), Word(0), Word(0)])),
    hardened(python("memory.python-mmap", "memory of Python that is executed", "import mmap; mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)", ACCESS)),
    hardened(python("memory.python-protect", "machine code in an array of Python", "b = ctypes.create_string_buffer(12288); a = (ctypes.addressof(b) + 4095) & ~4095\nb[a - ctypes.addressof(b)] = b'\\xc3'\nif libc.mprotect(ctypes.c_void_p(a), 4096, 7) == 0: ctypes.CFUNCTYPE(None)(a)()\nelse: raise OSError(ctypes.get_errno(), '')", ACCESS)),
    hardened(python("memory.python-stack", "execute its own stack", "lines = [l.split()[0] for l in open('/proc/self/maps') if '[stack]' in l]; low, high = (int(n, 16) for n in lines[0].split('-'))\nif libc.mprotect(ctypes.c_void_p(high - 4096), 4096, 7): raise OSError(ctypes.get_errno(), '')", ACCESS)),
    hardened(python("memory.python-heap", "execute its own heap", "lines = [l.split()[0] for l in open('/proc/self/maps') if '[heap]' in l]; low, high = (int(n, 16) for n in lines[0].split('-'))\nif libc.mprotect(ctypes.c_void_p(low), 4096, 7): raise OSError(ctypes.get_errno(), '')", ACCESS)),
    hardened(python("memory.library-memory-file", "load a library from a memory file", "import glob\nfd = os.memfd_create('m', 8); os.write(fd, open((glob.glob('/usr/lib/*/libm.so.6') + glob.glob('/usr/lib*/libm.so.6'))[0], 'rb').read()); ctypes.CDLL('/proc/self/fd/%d' % fd)", DENIED)),
    hardened(python("memory.loader-memory-file", "have the loader execute a memory file", "import glob\nfd = os.memfd_create('m', 8); os.write(fd, open('/usr/bin/true', 'rb').read()); os.set_inheritable(fd, True)\nl = (glob.glob('/lib64/ld-linux-x86-64.so.2') + glob.glob('/lib/ld-linux-aarch64.so.1'))[0]; os.execv(l, [l, '/proc/self/fd/%d' % fd])", DENIED)),
    python("memory.own-code", "overwrite its own code through /proc", "open('/proc/self/mem', 'r+b')", ACCESS),
    python("memory.own-mappings", "open a mapping as a file", "os.open('/proc/self/map_files/' + os.listdir('/proc/self/map_files')[0], os.O_RDWR)", ANY),
    python("memory.physical", "find where its memory is in the machine", "b = ctypes.create_string_buffer(b'x'); f = open('/proc/self/pagemap', 'rb'); f.seek(ctypes.addressof(b) // 4096 * 8); found(int.from_bytes(f.read(8), 'little') & ((1 << 55) - 1))", DENIED),
    call("memory.executable-by-reading", "make all readable memory executable", libc::SYS_personality, &[Word(0x40_0000)]),
    call("memory.compatible-layout", "a layout of memory that can be foretold", libc::SYS_personality, &[Word(0x20_0000)]),
    call("memory.personality-high-bits", "leave address randomisation with bits that the kernel ignores", libc::SYS_personality, &[Word(0x1_0004_0000)]),
    refused_with(call("memory.null-page", "the page that the kernel's null pointers point to", libc::SYS_mmap, &[Word(0), Word(4096), Word(3), Word(0x32), Word(-1), Word(0)]), &[libc::EPERM, libc::EACCES]),
    calls("memory.lock", "lock more memory than it may", &[(libc::SYS_mmap, &[Word(0), Word(8 << 20), Word(3), Word(0x22), Word(-1), Word(0)]), (libc::SYS_mlock, &[Answer(0), Word(8 << 20)])], &[libc::ENOMEM, libc::EAGAIN, libc::EPERM]),
    refused_with(call("memory.huge-pages", "reserve huge pages of the host", libc::SYS_mmap, &[Word(0), Word(2 << 20), Word(3), Word(0x40022), Word(-1), Word(0)]), &[libc::ENOMEM, libc::EPERM, libc::EINVAL]),
];
