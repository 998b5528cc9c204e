//! What an agent cannot have more of.

use cogward_sandbox::ExitCause;

use crate::{Carrier, rig::run};

pub const CHECKS: &[crate::Check] = &[
    ("memory_ends_the_run_and_is_named", memory),
    ("a_fork_bomb_stays_inside", forks),
    ("the_workspace_has_a_size", workspace),
    ("open_files_are_bounded", descriptors),
    ("the_processor_is_shared_out", processor),
    ("a_flood_of_output_is_counted_and_not_kept", flood),
];

fn memory(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python("x = bytearray(600 << 20)\nprint('survived', len(x))");
        rig.spec.resources.memory_mib = 128;
        let exit = rig.finished().await;
        assert_eq!((exit.code, exit.cause), (None, ExitCause::OutOfMemory), "{exit:?} {}", rig.log("stdout.log"));
        assert!(exit.usage.memory_peak_bytes < 400 << 20, "{exit:?}");
    });
}

fn forks(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(
            "import os, time\nprint('up', flush=True)\nn = 0\nwhile True:\n try:\n  if os.fork() == 0: time.sleep(99); os._exit(0)\n  n += 1\n except OSError as e:\n  print('refused', n < 40, e.errno, flush=True); time.sleep(99)",
        );
        rig.spec.resources.pids = 24;
        let run = rig.started().await;
        rig.until("up").await;
        if carrier.shares_the_kernel() {
            rig.until("refused True 11\n").await;
            let report = run.kill().await.unwrap();
            assert!(report.empty && report.processes <= 24 + 2, "{report:?}");
            run.wait().await;
        } else {
            // A kernel in user space either refuses a fork or ends of its own limit; more than that are never there.
            match tokio::time::timeout(std::time::Duration::from_secs(8), run.wait()).await {
                Ok(exit) => assert!(exit.empty, "{exit:?} {}", rig.log("stderr.log")),
                Err(_) => {
                    let report = run.kill().await.unwrap();
                    assert!(report.empty && report.processes <= 24 + 128, "{report:?}");
                    run.wait().await;
                }
            }
        }
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
    });
}

const WORKSPACE: &str = r#"
import errno, os
def fill(place, name='big', chunk=b'x' * (1 << 20)):
    n = 0
    try:
        with open(place + '/' + name, 'wb', buffering=0) as f:
            while n < 64 << 20: n += f.write(chunk)
    except OSError as e:
        assert e.errno in (errno.ENOSPC, errno.EFBIG), e
    return n >> 20
print(fill('/work'), fill('/work', 'more'), fill('/tmp'), fill('/dev/shm'))
for place in ('/', '/usr', '/etc', '/app', '/run/cogward', '/run', '/proc'):
    try: open(place + '/x', 'w'); print('WROTE', place)
    except OSError: pass
for place in ('/work', '/tmp', '/dev/shm'):
    os.remove(place + '/big')
    open(place + '/prog', 'w').write('#!/bin/sh\necho ran\n'); os.chmod(place + '/prog', 0o755)
    try: os.posix_spawn(place + '/prog', ['prog'], {}); print('EXECUTED', place)
    except PermissionError: pass
"#;

fn workspace(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(WORKSPACE);
        let exit = rig.finished().await;
        assert_eq!(exit.code, Some(0), "{}", rig.log("stderr.log"));
        let said = rig.log("stdout.log");
        let mut lines = said.lines();
        let sizes: Vec<u32> = lines.next().unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        let [work, more, tmp, shm] = sizes[..] else { panic!("{said}") };
        assert!(work + more <= 8 && work >= 7 && (1..=8).contains(&tmp) && (1..=8).contains(&shm), "{said}");
        assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new());
    });
}

fn descriptors(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(
            "import resource, os\nfds = []\ntry:\n while True: fds.append(os.open('/dev/null', 0))\nexcept OSError as e:\n os.close(fds.pop()); print(e.errno, len(fds))",
        );
        rig.spec.resources.open_files = 64;
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"24 60"[..]));
    });
}

fn processor(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python("import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass");
        rig.spec.resources.cpu_millis = 150;
        let usage = rig.finished().await.usage;
        assert!(usage.cpu_micros * 3 < usage.wall_micros && usage.cpu_micros > 100_000, "{usage:?}");
    });
}

fn flood(carrier: &Carrier) {
    run(async {
        let rig =
            carrier.python("import sys\nline = 'x' * 1023 + '\\n'\nfor _ in range(12 * 1024): sys.stdout.write(line)");
        let exit = rig.finished().await;
        assert_eq!(exit.code, Some(0));
        assert_eq!(exit.usage.stdout_bytes, 12 << 20);
        assert_eq!(exit.usage.log_bytes_dropped, 8 << 20);
        assert_eq!(std::fs::metadata(rig.spec.run_dir.join("stdout.log")).unwrap().len(), 4 << 20);
    });
}
