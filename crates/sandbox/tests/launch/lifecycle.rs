//! Start, freeze, end, adopt: from outside.

use std::time::{Duration, Instant};

use cogward_sandbox::{Adopted, ExitCause, adopt, launch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Rig, drain, exe, python, run};

pub const TESTS: &[crate::Test] = &[
    ("a_run_reads_its_input_and_leaves_its_output", input_and_output),
    ("what_ordinary_programs_do_works", ordinary),
    ("node_works", node),
    ("the_agent_does_not_run_before_start", held),
    ("connections_of_the_agent_arrive_at_the_plane", listeners),
    ("a_frozen_agent_does_nothing_until_resumed", freeze),
    ("sigterm_lets_a_cooperative_agent_end_well", terminate),
    ("an_agent_that_ignores_sigterm_is_killed_with_its_whole_tree", stubborn),
    ("kill_ends_daemons_and_reports_an_empty_group", kill),
    ("a_run_outlives_the_plane_and_is_adopted_again", adopted),
    ("a_run_outlives_a_plane_that_is_killed", plane_killed),
    ("what_was_refused_while_no_plane_listened_is_not_lost", buffered),
    ("an_agent_dies_with_its_supervisor_even_when_frozen", supervisor_killed),
    ("a_kill_reaches_an_agent_whose_supervisor_stands_still", supervisor_stopped),
    ("a_run_whose_directory_is_gone_is_not_left_alive", directory_gone),
    ("a_program_that_is_not_there_is_reported", not_executable),
    ("a_launch_that_cannot_be_enforced_is_refused_with_its_reason", refused),
    ("the_last_line_is_the_output_when_there_is_no_file", last_line),
    ("an_output_that_is_a_link_or_a_pipe_is_not_taken", hostile_output),
    ("a_package_in_an_image_root_runs_without_the_host", image),
    ("long_run_directories_work", long_path),
];

fn input_and_output() {
    run(async {
        let rig = python(
            "import sys, json, os\nprint('hello')\nprint(sys.stdin.read(), file=sys.stderr)\n\
             n = json.load(open('/run/cogward/input.json'))['n']\nopen('/work/output','w').write('answer %d' % n)\n\
             open('/dev/stderr','w').write('by name')\nsys.exit(3)",
        );
        let held = rig.held().await;
        let enforcement = held.enforcement().clone();
        assert!(enforcement.self_checks.len() >= 7, "{enforcement:?}");
        held.start().await.unwrap();
        let exit = held.wait().await;
        assert_eq!((exit.code, exit.signal, exit.cause), (Some(3), None, ExitCause::Exited), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"answer 1"[..]));
        assert!(exit.empty && exit.usage.cpu_micros > 0 && exit.usage.memory_peak_bytes > 0);
        assert_eq!(rig.log("stdout.log"), "hello\n");
        assert_eq!(rig.log("stderr.log"), "from stdin\nby name");
        let Adopted::Ended(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert_eq!(again, exit);
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
    });
}

/// Nothing of this may be caught by a rule that is meant for attackers.
const ORDINARY: &str = r#"
import asyncio, getpass, mmap, multiprocessing, os, pathlib, random, shutil, socket, sqlite3, ssl
import subprocess, tempfile, threading, time, uuid, zoneinfo
async def main():
    p = await asyncio.create_subprocess_exec('/bin/sh', '-c', 'echo sub | tr a-z A-Z', stdout=subprocess.PIPE)
    assert (await p.communicate())[0] == b'SUB\n'
    return await asyncio.gather(*[asyncio.to_thread(lambda n=n: n * n) for n in range(8)])
assert sum(asyncio.run(main())) == 140
with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
with tempfile.TemporaryDirectory() as d:
    (pathlib.Path(d) / 'x').write_text('x'); shutil.copytree(d, '/work/copy'); os.rename('/work/copy/x', '/work/copy/y')
db = sqlite3.connect('/work/state.db'); db.execute('pragma journal_mode=wal'); db.execute('create table t(a)'); db.commit()
assert len(ssl.create_default_context().get_ca_certs()) > 50
a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'
m = mmap.mmap(-1, 1 << 20); m[:1] = b'x'
assert getpass.getuser() == 'agent' and os.path.expanduser('~') == '/work' and uuid.uuid4() and random.SystemRandom().random()
assert socket.gethostbyname('localhost') == '127.0.0.1' and socket.gethostname() == 'cogward'
assert subprocess.run(['id', '-un'], capture_output=True, text=True).stdout == 'agent\n'
os.mkfifo('/tmp/fifo'); os.chmod('/work/state.db', 0o600); os.utime('/work/state.db'); time.tzset()
os.symlink('y', '/work/copy/l'); os.link('/work/copy/y', '/work/copy/h'); shutil.rmtree('/work/copy')
open('/dev/stdout', 'w').write('all of it\n')
"#;

fn ordinary() {
    run(async {
        let rig = python(ORDINARY);
        let run = rig.held().await;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(rig.log("stdout.log"), "all of it\n");
        assert_eq!(drain(&mut violations), []);
    });
}

/// An interpreter with a compiler that writes and executes memory, threads of its own and an event loop.
fn node() {
    run(async {
        if !std::path::Path::new("/usr/bin/node").exists() {
            println!("skipped: there is no node here");
            return;
        }
        let mut rig = python("");
        let program = "const fs = require('fs'); let s = 0; for (let n = 0; n < 3e7; n++) s += n % 7; \
             fs.promises.writeFile('/work/output', 'node ' + (s > 0)).then(() => require('child_process').execSync('/bin/true'))\
             .then(() => new (require('worker_threads').Worker)('process.exit(0)', { eval: true }).on('exit', c => console.log('worker', c)))";
        rig.spec.argv = ["/usr/bin/node", "-e", program].map(str::to_owned).to_vec();
        rig.spec.resources.memory_mib = 512;
        let exit = rig.finished().await;
        assert_eq!(
            (exit.code, exit.output.as_deref()),
            (Some(0), Some(&b"node true"[..])),
            "{}",
            rig.log("stderr.log")
        );
        assert_eq!(rig.log("stdout.log"), "worker 0\n");
    });
}

fn held() {
    run(async {
        let rig = python("print('ran')");
        let run = rig.held().await;
        assert!(run.suspend().await.is_err());
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes == 2, "{report:?}");
        let exit = run.wait().await;
        assert_eq!(exit.cause, ExitCause::Killed);
        assert_eq!(rig.log("stdout.log"), "");
    });
}

fn listeners() {
    run(async {
        let rig = python(
            "import socket\nfor port in (28471, 28472, 3128):\n s = socket.create_connection(('127.0.0.1', port))\n \
             s.sendall(b'port %d' % port)\n print(s.recv(99).decode())",
        );
        let run = rig.held().await;
        let taken = run.take_listeners().unwrap();
        assert!(run.take_listeners().is_none());
        run.start().await.unwrap();
        for (listener, port) in [(taken.model, 28471), (taken.mcp, 28472), (taken.proxy, 3128)] {
            let cogward_model::Listener::Tcp(listener) = listener else { panic!() };
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 64];
            let n = stream.read(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..n], format!("port {port}").as_bytes());
            stream.write_all(format!("seen {port}").as_bytes()).await.unwrap();
        }
        assert_eq!(run.wait().await.code, Some(0));
        assert_eq!(rig.log("stdout.log"), "seen 28471\nseen 28472\nseen 3128\n");
    });
}

const TICKER: &str = "import time\nfor n in range(100000):\n print(n, flush=True)\n time.sleep(0.005)";

fn freeze() {
    run(async {
        let rig = python(TICKER);
        let run = rig.started().await;
        rig.until("3\n").await;
        let micros = run.suspend().await.unwrap();
        assert!(micros < 1_000_000);
        // Again, and it is frozen still.
        run.suspend().await.unwrap();
        assert!(run.start().await.is_err());
        // What was in the pipe is read before the two looks.
        run.usage().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = rig.log("stdout.log");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(rig.log("stdout.log"), before);
        run.resume().await.unwrap();
        let next = before.lines().count() + 5;
        rig.until(&format!("\n{next}\n")).await;
        run.suspend().await.unwrap();
        assert!(run.kill().await.unwrap().empty);
        assert_eq!(run.wait().await.cause, ExitCause::Killed);
    });
}

fn terminate() {
    run(async {
        let rig = python(
            "import signal, sys, time\ndef end(*_):\n print('clean')\n sys.exit(0)\n\
             signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(9)",
        );
        let run = rig.started().await;
        rig.until("up").await;
        run.suspend().await.unwrap();
        run.terminate().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Terminated), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"clean"[..]));
    });
}

/// Twelve daemons, each in a session of its own, none of which heeds SIGTERM.
const DAEMONS: &str = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
     for _ in range(12):\n if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n  time.sleep(999)\n\
     time.sleep(0.3)\nprint('up', flush=True)\ntime.sleep(999)";

fn stubborn() {
    run(async {
        let rig = python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let begin = Instant::now();
        run.terminate().await.unwrap();
        let exit = run.wait().await;
        assert!(begin.elapsed() >= rig.spec.grace);
        assert_eq!((exit.code, exit.cause), (None, ExitCause::GraceExpired), "{exit:?}");
        assert!(exit.empty);
    });
}

fn kill() {
    run(async {
        let rig = python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes >= 14, "{report:?}");
        assert!(run.wait().await.empty);
        assert!(run.start().await.is_err() && run.kill().await.is_err());
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
    });
}

fn adopted() {
    run(async {
        let rig = python(TICKER);
        let first = rig.started().await;
        let supervisor = first.supervisor();
        drop(first);
        rig.until("5\n").await;
        for _ in 0..3 {
            let Adopted::Alive(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
            assert_eq!(again.supervisor(), supervisor);
            assert!(again.take_listeners().is_some());
            again.suspend().await.unwrap();
            again.resume().await.unwrap();
        }
        let Adopted::Alive(last) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert!(last.kill().await.unwrap().empty);
        assert_eq!(last.wait().await.cause, ExitCause::Killed);
    });
}

fn plane_killed() {
    run(async {
        let rig = python(TICKER);
        let file = rig.data.path().join("plane.json");
        std::fs::write(&file, serde_json::to_vec(&rig.spec).unwrap()).unwrap();
        let mut plane = std::process::Command::new(exe())
            .arg("plane")
            .arg(&file)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        std::io::Read::read_exact(plane.stdout.as_mut().unwrap(), &mut said).unwrap();
        plane.kill().unwrap();
        plane.wait().unwrap();
        rig.until("20\n").await;
        let Adopted::Alive(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert_eq!(again.phase_at_connect(), cogward_sandbox::protocol::Phase::Running);
        assert!(again.take_listeners().is_some() && again.kill().await.unwrap().empty);
        assert_eq!(again.wait().await.cause, ExitCause::Killed);
    });
}

fn buffered() {
    run(async {
        let rig = python(
            "import ctypes, time\nfor _ in range(3000): ctypes.CDLL(None).syscall(165, 0, 0, 0, 0, 0)\nprint('up', flush=True)\ntime.sleep(99)",
        );
        drop(rig.started().await);
        rig.until("up").await;
        let Adopted::Alive(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        let mut violations = again.violations().unwrap();
        again.kill().await.unwrap();
        again.wait().await;
        let first = drain(&mut violations).iter().filter(|v| v.object == "mount").map(|v| v.count).sum::<u64>();
        // What the first handle had not read before it was dropped went with it.
        assert!(first > 2_000, "{first}");
    });
}

fn supervisor_killed() {
    run(async {
        for frozen in [false, true] {
            let rig = python(DAEMONS);
            let run = rig.started().await;
            rig.until("up").await;
            if frozen {
                run.suspend().await.unwrap();
            }
            let status = std::process::Command::new("/bin/kill").args(["-9", &run.supervisor().to_string()]).status();
            assert!(status.unwrap().success());
            let exit = run.wait().await;
            assert_eq!(exit.cause, ExitCause::SupervisorLost);
            assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new(), "frozen: {frozen}");
            assert!(matches!(adopt(&rig.spec.run_dir).await.unwrap(), Adopted::Lost));
        }
    });
}

fn supervisor_stopped() {
    run(async {
        let rig = python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let status = std::process::Command::new("/bin/kill").args(["-STOP", &run.supervisor().to_string()]).status();
        assert!(status.unwrap().success());
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes > 1, "{report:?}");
        assert_eq!(run.wait().await.cause, ExitCause::SupervisorLost);
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
    });
}

fn directory_gone() {
    run(async {
        let mut rig = python(TICKER);
        rig.spec.run_dir = rig.data.path().join(rig.spec.run.to_string());
        std::fs::create_dir(&rig.spec.run_dir).unwrap();
        let run = rig.started().await;
        rig.until("5\n").await;
        drop(run);
        std::fs::remove_dir_all(&rig.spec.run_dir).unwrap();
        assert!(matches!(adopt(&rig.spec.run_dir).await.unwrap(), Adopted::Lost));
        assert!(!rig.groups_left().iter().any(|group| {
            std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
        }));
    });
}

fn not_executable() {
    run(async {
        let mut rig = python("");
        rig.spec.argv = vec!["no-such-program".into()];
        let exit = rig.finished().await;
        assert_eq!((exit.code, exit.cause), (Some(127), ExitCause::NotExecutable), "{exit:?}");
        assert!(exit.detail.unwrap().contains("No such file"));
        let mut rig = python("print(1)");
        rig.spec.argv = vec!["python3".into(), "main.py".into()];
        assert_eq!(rig.finished().await.code, Some(0));
    });
}

fn refused() {
    run(async {
        let mut rig = python("");
        rig.spec.mounts[0].source = rig.data.path().join("missing");
        let error = launch(&exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
        let Adopted::Ended(exit) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert_eq!(exit.cause, ExitCause::LaunchFailed);

        let mut rig = python("");
        rig.spec.cwd = "/nowhere".into();
        let error = launch(&exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(error.contains("working directory"), "{error}");
        let mut rig = python("");
        rig.spec.resources.pids = 0;
        assert!(launch(&exe(), &rig.spec).await.is_err());
        assert!(!rig.spec.run_dir.join("spec.json").exists());
    });
}

fn last_line() {
    run(async {
        let rig = python("print('first')\nprint('{\"answer\": 42}')\nprint('')");
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"{\"answer\": 42}"[..]));
    });
}

fn hostile_output() {
    run(async {
        for program in [
            "import os\nos.symlink('/etc/shadow', '/work/output')",
            "import os\nos.symlink('/proc/self/environ', '/work/output')",
            "import os\nos.mkfifo('/work/output')",
            "import os\nos.mkdir('/work/output')",
            "open('/work/output','wb').write(b'x' * (1024*1024 + 1))",
        ] {
            let exit = python(program).finished().await;
            assert_eq!((exit.code, &exit.output), (Some(0), &None), "{program}: {exit:?}");
            assert!(exit.output_refused.is_some());
        }
    });
}

/// A root of an interpreter and its libraries only, made from the host's files.
fn image() {
    run(async {
        let mut rig = python("");
        let dir = rig.data.path().join("image");
        copy_with_libraries(&rig, &dir, &["/bin/sh", "/bin/ls"]);
        // An image cannot bring a place of the sandbox with it.
        std::os::unix::fs::symlink("/etc", dir.join("work")).unwrap();
        rig.spec.root = cogward_sandbox::Root::Image { dir };
        rig.spec.argv = ["/bin/sh", "-c", "echo inside; ls /usr/share || echo no host; echo x > /work/output"]
            .map(str::to_owned)
            .to_vec();
        let exit = rig.finished().await;
        assert_eq!(exit.code, Some(0), "{exit:?} {}", rig.log("stderr.log"));
        assert_eq!(rig.log("stdout.log"), "inside\nno host\n");
        assert_eq!(exit.output.as_deref(), Some(&b"x\n"[..]));
    });
}

fn copy_with_libraries(_: &Rig, dir: &std::path::Path, programs: &[&str]) {
    let mut files: Vec<String> = programs.iter().map(|p| (*p).to_owned()).collect();
    for program in programs {
        let listed = std::process::Command::new("/usr/bin/ldd").arg(program).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        files.extend(text.split_whitespace().filter(|w| w.starts_with('/')).map(str::to_owned));
    }
    for file in files {
        let to = dir.join(file.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, &to).unwrap();
    }
}

fn long_path() {
    run(async {
        let mut rig = python("print(1)");
        let deep = rig.data.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        rig.spec.run_dir = deep.clone();
        let run = rig.started().await;
        assert_eq!(run.wait().await.code, Some(0));
        let rig2 = python(TICKER);
        let mut spec = rig2.spec.clone();
        spec.run_dir = deep.join("second");
        std::fs::create_dir(&spec.run_dir).unwrap();
        let run = launch(&exe(), &spec).await.unwrap();
        drop(run);
        let Adopted::Alive(again) = adopt(&spec.run_dir).await.unwrap() else { panic!() };
        again.kill().await.unwrap();
        again.wait().await;
    });
}
