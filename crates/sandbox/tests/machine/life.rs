//! The life of a machine, from its drives to its end.

use std::{
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use cogward_model::Listener;
use cogward_sandbox::{
    Adopted, ExitCause, adopt,
    storage::{InputMount, Storage},
};

use crate::{
    rig::{Rig, run},
    world::{WELL, devices_left, machine},
};

pub const TESTS: &[crate::Test] = &[
    ("a_machine_runs_its_agent_to_its_end", whole),
    ("connections_of_a_machine_arrive_at_their_door", doors),
    ("a_machine_shows_its_agent_nothing_but_its_drives", inside),
    ("a_machine_is_given_its_inputs_and_begins_with_its_workspace", given),
    ("a_workspace_of_a_machine_has_its_quota", quota),
    ("what_an_agent_prints_is_there_before_its_end", streams),
    ("an_agent_of_a_machine_is_asked_to_end", terminate),
    ("a_suspended_machine_does_nothing_until_resumed", suspend),
    ("a_killed_machine_leaves_nothing", kill),
    ("a_machine_dies_with_its_supervisor", supervisor_killed),
    ("a_machine_outlives_its_plane", adopted),
    ("a_program_that_is_not_in_the_machine_is_reported", not_executable),
    ("an_output_that_is_a_link_is_not_taken_from_a_machine", hostile_output),
];

/// What must be so after every end.
pub fn nothing_left(rig: &Rig) {
    assert_eq!(rig.groups_left(), Vec::<PathBuf>::new());
    assert!(!rig.spec.run_dir.join("jail").exists());
    // The devices go with the last process that used them.
    for _ in 0..400 {
        if devices_left(&rig.spec.run_dir).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{:?}", devices_left(&rig.spec.run_dir));
}

fn whole() {
    run(async {
        let rig = machine(
            "import sys, json, os\nprint('hello')\nprint(sys.stdin.read(), file=sys.stderr)\n\
             n = json.load(open('/run/cogward/input.json'))['n']\nopen('/work/output','w').write('answer %d' % n)\n\
             open('/dev/stderr','w').write('by name')\nsys.exit(3)",
            WELL,
        );
        let held = rig.held().await;
        let enforcement = held.enforcement().clone();
        assert!(enforcement.self_checks.len() >= 7, "{enforcement:?}");
        assert_eq!(enforcement.driver, "firecracker");
        assert_eq!(enforcement.runtime.as_ref().unwrap().version, "1.16.0");
        held.start().await.unwrap();
        let exit = held.wait().await;
        assert_eq!((exit.code, exit.signal, exit.cause), (Some(3), None, ExitCause::Exited), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"answer 1"[..]));
        assert!(exit.empty && exit.usage.memory_peak_bytes > 0);
        assert_eq!(rig.log("stdout.log"), "hello\n");
        assert_eq!(rig.log("stderr.log"), "from stdin\nby name");
        nothing_left(&rig);
    });
}

fn doors() {
    run(async {
        let program = r#"
import socket, time
for port in (28471, 28472, 3128):
    with socket.create_connection(('127.0.0.1', port)) as s:
        s.sendall(b'port %d' % port); print(s.recv(99).decode())
# One that sends no more and waits, and one that is given up.
with socket.create_connection(('127.0.0.1', 28471)) as s:
    s.sendall(b'half'); s.shutdown(socket.SHUT_WR); print(s.recv(99).decode())
with socket.create_connection(('127.0.0.1', 28471)) as s: s.sendall(b'gone')
for address in (('127.0.0.1', 28470), ('192.0.2.1', 28471)):
    try: socket.create_connection(address, 1)
    except OSError as e: print(e.errno)
print('done', flush=True)
while True: time.sleep(1)
"#;
        let rig = machine(program, WELL);
        let run = rig.held().await;
        let taken = run.take_listeners().unwrap();
        let plane = std::thread::spawn(move || {
            let [model, mcp, proxy] = [taken.model, taken.mcp, taken.proxy].map(|listener| {
                let Listener::Unix(listener) = listener else { panic!() };
                listener.set_nonblocking(false).unwrap();
                listener
            });
            for (listener, expected) in [
                (&model, "port 28471"),
                (&mcp, "port 28472"),
                (&proxy, "port 3128"),
                (&model, "half"),
                (&model, "gone"),
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut said = vec![0; expected.len()];
                stream.read_exact(&mut said).unwrap();
                assert_eq!(said, expected.as_bytes());
                if expected == "gone" {
                    // The end is heard of, although the agent lives on.
                    assert_eq!(stream.read(&mut said).unwrap(), 0);
                } else {
                    stream.write_all(format!("heard {expected}").as_bytes()).unwrap();
                }
            }
        });
        run.start().await.unwrap();
        rig.until("done").await;
        tokio::task::spawn_blocking(move || plane.join().unwrap()).await.unwrap();
        let expected = "heard port 28471\nheard port 28472\nheard port 3128\nheard half\n111\n101\ndone\n";
        assert_eq!(rig.log("stdout.log"), expected);
        assert!(run.kill().await.unwrap().empty);
    });
}

fn inside() {
    run(async {
        let program = r#"
import os, socket
def refused(deed):
    try: deed()
    except OSError: return True
    return False
assert sorted(os.listdir('/')) == ['app', 'bin', 'dev', 'etc', 'lib', 'lib64', 'proc', 'run', 'sbin', 'tmp', 'usr', 'work'], os.listdir('/')
assert sorted(os.listdir('/dev')) == ['fd', 'full', 'null', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'urandom', 'zero'], os.listdir('/dev')
assert os.listdir('/run') == ['cogward'] and os.listdir('/run/cogward') == ['input.json']
assert os.getresuid() == (1000, 1000, 1000) and os.getresgid() == (1000, 1000, 1000) and os.getgroups() == []
assert socket.gethostname() == 'cogward' and os.getcwd() == '/app' and os.listdir('/work') == []
assert [p for p in os.listdir('/proc') if p.isdigit()] == [str(os.getpid())]
for path in ('/x', '/app/x', '/usr/x', '/dev/x', '/run/x', '/run/cogward/x', '/etc/passwd'):
    assert refused(lambda: open(path, 'w')), path
for path in ('/work/x', '/tmp/x', '/dev/shm/x'):
    open(path, 'w').write('#!/bin/sh\n'); os.chmod(path, 0o755)
    assert refused(lambda: os.execv(path, [path])), path
assert refused(lambda: os.mknod('/work/null', 0o020666, os.makedev(1, 3)))
assert refused(lambda: os.chroot('/work')) and refused(lambda: os.setuid(0)) and refused(lambda: os.kill(1, 9))
assert refused(lambda: open('/proc/1/mem')) and refused(lambda: open('/vsock'))
mounts = [line.split() for line in open('/proc/self/mounts')]
assert all('nosuid' in m[3] for m in mounts), mounts
print('all of it')
"#;
        let rig = machine(program, WELL);
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(rig.log("stdout.log"), "all of it\n");
    });
}

fn given() {
    run(async {
        let program = r#"
import os
def refused(path):
    try: open(path, 'a')
    except OSError: return True
    return False
assert sorted(os.listdir('/inputs')) == ['book', 'folder'], os.listdir('/inputs')
assert open('/inputs/book').read() == 'a book' and open('/inputs/folder/page').read() == 'a page'
assert refused('/inputs/book') and refused('/inputs/folder/page') and refused('/inputs/new') and refused('/inputs/folder/new')
assert open('/work/notes/first').read() == 'noted' and os.stat('/work/notes').st_uid == 1000
open('/work/notes/second', 'w').write('x'); os.unlink('/work/notes/first')
options = {m[1]: m[3] for m in map(str.split, open('/proc/self/mounts'))}
assert all('noexec' in options[at] for at in ('/inputs', '/inputs/folder', '/work')), options
print('all of it')
"#;
        let mut rig = machine(program, WELL);
        let at = |name: &str| rig.data.path().join(name);
        for (name, text) in [("book", "a book"), ("folder/page", "a page"), ("template/notes/first", "noted")] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), text).unwrap();
        }
        let input = |name: &str| InputMount { name: name.parse().unwrap(), source: at(name) };
        let storage =
            Storage { inputs: vec![input("book"), input("folder")], from: Some(at("template")), ..Storage::default() };
        rig.spec.storage = storage;
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(rig.log("stdout.log"), "all of it\n");
        nothing_left(&rig);
    });
}

fn quota() {
    run(async {
        let program = "import errno, os\nn = 0\ntry:\n while True:\n  open(f'/work/{n}', 'wb').write(b'x' * (1 << 20)); n += 1\n\
                       except OSError as e: print(e.errno == errno.ENOSPC, 8 <= n <= 12)\n\
                       for f in os.listdir('/work'): os.unlink('/work/' + f)\n\
                       try:\n for n in range(10000): open(f'/work/{n}', 'w')\n\
                       except OSError as e: print(e.errno == errno.ENOSPC, n <= 4096)\n\
                       children = 0\ntry:\n while True:\n  if os.fork() == 0: os.execv('/usr/bin/sleep', ['sleep', '1000'])\n  children += 1\n\
                       except OSError as e: print(e.errno == errno.EAGAIN, children < 32)";
        let mut rig = machine(program, WELL);
        rig.spec.resources.open_files = 64;
        let exit = rig.finished().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(rig.log("stdout.log"), "True True\nTrue True\nTrue True\n");
        assert!(exit.empty);
        nothing_left(&rig);
    });
}

fn streams() {
    run(async {
        let program = "import os\nfor n in range(400): os.write(1, b'x' * 4095 + b'\\n')\nos.write(1, b'last\\n')";
        let rig = machine(program, "{\"babble\": 300000}");
        let exit = rig.finished().await;
        assert_eq!((exit.code, exit.usage.stdout_bytes), (Some(0), 400 * 4096 + 5), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"last"[..]));
    });
}

fn terminate() {
    run(async {
        let program = "import signal, sys, time\ndef end(*_):\n open('/work/output','w').write('cleaned'); sys.exit(0)\n\
                       signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(1)";
        let mut rig = machine(program, WELL);
        rig.spec.grace = Duration::from_secs(20);
        let run = rig.started().await;
        rig.until("up").await;
        run.terminate().await.unwrap();
        let exit = run.wait().await;
        assert_eq!(
            (exit.code, exit.cause, exit.output.as_deref()),
            (Some(0), ExitCause::Terminated, Some(&b"cleaned"[..]))
        );

        let stubborn = machine(
            "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(1000)",
            WELL,
        );
        let run = stubborn.started().await;
        stubborn.until("up").await;
        // Suspended, it must still hear of it.
        run.suspend().await.unwrap();
        run.terminate().await.unwrap();
        let exit = run.wait().await;
        assert_eq!(exit.cause, ExitCause::GraceExpired);
        nothing_left(&stubborn);
    });
}

fn suspend() {
    run(async {
        let rig = machine("import time\nn = 0\nwhile True:\n n += 1; print(n, flush=True); time.sleep(0.01)", WELL);
        let run = rig.started().await;
        rig.until("\n").await;
        run.suspend().await.unwrap();
        let settled = || async {
            // What was on its way when it stopped arrives first.
            tokio::time::sleep(Duration::from_millis(200)).await;
            rig.log("stdout.log").len()
        };
        // Again, and it is frozen still.
        run.suspend().await.unwrap();
        let before = settled().await;
        assert_eq!(settled().await, before);
        run.resume().await.unwrap();
        for _ in 0..1000 {
            if rig.log("stdout.log").len() > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(rig.log("stdout.log").len() > before);
        assert!(run.kill().await.unwrap().empty);
    });
}

fn kill() {
    run(async {
        let program = "import os, signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n\
                       for _ in range(5):\n if os.fork() == 0: os.setsid(); time.sleep(1000)\nprint('up', flush=True)\ntime.sleep(1000)";
        let rig = machine(program, WELL);
        let run = rig.started().await;
        rig.until("up").await;
        let report = run.kill().await.unwrap();
        // In a real machine those of the agent are not the host's.
        assert!(report.empty && report.processes >= 2, "{report:?}");
        assert_eq!(run.wait().await.cause, ExitCause::Killed);
        nothing_left(&rig);
    });
}

fn supervisor_killed() {
    run(async {
        for frozen in [false, true] {
            let rig = machine("import time\nprint('up', flush=True)\ntime.sleep(1000)", WELL);
            let run = rig.started().await;
            rig.until("up").await;
            if frozen {
                run.suspend().await.unwrap();
            }
            let pid = rustix::process::Pid::from_raw(i32::try_from(run.supervisor()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            run.wait().await;
            // Whether by the death of its keeper or by the sweep of the next plane: nothing is left alive.
            assert!(matches!(adopt(&rig.spec.run_dir).await.unwrap(), Adopted::Lost));
            assert_eq!(rig.groups_left(), Vec::<PathBuf>::new());
        }
    });
}

fn adopted() {
    run(async {
        let rig = machine(
            "import time, os\nprint('up', flush=True)\nwhile not os.path.exists('/work/go'): time.sleep(0.01)",
            WELL,
        );
        let run = rig.started().await;
        rig.until("up").await;
        drop(run);
        let Adopted::Alive(run) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert!(run.take_listeners().is_some());
        run.terminate().await.unwrap();
        assert_eq!(run.wait().await.signal, Some(15));
    });
}

fn not_executable() {
    run(async {
        let mut rig = machine("", WELL);
        rig.spec.argv = vec!["/usr/bin/no-such-program".into()];
        let exit = rig.finished().await;
        assert_eq!((exit.cause, exit.code), (ExitCause::NotExecutable, Some(127)), "{exit:?}");
    });
}

fn hostile_output() {
    run(async {
        for made in [
            "os.symlink('/etc/passwd', '/work/output')",
            "os.mkfifo('/work/output')",
            "os.mkdir('/work/output')",
            "open('/work/output', 'wb').truncate(1 << 21)",
        ] {
            let rig = machine(&format!("import os\n{made}\nprint('line')"), WELL);
            let exit = rig.finished().await;
            assert_eq!((exit.code, exit.output.as_deref()), (Some(0), Some(&b"line"[..])), "{made}: {exit:?}");
            assert!(exit.detail.unwrap().contains("was not taken"), "{made}");
        }
    });
}
