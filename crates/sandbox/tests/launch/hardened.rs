//! Profile `hardened`: what ordinary programs do still works, and what it refuses beyond `standard`.

use cogward_model::{manifest::Profile, violation::Severity};
use cogward_sandbox::ExitCause;

use crate::rig::{Rig, drain, python, run};

pub const TESTS: &[crate::Test] = &[
    ("hardened_runs_ordinary_python_without_a_refusal", ordinary),
    ("hardened_runs_shells_and_static_binaries", programs),
    ("hardened_runs_native_modules", native),
    ("hardened_runs_node_without_its_compiler_alone", node),
    ("hardened_refuses_more_than_standard", refused),
    ("hardened_is_what_the_evidence_says", evidence),
];

fn hardened(program: &str) -> Rig {
    let mut rig = python(program);
    rig.spec.profile = Profile::Hardened;
    rig.spec.resources.pids = 64;
    rig
}

const ORDINARY: &str = r#"
import asyncio, concurrent.futures, ctypes, hashlib, json, multiprocessing, os, random, shutil, signal, socket, sqlite3, ssl
import subprocess, tempfile, threading, time, urllib.request, uuid, zlib
assert subprocess.run(['/bin/sh', '-c', 'echo $((6*7)) | cat'], capture_output=True, text=True).stdout == '42\n'
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]
async def main():
    p = await asyncio.create_subprocess_exec('/bin/true'); assert await p.wait() == 0
    await asyncio.sleep(0.01)
asyncio.run(main())
db = sqlite3.connect('/work/x.db'); db.execute('create table t (a)'); db.execute('insert into t values (1)'); db.commit(); db.close()
with tempfile.TemporaryDirectory() as d:
    open(d + '/f', 'w').write('x'); shutil.copy2(d + '/f', '/work/f'); shutil.copytree(d, '/work/tree')
ssl.create_default_context()
a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'
s = socket.create_connection(('127.0.0.1', 28471), 5); s.close()
s = socket.create_connection(('localhost', 3128), 5); s.close()
signal.signal(signal.SIGTERM, lambda *_: None); os.kill(os.getpid(), signal.SIGTERM)
t = threading.Thread(target=time.sleep, args=(0.01,)); t.start(); t.join()
uuid.uuid4(); random.random(); hashlib.sha256(zlib.compress(b'x')); json.dumps({})
print('all of it')
"#;

fn ordinary() {
    run(async {
        let rig = hardened(ORDINARY);
        let run = rig.held().await;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(rig.log("stdout.log"), "all of it\n");
        // What the C library tries by itself when a name is resolved, and does without.
        let seen = drain(&mut violations);
        assert!(seen.iter().all(|v| v.object == "socket:unix" && v.severity() == Severity::Info), "{seen:?}");
    });
}

/// What Python executes beside its own program: modules of C. Code by which C calls Python back is written at run time
/// where libffi has no such code in its own file, as in Debian: then it is refused, with an error that can be handled.
const NATIVE: &str = r#"
import _decimal, _elementtree, array, ctypes, glob, lzma, math, re, sys
maths = ctypes.CDLL((glob.glob('/usr/lib/*/libm.so.6') + glob.glob('/usr/lib*/libm.so.6'))[0])
maths.cos.restype = ctypes.c_double; maths.cos.argtypes = [ctypes.c_double]
assert maths.cos(0.0) == 1.0 and re.compile('(a+)+b').match('aab') and lzma.compress(b'x')
try:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))(lambda a, b: a[0] - b[0])
except MemoryError:
    sys.exit(print('native'))
values = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
ctypes.CDLL(None).qsort(values, 5, 4, compare)
assert list(values) == [1, 2, 3, 4, 5]
print('native')
"#;

fn native() {
    run(async {
        let rig = hardened(NATIVE);
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stdout.log").as_str()), (Some(0), "native\n"), "{}", rig.log("stderr.log"));
    });
}

/// A just-in-time compiler executes what it wrote. The interpreter that stands in its place does not.
fn node() {
    run(async {
        if !std::path::Path::new("/usr/bin/node").exists() {
            println!("skipped: there is no node here");
            return;
        }
        let program = "let s = 0; for (let n = 0; n < 1e6; n++) s += n % 7; require('fs').writeFileSync('/work/output', 'sum ' + s)";
        for (jit, output) in [(false, Some(&b"sum 2999997"[..])), (true, None)] {
            let mut rig = hardened("");
            rig.spec.resources.memory_mib = 512;
            rig.spec.argv = vec!["/usr/bin/node".into()];
            rig.spec.argv.extend((!jit).then(|| "--jitless".into()));
            rig.spec.argv.extend(["-e", program].map(str::to_owned));
            let exit = rig.finished().await;
            assert_eq!(exit.output.as_deref(), output, "{exit:?} {}", rig.log("stderr.log"));
            assert_eq!(exit.code == Some(0), !jit, "{exit:?}");
        }
    });
}

fn programs() {
    run(async {
        for argv in [
            vec!["/bin/sh", "-c", "cd /work && echo x > f && cat f | wc -l && ls -l / > /dev/null || :"],
            vec!["/sbin/ldconfig", "-p"],
        ] {
            let mut rig = hardened("");
            rig.spec.argv = argv.into_iter().map(str::to_owned).collect();
            let exit = rig.finished().await;
            assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Exited), "{}", rig.log("stderr.log"));
        }
    });
}

const REFUSED: &str = r#"
import ctypes, errno, os, shutil, socket
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, attack, number=errno.EPERM):
    try: got = attack()
    except OSError as e:
        if e.errno != number: print('ALLOWED', name, e)
        return
    print('ALLOWED', name, got)
def call(number, *args):
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args]) < 0:
        raise OSError(ctypes.get_errno(), '')
for name, args in {'udp': (2, 2), 'udp6': (10, 2), 'netlink': (16, 3, 0), 'unix': (1, 1), 'unix datagram': (1, 2)}.items():
    refused(name, lambda: socket.socket(*args))
refused('listen', lambda: socket.socket().listen())
refused('bind', lambda: socket.socket().bind(('127.0.0.1', 0)))
for name, number, *args in [('splice', 275, 0, 0, 1, 0, 1, 0), ('shmget', 29, 0, 4096, 0o1600), ('msgget', 68, 0, 0o1600), ('mq_open', 240, 0, 0, 0, 0),
        ('inotify', 294, 0), ('sync', 162), ('capset', 126, 0, 0), ('execveat', 322, -1, 0, 0, 0, 0), ('setuid', 105, 1000), ('prctl set mm', 157, 35, 0, 0, 0, 0),
        ('prctl seccomp', 157, 22, 2, 0, 0, 0), ('another ioctl', 16, 0, 0x4004667f, 0)]:
    refused(name, lambda: call(number, *args))
library = next(p for p in ('/usr/lib/x86_64-linux-gnu/libm.so.6', '/usr/lib64/libm.so.6', '/usr/lib/libm.so.6') if os.path.exists(p))
for place in ('/work', '/tmp', '/dev/shm'):
    shutil.copyfile(library, place + '/lib.so')
    try: print('ALLOWED library from', place, ctypes.CDLL(place + '/lib.so'))
    except OSError as e: assert 'failed to map' in str(e) or 'not permitted' in str(e), e
print('end')
"#;

fn refused() {
    run(async {
        let rig = hardened(REFUSED);
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stdout.log").as_str()), (Some(0), "end\n"), "{}", rig.log("stderr.log"));
        // The same program finds all of it permitted, or refused for another reason, in the other profile.
        let mut rig = hardened(REFUSED);
        rig.spec.profile = Profile::Standard;
        rig.finished().await;
        assert!(
            rig.log("stdout.log").lines().filter(|l| l.starts_with("ALLOWED")).count() > 15,
            "{}",
            rig.log("stdout.log")
        );
    });
}

fn evidence() {
    run(async {
        let run = hardened("").held().await;
        let said = run.enforcement();
        assert_eq!((said.profile, said.landlock_abi), (Profile::Hardened, Some(6)));
        for check in [
            "there are no datagram sockets",
            "a call off the list is refused and reported",
            "no route leaves the sandbox",
        ] {
            assert!(said.self_checks.iter().any(|c| c == check), "{check}: {said:?}");
        }
        run.kill().await.unwrap();
    });
}
