//! What an agent is given, what it leaves, and who hears it.

use cogward_model::Listener;
use cogward_sandbox::{Adopted, ExitCause, Root, adopt, launch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    Carrier,
    rig::{exe, run},
};

pub const CHECKS: &[crate::Check] = &[
    ("an_agent_has_what_it_was_given_and_leaves_its_output", given),
    ("nothing_else_is_in_its_environment", nothing_inherited),
    ("it_does_not_run_before_it_is_started", held),
    ("its_three_ports_lead_to_the_listeners_and_nothing_else_is_reachable", network),
    ("a_connection_belongs_to_the_run_whose_listener_it_arrives_on", identity),
    ("a_long_answer_and_a_half_closed_connection_arrive_whole", streams),
    ("the_last_line_is_the_output_when_there_is_no_file", last_line),
    ("an_output_that_is_a_link_or_a_pipe_is_not_taken", hostile_output),
    ("exit_codes_and_signals_are_told", exits),
    ("a_program_that_is_not_there_is_reported", not_executable),
    ("a_launch_that_fails_says_why_and_leaves_nothing", refused),
    ("an_image_is_the_whole_root", image),
    ("the_evidence_says_what_is_in_force", evidence),
];

fn given(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(
            "import sys, json, os\nprint('hello')\nprint(sys.stdin.read(), file=sys.stderr)\n\
             n = json.load(open('/run/cogward/input.json'))['n']\nopen('/work/output','w').write('answer %d' % n)\n\
             print(os.getcwd(), sys.argv[1:], os.environ['LETTER'], os.getuid(), os.getgid(), os.getgroups())\nsys.exit(3)",
        );
        rig.spec.argv.push("an argument with 'quotes' and ü".into());
        rig.spec.env.push(("LETTER".into(), "a=b c\n".into()));
        let exit = rig.finished().await;
        assert_eq!((exit.code, exit.signal, exit.cause), (Some(3), None, ExitCause::Exited), "{exit:?}");
        assert_eq!(exit.output.as_deref(), Some(&b"answer 1"[..]), "{exit:?}");
        assert!(exit.empty && exit.usage.cpu_micros > 0 && exit.usage.memory_peak_bytes > 0, "{exit:?}");
        assert_eq!(rig.log("stderr.log"), "from stdin\n");
        assert_eq!(rig.log("stdout.log"), "hello\n/app [\"an argument with 'quotes' and ü\"] a=b c\n 1000 1000 []\n");
        let Adopted::Ended(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert_eq!(again, exit);
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
        let mut left: Vec<_> = std::fs::read_dir(&rig.spec.run_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        let plain = |name: &str| ["cgroups.json", "exit.json", "output", "spec.json"].contains(&name);
        assert!(
            left.iter().all(|n| n.to_str().is_some_and(|n| plain(n) || n.ends_with(".log") || n == "supervisor.sock")),
            "{left:?}"
        );
    });
}

fn nothing_inherited(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(
            "import os, json\nprint(json.dumps({'env': sorted(os.environ), 'fds': sorted(int(n) for n in os.listdir('/proc/self/fd')), \
             'umask': os.umask(0), 'sig': [l.split()[1] for l in open('/proc/self/status') if l.startswith('SigBlk')]}))",
        );
        rig.spec.env.push(("LC_ALL".into(), "C".into()));
        let exit = rig.finished().await;
        let said: serde_json::Value = serde_json::from_slice(&exit.output.unwrap()).unwrap();
        assert_eq!(said["env"], serde_json::json!(["HOME", "LC_ALL", "PATH"]));
        // The fourth is the one that lists the directory.
        assert_eq!(said["fds"].as_array().unwrap().len(), 4, "{said}");
        assert_eq!(said["umask"], 0o022);
        assert!(said["sig"].as_array().unwrap().iter().all(|s| s == "0000000000000000"), "{said}");
    });
}

fn held(carrier: &Carrier) {
    run(async {
        let rig = carrier.python("print('ran')");
        let run = rig.held().await;
        assert!(run.suspend().await.is_err());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes >= 2, "{report:?}");
        assert_eq!(run.wait().await.cause, ExitCause::Killed);
        assert_eq!(rig.log("stdout.log"), "");
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
    });
}

/// A connection, whatever carried it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The next connection to a listener of either family.
async fn accepted(listener: Listener) -> Box<dyn Stream> {
    listener.set_nonblocking(true).unwrap();
    match listener {
        Listener::Tcp(listener) => {
            Box::new(tokio::net::TcpListener::from_std(listener).unwrap().accept().await.unwrap().0)
        }
        Listener::Unix(listener) => {
            Box::new(tokio::net::UnixListener::from_std(listener).unwrap().accept().await.unwrap().0)
        }
    }
}

const NETWORK: &str = r#"
import errno, os, socket
for port in (28471, 28472, 3128):
    s = socket.create_connection(('127.0.0.1', port), 10)
    s.sendall(b'port %d' % port)
    print(s.recv(99).decode(), flush=True)
reached = []
for host, port in (('127.0.0.1', 22), ('127.0.0.1', 80), ('169.254.169.254', 80), ('10.0.0.1', 3128), ('192.0.2.1', 28471)):
    s = socket.socket(); s.settimeout(3)
    try: s.connect((host, port)); reached.append((host, port))
    except OSError as e: assert not isinstance(e, TimeoutError), (host, port)
for host in ('example.com', 'metadata.google.internal'):
    try: socket.getaddrinfo(host, 80); reached.append(host)
    except OSError: pass
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('192.0.2.1', 53)); reached.append('udp')
except OSError: pass
print('reached', reached)
"#;

fn network(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(NETWORK);
        let run = rig.held().await;
        let taken = run.take_listeners().unwrap();
        assert!(run.take_listeners().is_none());
        run.start().await.unwrap();
        for (listener, port) in [(taken.model, 28471), (taken.mcp, 28472), (taken.proxy, 3128)] {
            let mut stream = accepted(listener).await;
            let mut bytes = [0; 64];
            let n = stream.read(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..n], format!("port {port}").as_bytes());
            stream.write_all(format!("seen {port}").as_bytes()).await.unwrap();
        }
        assert_eq!(run.wait().await.code, Some(0), "{}", rig.log("stderr.log"));
        assert_eq!(rig.log("stdout.log"), "seen 28471\nseen 28472\nseen 3128\nreached []\n");
    });
}

fn identity(carrier: &Carrier) {
    run(async {
        let program = |name: &str| {
            format!(
                "import socket, sys\nsys.stdin.read()\ns = socket.create_connection(('127.0.0.1', 28471), 20)\n\
                 s.sendall(b'{name}')\nprint(s.recv(9).decode())"
            )
        };
        let (one, two) = (carrier.python(&program("one")), carrier.python(&program("two")));
        let (first, second) = (one.held().await, two.held().await);
        assert_ne!(first.enforcement().uid_base, second.enforcement().uid_base);
        let mut listeners = Vec::new();
        for held in [&first, &second] {
            listeners.push(held.take_listeners().unwrap().model);
            held.start().await.unwrap();
        }
        for (listener, name) in listeners.into_iter().zip(["one", "two"]) {
            let mut stream = accepted(listener).await;
            let mut bytes = [0; 9];
            let n = stream.read(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..n], name.as_bytes());
            stream.write_all(name.as_bytes()).await.unwrap();
        }
        for (rig, ran, name) in [(&one, first, "one"), (&two, second, "two")] {
            assert_eq!(ran.wait().await.output.as_deref(), Some(name.as_bytes()), "{}", rig.log("stderr.log"));
        }
    });
}

/// Asks, closes its side, and reads to the end: what HTTP/1.0 and a tunnel do.
const HALF: &str = "import hashlib, socket\ns = socket.create_connection(('127.0.0.1', 28472), 10)\n\
     s.sendall(b'q' * 3000000)\ns.shutdown(socket.SHUT_WR)\nh, n = hashlib.sha256(), 0\n\
     while b := s.recv(65536): h.update(b); n += len(b)\nprint(n, h.hexdigest())";

fn streams(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(HALF);
        let run = rig.held().await;
        let listener = run.take_listeners().unwrap().mcp;
        run.start().await.unwrap();
        let mut stream = accepted(listener).await;
        let mut asked = Vec::new();
        if carrier.is_machine() {
            asked.resize(3_000_000, 0);
            stream.read_exact(&mut asked).await.unwrap();
        } else {
            stream.read_to_end(&mut asked).await.unwrap();
        }
        assert!(asked.len() == 3_000_000 && asked.iter().all(|b| *b == b'q'));
        let answer: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        stream.write_all(&answer).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let exit = run.wait().await;
        let said = String::from_utf8(exit.output.unwrap()).unwrap();
        let (length, _) = said.split_once(' ').unwrap_or_else(|| panic!("{said} {}", rig.log("stderr.log")));
        assert_eq!(length, "5000000");
    });
}

fn last_line(carrier: &Carrier) {
    run(async {
        let rig = carrier.python("print('first')\nprint('{\"answer\": 42}')\nprint('')");
        assert_eq!(rig.finished().await.output.as_deref(), Some(&b"{\"answer\": 42}"[..]));
    });
}

fn hostile_output(carrier: &Carrier) {
    run(async {
        for program in [
            "import os\nos.symlink('/etc/shadow', '/work/output')",
            "import os\nos.mkfifo('/work/output')",
            "open('/work/output','wb').write(b'x' * (1024*1024 + 1))",
        ] {
            let rig = carrier.python(program);
            let exit = rig.finished().await;
            assert_eq!((exit.code, &exit.output), (Some(0), &None), "{program}: {exit:?} {}", rig.log("stderr.log"));
        }
    });
}

fn exits(carrier: &Carrier) {
    run(async {
        for (program, code, signal) in [
            ("", Some(0), None),
            ("import sys; sys.exit(255)", Some(255), None),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, Some(9)),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", None, Some(15)),
        ] {
            let exit = carrier.python(program).finished().await;
            let cause = if signal.is_some() { ExitCause::Signalled } else { ExitCause::Exited };
            assert_eq!((exit.code, exit.signal, exit.cause), (code, signal, cause), "{program}");
        }
    });
}

fn not_executable(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python("");
        rig.spec.argv = vec!["no-such-program".into()];
        let exit = rig.finished().await;
        assert_eq!((exit.code, exit.cause), (Some(127), ExitCause::NotExecutable), "{exit:?}");
        let detail = exit.detail.unwrap();
        assert!(detail.to_lowercase().contains("no such file") || detail.contains("not found"), "{detail}");
        let mut rig = carrier.python("print(1)");
        rig.spec.argv = vec!["python3".into(), "main.py".into()];
        assert_eq!(rig.finished().await.code, Some(0));
    });
}

fn refused(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python("");
        rig.spec.mounts[0].source = rig.data.path().join("missing");
        let error = launch(&exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
        let Adopted::Ended(exit) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert_eq!(exit.cause, ExitCause::LaunchFailed);
        assert!(!rig.spec.run_dir.join("carrier").exists());

        let mut rig = carrier.python("");
        rig.spec.cwd = "/nowhere".into();
        let error = launch(&exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(error.contains("working directory"), "{error}");
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new());
        assert!(!rig.spec.run_dir.join("carrier").exists());
    });
}

fn image(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python("");
        let dir = rig.data.path().join("image");
        for program in ["/bin/sh", "/bin/cat"] {
            let listed = std::process::Command::new("/usr/bin/ldd").arg(program).output().unwrap();
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            for file in text.split_whitespace().filter(|w| w.starts_with('/')).chain([program]) {
                let to = dir.join(file.trim_start_matches('/'));
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(file, &to).unwrap();
            }
        }
        // An image cannot bring a place of the sandbox with it.
        std::os::unix::fs::symlink("/etc", dir.join("work")).unwrap();
        rig.spec.root = Root::Image { dir };
        rig.spec.argv =
            ["/bin/sh", "-c", "echo inside; cat /usr/share/dict /etc/shadow || echo no host; echo x > /work/output"]
                .map(str::to_owned)
                .to_vec();
        let exit = rig.finished().await;
        assert_eq!(exit.code, Some(0), "{exit:?} {}", rig.log("stderr.log"));
        assert_eq!(rig.log("stdout.log"), "inside\nno host\n");
        assert_eq!(exit.output.as_deref(), Some(&b"x\n"[..]));
    });
}

fn evidence(carrier: &Carrier) {
    run(async {
        let run = carrier.python("").held().await;
        let said = run.enforcement().clone();
        assert_eq!((said.profile, said.driver.as_str()), (carrier.profile, carrier.driver.name()));
        assert!(said.self_checks.len() >= 6, "{said:?}");
        for check in ["no_new_privs", "no capabilities, bounding set empty", "no route leaves the sandbox"] {
            assert!(said.self_checks.iter().any(|c| c == check), "{check}: {said:?}");
        }
        assert_eq!(said.connect_ports, [28471, 28472, 3128]);
        assert_eq!(said.uids, "own-range");
        let native = said.driver == "native";
        assert_eq!((said.landlock_abi.is_some(), said.seccomp_instructions.is_some()), (native, native));
        assert_eq!(said.seccomp_allowed.is_some(), carrier.shares_the_kernel());
        assert_eq!(said.runtime.is_some(), !native);
        if let Some(runtime) = said.runtime {
            assert!(runtime.version.contains('.'), "{runtime:?}");
        }
        run.kill().await.unwrap();
    });
}
