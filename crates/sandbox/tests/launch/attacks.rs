//! What a run has of ours, what it sees of others, and that what it is refused is reported. The attacks themselves are
//! the battery's.

use crate::rig::{drain, python, run};

pub const TESTS: &[crate::Test] = &[
    ("the_environment_and_descriptors_hold_nothing_of_ours", nothing_inherited),
    ("refused_calls_are_reported_by_name", reported),
    ("two_runs_cannot_see_each_other", strangers),
];

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
        let names: std::collections::BTreeSet<_> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH"].into());
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
        let exit = run.wait().await;
        assert_eq!(exit.code, Some(0));
        let told = |object: &str| exit.violations.iter().find(|v| v.object == object).map(|v| v.total);
        assert_eq!((told("mount"), told("socket:alg"), told("syscall_999")), (Some(1000), Some(1), Some(1)));
        let seen = drain(&mut violations);
        let count = |object: &str| seen.iter().filter(|v| v.object == object).map(|v| v.count).sum::<u64>();
        assert_eq!((count("mount"), count("socket:alg"), count("syscall_999")), (1000, 1, 1), "{seen:?}");
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
