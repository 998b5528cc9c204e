//! Limits that are reached, and floods.

use std::time::Duration;

use cogward_model::limits::RUN_LOG_BYTES_MAX;
use cogward_sandbox::ExitCause;

use crate::rig::{drain, python, run};

pub const TESTS: &[crate::Test] = &[
    ("the_workspace_stops_at_its_size", workspace),
    ("a_fork_bomb_stops_at_its_limit_and_is_reported", fork_bomb),
    ("a_thread_bomb_stops_at_its_limit", thread_bomb),
    ("running_out_of_memory_is_reported", out_of_memory),
    ("filling_the_workspace_with_inodes_stops", inodes),
    ("a_flood_on_stdout_is_bounded_and_commands_still_work", flood),
    ("what_waits_in_sockets_is_bounded", sockets),
    ("an_agent_without_a_plane_ends_when_its_time_is_over", wall_clock),
    ("open_files_and_core_dumps_are_bounded", descriptors),
    ("an_agent_cannot_use_more_processor_than_its_share", processor),
    ("a_flood_of_refused_calls_does_not_hold_up_a_kill", refusals),
    ("an_agent_reads_from_disk_no_faster_than_its_limit_and_it_is_counted", reading),
    ("a_limit_that_the_host_cannot_set_is_no_launch", writing),
];

fn workspace() {
    run(async {
        let rig = python(
            "import os\nwritten = 0\nn = 0\ntry:\n while True:\n  with open('/work/f%d' % n, 'wb', 0) as f:\n   for _ in range(16): written += f.write(b'x' * 65536)\n  n += 1\n\
             except OSError as e: print(e.errno, written)",
        );
        let exit = rig.finished().await;
        let said = String::from_utf8(exit.output.unwrap()).unwrap();
        let (errno, written) = said.split_once(' ').unwrap();
        let written: u64 = written.parse().unwrap();
        assert_eq!(errno, "28");
        assert!((7 << 20..=8 << 20).contains(&written), "{written}");
    });
}

fn inodes() {
    run(async {
        let rig = python(
            "n = 0\ntry:\n while True: open('/work/%d' % n, 'w').close(); n += 1\nexcept OSError as e: print(e.errno, n < 5000)",
        );
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"28 True"[..]));
    });
}

fn fork_bomb() {
    run(async {
        let rig = python(
            "import os, time\nmade = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(99)\n  made += 1\nexcept OSError as e: print('stopped', made, e.errno, flush=True)\ntime.sleep(99)",
        );
        let run = rig.held().await;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        rig.until("stopped 31 11").await;
        let reported = tokio::time::timeout(Duration::from_secs(5), violations.recv()).await.unwrap().unwrap();
        assert_eq!((reported.layer.as_str(), reported.object.as_str()), ("cgroup", "pids"), "{reported:?}");
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes == 33, "{report:?}");
    });
}

fn thread_bomb() {
    run(async {
        let rig = python(
            "import threading, time\nn = 0\ntry:\n while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start(); n += 1\nexcept RuntimeError: print('stopped', n, flush=True)\nimport os; os._exit(0)",
        );
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"stopped 31"[..]));
    });
}

fn out_of_memory() {
    run(async {
        let mut rig = python(
            "print('up', flush=True)\nx = bytearray(400 << 20)\nfor n in range(0, len(x), 4096): x[n] = 1\nprint('survived')",
        );
        rig.spec.resources.memory_mib = 64;
        let run = rig.held().await;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, exit.signal, exit.cause), (None, Some(9), ExitCause::OutOfMemory), "{exit:?}");
        assert!(exit.usage.memory_peak_bytes <= 64 << 20 && exit.usage.memory_peak_bytes > 32 << 20);
        assert!(drain(&mut violations).iter().any(|v| v.object == "memory" && v.action == "kill"));
    });
}

fn flood() {
    run(async {
        let rig = python("import os\nb = b'x' * 65535 + b'\\n'\nwhile True: os.write(1, b); os.write(2, b)");
        let run = rig.started().await;
        while run.usage().await.unwrap().log_bytes_dropped < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.micros < 1_000_000, "{report:?}");
        let exit = run.wait().await;
        for name in ["stdout.log", "stderr.log"] {
            assert_eq!(rig.log(name).len(), RUN_LOG_BYTES_MAX);
        }
        let kept = 2 * u64::try_from(RUN_LOG_BYTES_MAX).unwrap();
        assert_eq!(exit.usage.stdout_bytes + exit.usage.stderr_bytes, kept + exit.usage.log_bytes_dropped);
    });
}

/// Datagrams to itself that nobody reads: of the host's memory, not of the files or the heap of the run.
fn sockets() {
    run(async {
        let mut rig = python(
            "import socket\nheld = []\nfor _ in range(60):\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)\n s.bind(('127.0.0.1', 0)); held.append(s)\n t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n for _ in range(64):\n  try: t.sendto(b'x' * 60000, s.getsockname())\n  except OSError: break\n t.close()\ntotal = 0\nfor s in held:\n s.setblocking(False)\n try:\n  while True: total += len(s.recv(65536))\n except BlockingIOError: pass\nprint(total)",
        );
        rig.spec.resources.memory_mib = 64;
        let exit = rig.finished().await;
        let said = String::from_utf8(exit.output.unwrap_or_default()).unwrap();
        let total: u64 = said.parse().unwrap_or_else(|_| panic!("{said} {}", rig.log("stderr.log")));
        assert!((1 << 20..=32 << 20).contains(&total), "{total} bytes waited in sockets");
    });
}

fn wall_clock() {
    run(async {
        let mut rig = python(
            "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(99)",
        );
        rig.spec.wall_clock = Duration::from_millis(100);
        let run = rig.started().await;
        rig.until("up").await;
        run.suspend().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, exit.cause, exit.empty), (None, ExitCause::TimeExpired, true), "{exit:?}");
    });
}

fn descriptors() {
    run(async {
        let mut rig = python(
            "import resource, os\nfds = []\ntry:\n while True: fds.append(os.open('/dev/null', 0))\nexcept OSError as e:\n os.close(fds.pop()); print(e.errno, len(fds), resource.getrlimit(resource.RLIMIT_CORE))",
        );
        rig.spec.resources.open_files = 64;
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"24 60 (1, 1)"[..]));
    });
}

fn processor() {
    run(async {
        let mut rig = python("import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass");
        rig.spec.resources.cpu_millis = 100;
        let usage = rig.finished().await.usage;
        assert!(usage.cpu_micros * 4 < usage.wall_micros, "{usage:?}");
    });
}

fn refusals() {
    run(async {
        let rig = python(
            "import ctypes, os\nlibc = ctypes.CDLL(None)\nfor _ in range(4): os.fork()\nprint('up', flush=True)\nwhile True: libc.syscall(165, 0, 0, 0, 0, 0)",
        );
        let run = rig.started().await;
        rig.until("up").await;
        assert!(run.suspend().await.unwrap() < 2_000_000);
        run.resume().await.unwrap();
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.micros < 2_000_000, "{report:?}");
    });
}

/// Four MiB of the package that are on disk and not in memory.
fn cold(rig: &crate::rig::Rig) {
    let file = rig.data.path().join("code/data");
    std::fs::write(&file, vec![7; 4 << 20]).unwrap();
    let file = std::fs::File::open(file).unwrap();
    file.sync_all().unwrap();
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
}

const READS: &str = "import time\nbegin = time.monotonic()\nread = 0\n\
    with open('data', 'rb', 0) as f:\n while True:\n  part = f.read(65536)\n  if not part: break\n  read += len(part)\n\
    print(read, int((time.monotonic() - begin) * 1000))";

/// Whether this host can limit that; the doctor must know.
fn can(resources: &cogward_model::manifest::Resources) -> bool {
    let report = cogward_sandbox::doctor::probe_at(&crate::rig::exe(), &std::env::temp_dir()).unwrap();
    report.require_limits(resources).is_ok()
}

fn reading() {
    run(async {
        let mut rig = python(READS);
        rig.spec.resources.io_read_mib_per_second = Some(2);
        if !can(&rig.spec.resources) {
            // A host that cannot is refused, which is as much a test of the limit.
            assert!(cogward_sandbox::launch(&crate::rig::exe(), &rig.spec).await.is_err());
            return;
        }
        cold(&rig);
        let exit = rig.finished().await;
        let said = String::from_utf8(exit.output.unwrap()).unwrap();
        let (read, millis) = said.trim().split_once(' ').unwrap();
        assert_eq!(read, "4194304");
        // Two seconds at the limit; without it some milliseconds. The kernel lets a little more through at first.
        let millis: u64 = millis.parse().unwrap();
        assert!((1_000..20_000).contains(&millis), "{millis} ms");
        assert!(exit.usage.io_read_bytes.is_some_and(|bytes| bytes >= 4 << 20), "{:?}", exit.usage);
        assert!(rig.groups_left().is_empty());
    });
}

fn writing() {
    run(async {
        let mut rig = python("print('ran')");
        rig.spec.resources.io_write_mib_per_second = Some(2);
        let launched = cogward_sandbox::launch(&crate::rig::exe(), &rig.spec).await;
        match (launched, can(&rig.spec.resources)) {
            (Ok(run), true) => {
                let _killed = run.kill().await;
            }
            (Err(error), false) => {
                let said = format!("{error:?}");
                assert!(said.contains("version 1") || said.contains("controller"), "{said}");
                assert!(rig.groups_left().is_empty());
            }
            (launched, can) => panic!("the doctor says {can}, the launch {:?}", launched.map(drop)),
        }
    });
}
