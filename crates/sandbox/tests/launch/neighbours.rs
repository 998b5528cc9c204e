//! What one run uses up is not missed by the others.

use std::time::Instant;

use cogward_model::manifest::Profile;
use cogward_sandbox::ExitCause;

use crate::rig::{Rig, drain, python, run};

pub const TESTS: &[crate::Test] = &[
    ("a_run_that_burns_processor_leaves_three_others_their_share", processor),
    ("runs_that_exhaust_everything_do_not_disturb_three_others", exhausted),
    ("an_out_of_memory_kill_is_of_the_run_alone", out_of_memory),
    ("a_tree_of_directories_stops_at_the_number_of_inodes", directories),
    ("sparse_and_preallocated_files_stop_at_the_size", sparse),
    ("an_agent_that_swaps_its_output_is_not_followed", swapped),
    ("what_crashes_leaves_no_core_file", crashed),
];

/// Processor time that is burnt by sixteen processes, and by one.
const BURN: &str = "import os, time\nfor _ in range(N - 1):\n if os.fork() == 0: break\n\
     end = time.monotonic() + 4\nwhile time.monotonic() < end: pass";

fn processor() {
    run(async {
        let mut rigs: Vec<Rig> = [16, 1, 1, 1].map(|n| python(&BURN.replace('N', &n.to_string()))).into();
        for rig in &mut rigs {
            rig.spec.resources.cpu_millis = 400;
        }
        let mut runs = Vec::new();
        for rig in &rigs {
            runs.push(rig.held().await);
        }
        for run in &runs {
            run.start().await.unwrap();
        }
        let mut used = Vec::new();
        for run in &runs {
            used.push(run.wait().await.usage);
        }
        let share = |n: usize| used[n].cpu_micros as f64 / used[n].wall_micros as f64;
        println!("burner {:.2}, others {:.2} {:.2} {:.2}", share(0), share(1), share(2), share(3));
        assert!(share(0) < 0.6, "{used:?}");
        for other in 1..4 {
            // On a machine with other work all four get less, and each as much as the burner.
            assert!(share(other) > 0.5 * share(0), "{other}: {used:?}");
        }
    });
}

const HOSTILE: &[&str] = &[
    "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "import os\nwhile True:\n if os.fork() == 0:\n  x = bytearray(1 << 30)\n  for n in range(0, len(x), 4096): x[n] = 1\n  os._exit(0)\n os.wait()",
    "import os\nb = b'x' * 65536\nwhile True: os.write(1, b); os.write(2, b)",
    "import os\nn = 0\nwhile True:\n try: open('/work/f%d' % n, 'wb').write(b'x' * 65536); n += 1\n except OSError: n = 0\n",
    "import ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.syscall(165, 0, 0, 0, 0, 0); libc.syscall(999)",
    "import os\nfds = []\nwhile True:\n try: fds.append(os.pipe())\n except OSError: [os.close(f) for p in fds for f in p]; fds = []",
    "import threading, time\nwhile True:\n try: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n except RuntimeError: pass",
];

const ORDINARY: &str = "import os, subprocess\nfor n in range(40):\n \
     assert subprocess.run(['/bin/true']).returncode == 0\n open('/work/f%d' % n, 'wb').write(os.urandom(65536))\n \
     x = bytearray(8 << 20)\n for i in range(0, len(x), 4096): x[i] = 1\n os.pipe()\nopen('/work/output', 'w').write('well')";

fn exhausted() {
    run(async {
        let mut hostile = Vec::new();
        for (n, program) in HOSTILE.iter().enumerate() {
            let mut rig = python(program);
            rig.spec.resources.memory_mib = 64;
            rig.spec.resources.cpu_millis = 200;
            rig.spec.resources.open_files = 128;
            if n % 2 == 0 {
                rig.spec.profile = Profile::Hardened;
            }
            let run = rig.started().await;
            hostile.push((rig, run));
        }
        let begin = Instant::now();
        let mut others = Vec::new();
        for _ in 0..3 {
            let rig = python(ORDINARY);
            let run = rig.started().await;
            others.push((rig, run));
        }
        for (rig, run) in &others {
            let exit = run.wait().await;
            assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Exited), "{exit:?} {}", rig.log("stderr.log"));
            assert_eq!(exit.output.as_deref(), Some(&b"well"[..]));
        }
        println!("three ordinary runs beside {} hostile ones took {:?}", hostile.len(), begin.elapsed());
        for (rig, run) in &hostile {
            let usage = run.usage().await.unwrap();
            assert!(usage.memory_peak_bytes <= 64 << 20, "{usage:?}");
            let report = run.kill().await.unwrap();
            assert!(report.empty && report.micros < 2_000_000, "{report:?}");
            run.wait().await;
            assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
        }
    });
}

fn out_of_memory() {
    run(async {
        let fill = |mib: u32| {
            let mut rig = python(&format!(
                "import time\nx = bytearray({mib} << 20)\nfor n in range(0, len(x), 4096): x[n] = 1\n\
                 print('up', flush=True)\ntime.sleep(99)"
            ));
            rig.spec.resources.memory_mib = 96;
            rig
        };
        let kept = fill(60);
        let other = kept.started().await;
        kept.until("up").await;
        for _ in 0..3 {
            let exit = fill(200).finished().await;
            assert_eq!(exit.cause, ExitCause::OutOfMemory, "{exit:?}");
        }
        let mut violations = other.violations().unwrap();
        assert_eq!(drain(&mut violations), []);
        assert!(other.suspend().await.is_ok());
        other.kill().await.unwrap();
    });
}

fn directories() {
    run(async {
        let rig = python(
            "import os\nn = 0\ntry:\n while True: os.mkdir('/work/d%d' % n); n += 1\nexcept OSError as e: print(e.errno, n)",
        );
        let exit = rig.finished().await;
        let said = String::from_utf8(exit.output.unwrap()).unwrap();
        let (errno, made) = said.split_once(' ').unwrap();
        assert!(errno == "28" && made.parse::<u64>().unwrap() < 1_000_000, "{said}");
    });
}

fn sparse() {
    run(async {
        let rig = python(
            "import os\nf = os.open('/work/s', os.O_RDWR | os.O_CREAT)\nsaid = []\nfor attempt in (lambda: os.ftruncate(f, 1 << 40), \
             lambda: os.posix_fallocate(f, 0, 64 << 20), lambda: os.pwrite(f, b'x' * (16 << 20), 0)):\n try: said.append(attempt())\n \
             except OSError as e: said.append(-e.errno)\nprint(said, os.stat('/work/s').st_blocks * 512 <= 8 << 20)",
        );
        let exit = rig.finished().await;
        let said = String::from_utf8(exit.output.unwrap_or_default()).unwrap();
        let (attempts, bounded) = said.rsplit_once(' ').unwrap();
        let attempts: Vec<i64> = serde_json::from_str(attempts).unwrap();
        assert!(bounded == "True" && attempts[0] < 0 && attempts[1] < 0 && attempts[2] <= 8 << 20, "{said}");
    });
}

/// Paths that are exchanged all the time with a link to a file of the host, a link to itself, a directory and a pipe.
const SWAPPING: &str = "
import ctypes, os, time
libc = ctypes.CDLL(None)
open('/work/mine', 'w').write('mine')
os.symlink('/etc/passwd', '/work/a'); os.symlink('/proc/self/environ', '/work/b'); os.mkdir('/work/c'); os.mkfifo('/work/d')
os.symlink('/run/cogward/input.json', '/work/e'); os.symlink('output', '/work/f')
os.rename('/work/mine', '/work/output')
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            for name in (b'/work/a', b'/work/b', b'/work/c', b'/work/d', b'/work/e', b'/work/f'):
                libc.renameat2(-100, name, -100, b'/work/output', 2)
time.sleep(0.05)
";

fn swapped() {
    run(async {
        let mut taken = 0;
        for _ in 0..12 {
            let exit = python(SWAPPING).finished().await;
            assert_eq!((exit.code, exit.empty), (Some(0), true), "{exit:?}");
            match exit.output.as_deref() {
                None => assert!(exit.output_refused.is_some()),
                Some(bytes) => {
                    assert_eq!(bytes, b"mine", "{}", String::from_utf8_lossy(bytes));
                    taken += 1;
                }
            }
        }
        println!("the file itself was there {taken} times of 12");
    });
}

fn crashed() {
    run(async {
        let rig = python(
            "import os, resource, signal\nassert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)\n\
             for limit in ((0, 0), (0, 1)):\n try: resource.setrlimit(resource.RLIMIT_CORE, limit); print('ALLOWED', limit)\n \
             except (OSError, ValueError): pass\nos.chdir('/work')\n\
             if os.fork() == 0: os.kill(os.getpid(), signal.SIGSEGV)\n_, status = os.wait()\nprint(os.WCOREDUMP(status), os.listdir('/work'))",
        );
        let exit = rig.finished().await;
        assert_eq!(
            exit.output.as_deref(),
            Some(&b"False []"[..]),
            "{} {}",
            rig.log("stdout.log"),
            rig.log("stderr.log")
        );
        assert!(!rig.log("stdout.log").contains("ALLOWED"));
    });
}
