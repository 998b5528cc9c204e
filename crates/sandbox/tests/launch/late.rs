//! Sandboxes that are made before their input is known.

use cogward_sandbox::{Adopted, CommandError, LateInput, adopt, launch};

use crate::rig::{Rig, exe, python, run};

pub const TESTS: &[crate::Test] = &[
    ("an_input_that_comes_late_is_read_like_any_other", late),
    ("an_agent_is_not_let_go_without_its_input_and_has_it_once", once),
    ("a_late_input_opens_nothing_for_the_agent", closed),
    ("an_input_that_is_too_large_or_broken_is_refused", hostile),
];

const READ: &str = "import sys\nopen('/work/output','wb').write(sys.stdin.buffer.read() + b'|' + \
                    open('/run/cogward/input.json','rb').read())";

fn spare(program: &str) -> Rig {
    let mut rig = python(program);
    rig.spec.late_input = true;
    rig.spec.stdin = Vec::new();
    rig.spec.files = vec![("input.json".into(), Vec::new())];
    rig
}

fn late() {
    run(async {
        for size in [0, 1, 1024 * 1024] {
            let input = LateInput { file: vec![b'"'; 6 * size], stdin: vec![0xff; size] };
            let rig = spare(READ);
            let held = rig.held().await;
            held.give_input(&input).await.unwrap();
            held.start().await.unwrap();
            let exit = held.wait().await;
            assert_eq!(exit.code, Some(0), "{exit:?} {}", rig.log("stderr.log"));
            let wanted = [&input.stdin[..], b"|", &input.file[..]].concat();
            match exit.output {
                Some(output) => assert!(output == wanted),
                // Larger than what is taken of an output.
                None => assert!(wanted.len() > 1024 * 1024),
            }
            assert!(!rig.spec.run_dir.join("late-input.json").exists());
        }
    });
}

fn once() {
    run(async {
        let input = LateInput { file: b"1".to_vec(), stdin: b"2".to_vec() };
        let rig = spare(READ);
        let held = rig.held().await;
        assert!(matches!(held.start().await, Err(CommandError::Refused(why)) if why.contains("input")));
        held.give_input(&input).await.unwrap();
        assert!(held.give_input(&LateInput { file: b"3".to_vec(), stdin: Vec::new() }).await.is_err());
        drop(held);
        // Another plane finds it with its input.
        let Adopted::Alive(held) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        held.start().await.unwrap();
        assert!(held.give_input(&input).await.is_err(), "it runs");
        assert_eq!(held.wait().await.output.as_deref(), Some(&b"2|1"[..]));
        let ordinary = python("");
        let held = ordinary.held().await;
        assert!(held.give_input(&input).await.is_err(), "it has its input");
        held.kill().await.unwrap();
    });
}

fn closed() {
    run(async {
        let rig = spare(
            "import os\nopen('/work/output','w').write(','.join(sorted(os.listdir('/proc/self/fd'))[:4]))\n\
             for path in ('/run/cogward/input.json', '/run/cogward/new', '/proc/self/fd/0'):\n\
             \x20for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT):\n\
             \x20 try: os.open(path, flags)\n\
             \x20 except OSError: continue\n\
             \x20 raise SystemExit(path + ' can be opened for writing')\n\
             for n in range(3, 64):\n\
             \x20try: os.write(n, b'x')\n\
             \x20except OSError: continue\n\
             \x20raise SystemExit('descriptor %d can be written to' % n)",
        );
        let held = rig.held().await;
        held.give_input(&LateInput { file: b"1".to_vec(), stdin: Vec::new() }).await.unwrap();
        held.start().await.unwrap();
        let exit = held.wait().await;
        assert_eq!((exit.code, rig.log("stderr.log").as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"0,1,2,3"[..]), "3 is the directory that is listed");
    });
}

fn hostile() {
    run(async {
        let rig = spare(READ);
        let held = rig.held().await;
        for (file, stdin) in [(6 * 1024 * 1024 + 3, 0), (0, 1024 * 1024 + 1)] {
            let input = LateInput { file: vec![0; file], stdin: vec![0; stdin] };
            assert!(matches!(held.give_input(&input).await, Err(CommandError::Refused(_))));
        }
        held.kill().await.unwrap();
        // What stands in the run directory is not what was given: the agent is not let go with half an input.
        let broken = spare(READ);
        let held = broken.held().await;
        std::fs::write(broken.spec.run_dir.join("late-input.json"), b"{").unwrap();
        let input = LateInput { file: Vec::new(), stdin: Vec::new() };
        assert!(held.give_input(&input).await.is_err());
        held.kill().await.unwrap();
        let mut without = spare(READ);
        without.spec.files = Vec::new();
        assert!(launch(&exe(), &without.spec).await.is_err());
    });
}
