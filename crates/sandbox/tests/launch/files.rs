//! What a run is given, what it may fill, and what is kept of it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use cogward_model::{
    content::{Artifact, ContentKind, NotKept},
    manifest::{Medium, Output},
};
use cogward_sandbox::{ExitCause, ReadOnlyMount, storage::InputMount};

use crate::rig::{Rig, python, run};

pub const TESTS: &[crate::Test] = &[
    ("an_input_can_be_read_and_nothing_else", inputs),
    ("an_input_that_the_agent_could_not_read_is_refused", unreadable_input),
    ("a_skill_is_where_it_is_declared_and_stays_as_it_is", skills),
    ("a_workspace_begins_with_its_files_and_they_are_the_agents", template),
    ("what_a_workspace_begins_with_counts_against_its_quota", template_quota),
    ("outputs_are_kept_with_their_digests", outputs),
    ("outputs_are_kept_after_a_kill_and_after_the_memory_ran_out", outputs_of_the_killed),
    ("an_output_that_leads_out_or_is_no_file_is_not_kept", hostile_outputs),
    ("an_output_file_that_is_not_taken_is_named", output_file),
    ("outputs_of_a_full_workspace_are_kept", full),
    ("the_inodes_of_a_workspace_are_exact", inodes),
    ("a_workspace_on_disk_is_no_memory", disk_memory),
    ("a_workspace_on_disk_stops_at_its_size", disk_bytes),
    ("a_workspace_on_disk_stops_at_its_inodes", disk_inodes),
    ("a_workspace_on_disk_executes_nothing_and_has_no_devices", disk_attributes),
    ("nothing_of_a_workspace_on_disk_is_left", disk_gone),
    ("a_full_workspace_on_disk_is_no_others_concern", disk_neighbours),
    ("a_workspace_on_disk_that_the_host_has_no_room_for_is_refused", disk_room),
    ("outputs_leave_the_room_that_the_evidence_needs", outputs_without_room),
    ("a_kill_is_answered_while_outputs_are_kept", kill_while_kept),
];

fn output(name: &str, path: &str, max_mib: u32) -> Output {
    Output { name: name.parse().unwrap(), path: path.to_owned(), max_mib, required: false }
}

fn said(rig: &Rig) -> String {
    format!("{}{}", rig.log("stdout.log"), rig.log("stderr.log"))
}

fn of<'a>(artifacts: &'a [Artifact], name: &str) -> &'a Artifact {
    artifacts.iter().find(|a| a.name.as_str() == name).unwrap()
}

/// Where uploads lie: readable, in a directory that only the plane can enter.
fn place(rig: &Rig) -> std::path::PathBuf {
    let place = rig.data.path().join("given");
    fs::create_dir_all(&place).unwrap();
    place
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn inputs() {
    run(async {
        let mut rig = python(
            r#"
import os, subprocess
print(open('/inputs/claim.json').read(), sorted(os.listdir('/inputs')), sorted(os.listdir('/inputs/tree')), open('/inputs/tree/a/b').read())
def refused(what):
    try: what(); print('DONE')
    except OSError as e: print(e.errno)
refused(lambda: open('/inputs/claim.json', 'w'))
refused(lambda: open('/inputs/tree/new', 'w'))
refused(lambda: os.remove('/inputs/tree/a/b'))
refused(lambda: os.rename('/inputs/tree', '/inputs/other'))
refused(lambda: os.chmod('/inputs/claim.json', 0o777))
refused(lambda: os.execv('/inputs/tree/run', ['run']))
refused(lambda: open('/inputs/new', 'w'))
"#,
        );
        let given = place(&rig);
        fs::write(given.join("claim"), "{\"n\": 17}").unwrap();
        fs::create_dir_all(given.join("tree/a")).unwrap();
        fs::write(given.join("tree/a/b"), "deep").unwrap();
        fs::copy("/bin/true", given.join("tree/run")).unwrap();
        open(&given.join("tree/run"), 0o755);
        for (name, source) in [("claim.json", "claim"), ("tree", "tree")] {
            let source = given.join(source);
            rig.spec.storage.inputs.push(InputMount { name: name.parse().unwrap(), source });
        }
        let exit = rig.finished().await;
        let said = said(&rig);
        assert_eq!(exit.code, Some(0), "{said}");
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("{\"n\": 17} ['claim.json', 'tree'] ['a', 'run'] deep"));
        let refusals: Vec<_> = lines.collect();
        assert!(refusals.len() == 7 && refusals.iter().all(|e| ["13", "30", "1", "18"].contains(e)), "{said}");
        assert_eq!(fs::read(given.join("claim")).unwrap(), b"{\"n\": 17}");
    });
}

fn unreadable_input() {
    run(async {
        for make in [
            |p: &Path| open(p, 0o600),
            |p: &Path| {
                fs::remove_file(p).unwrap();
                symlink("/etc/shadow", p).unwrap();
            },
        ] {
            let mut rig = python("print('ran')");
            let source = place(&rig).join("claim");
            fs::write(&source, "x").unwrap();
            make(&source);
            rig.spec.storage.inputs.push(InputMount { name: "claim".parse().unwrap(), source });
            let refused = cogward_sandbox::launch(&crate::rig::exe(), &rig.spec).await.unwrap_err().to_string();
            assert!(refused.contains("inputs/claim"), "{refused}");
            assert!(rig.groups_left().is_empty());
        }
    });
}

fn skills() {
    run(async {
        let mut rig = python(
            "import os\nprint(open('/skills/pdf/SKILL.md').read(), os.listdir('/skills'))\ntry: open('/skills/pdf/SKILL.md', 'w')\nexcept OSError as e: print(e.errno)",
        );
        let skill = rig.data.path().join("code/skills/pdf");
        fs::create_dir_all(&skill).unwrap();
        fs::write(skill.join("SKILL.md"), "how to").unwrap();
        rig.spec.mounts.push(ReadOnlyMount { source: skill, at: "/skills/pdf".into() });
        assert_eq!(rig.finished().await.code, Some(0));
        let said = said(&rig);
        assert!(["how to ['pdf']\n30\n", "how to ['pdf']\n13\n"].contains(&said.as_str()), "{said}");
    });
}

/// The template of a package: other people's files, with what an author may do to confuse.
fn with_template(rig: &mut Rig) {
    let template = rig.data.path().join("code/template");
    fs::create_dir_all(template.join("letters")).unwrap();
    fs::write(template.join("letters/a.txt"), "Dear").unwrap();
    fs::write(template.join("run.sh"), "#!/bin/sh\n").unwrap();
    open(&template.join("run.sh"), 0o755);
    symlink("/etc/passwd", template.join("link")).unwrap();
    rig.spec.storage.from = Some(template);
}

fn template() {
    run(async {
        for medium in [Medium::Memory, Medium::Disk] {
            let mut rig = python(
                r#"
import os
os.chdir('/work')
print(sorted(os.listdir('.')), os.readlink('link'), os.stat('letters/a.txt').st_uid, os.access('run.sh', os.X_OK))
open('letters/a.txt', 'a').write(' Ada')
os.rename('letters', 'mail'); os.remove('link'); os.chmod('mail', 0o700); open('mail/b', 'w').write('new')
print(open('mail/a.txt').read(), open('/app/template/letters/a.txt').read())
"#,
            );
            with_template(&mut rig);
            rig.spec.storage.medium = medium;
            assert_eq!(rig.finished().await.code, Some(0), "{}", said(&rig));
            let said = said(&rig);
            // Nothing can be executed in a workspace, whatever the mode says.
            assert_eq!(said, "['letters', 'link', 'run.sh'] /etc/passwd 1000 False\nDear Ada Dear\n");
            let kept = fs::read(rig.data.path().join("code/template/letters/a.txt")).unwrap();
            assert_eq!(kept, b"Dear");
        }
    });
}

fn template_quota() {
    run(async {
        let mut rig = python("print('ran')");
        with_template(&mut rig);
        fs::write(rig.data.path().join("code/template/big"), vec![1; 9 << 20]).unwrap();
        let refused = cogward_sandbox::launch(&crate::rig::exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(refused.contains("workspace.from") && refused.contains("No space left"), "{refused}");
        assert!(rig.groups_left().is_empty());
    });
}

const LEAVE_RESULTS: &str = r#"
import os, sys
os.makedirs('/work/out/sub')
open('/work/report.txt', 'w').write('hello')
open('/work/out/sub/data', 'w').write('hello')
sys.stdout.flush()
"#;
/// printf hello | sha256sum
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn with_outputs(program: &str) -> Rig {
    let mut rig = python(&format!("{LEAVE_RESULTS}{program}"));
    rig.spec.storage.outputs =
        vec![output("report", "/work/report.txt", 1), output("tree", "/work/out", 1), output("none", "/work/none", 1)];
    rig
}

fn kept(rig: &Rig, artifacts: &[Artifact]) {
    let report = of(artifacts, "report").content.unwrap_or_else(|| panic!("{artifacts:?} {}", said(rig)));
    assert_eq!((report.kind, report.digest.hex().as_str(), report.bytes), (ContentKind::File, HELLO, 5));
    let tree = of(artifacts, "tree").content.unwrap();
    assert_eq!((tree.kind, tree.bytes, tree.entries), (ContentKind::Directory, 5, 2));
    assert_eq!(of(artifacts, "none").refused, Some(NotKept::Missing));
    let dir = rig.spec.run_dir.join("artifacts");
    assert_eq!(fs::read(dir.join("report")).unwrap(), b"hello");
    assert_eq!(fs::read(dir.join("tree/sub/data")).unwrap(), b"hello");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
}

fn outputs() {
    run(async {
        for medium in [Medium::Memory, Medium::Disk] {
            let mut rig = with_outputs("");
            rig.spec.storage.medium = medium;
            let exit = rig.finished().await;
            kept(&rig, &exit.artifacts);
            let text = fs::read_to_string(rig.spec.run_dir.join("exit.json")).unwrap();
            assert!(text.contains(HELLO), "{text}");
        }
    });
}

fn outputs_of_the_killed() {
    run(async {
        let rig = with_outputs("import time\nprint('up', flush=True)\ntime.sleep(99)");
        let run = rig.started().await;
        rig.until("up").await;
        assert!(run.kill().await.unwrap().empty);
        let exit = run.wait().await;
        assert_eq!(exit.cause, ExitCause::Killed);
        kept(&rig, &exit.artifacts);

        let mut rig = with_outputs("x = bytearray(400 << 20)\nfor n in range(0, len(x), 4096): x[n] = 1");
        rig.spec.resources.memory_mib = 64;
        let exit = rig.finished().await;
        assert_eq!(exit.cause, ExitCause::OutOfMemory);
        kept(&rig, &exit.artifacts);
    });
}

fn hostile_outputs() {
    run(async {
        let mut rig = python(
            r#"
import os, socket
os.chdir('/work')
os.symlink('/etc/passwd', 'link')
os.symlink('/run/cogward', 'up')
os.mkfifo('pipe')
s = socket.socket(socket.AF_UNIX); s.bind('socket')
os.mkdir('tree'); os.symlink('../../../../etc/shadow', 'tree/x')
os.mkdir('locked'); open('locked/f', 'w').write('mine'); os.chmod('locked', 0)
open('sparse', 'w').truncate(7 << 20)
try: open('huge', 'w').truncate(1 << 40); print('HUGE')
except OSError as e: assert e.errno == 27, e
os.mkdir('odd'); open(b'odd/a\nb\x1b', 'w')
os.mkdir('many')
for n in range(300): open('many/%d' % n, 'w')
d = 'deep'
for _ in range(40): os.mkdir(d); d += '/d'
"#,
        );
        let names =
            ["link", "up/input.json", "pipe", "socket", "tree", "locked", "sparse", "odd", "many", "deep", "gone"];
        rig.spec.storage.outputs =
            names.iter().map(|n| output(&n.replace('/', "."), &format!("/work/{n}"), 1)).collect();
        let exit = rig.finished().await;
        assert!(exit.code == Some(0) && exit.output.is_none(), "{}", said(&rig));
        let reasons: Vec<_> = exit.artifacts.iter().map(|a| a.refused.map(NotKept::as_str)).collect();
        let file = Some("not_a_file");
        assert_eq!(
            reasons,
            [
                Some("link"),
                Some("link"),
                file,
                file,
                Some("link"),
                None, // What the agent shut is still its own to leave, and the supervisor may read it.
                Some("too_large"),
                Some("bad_name"),
                None,
                Some("too_deep"),
                Some("missing")
            ]
        );
        for artifact in &exit.artifacts {
            assert!(!artifact.detail.clone().unwrap_or_default().chars().any(char::is_control), "{artifact:?}");
        }
        let left = fs::read_dir(rig.spec.run_dir.join("artifacts")).unwrap().count();
        assert_eq!(left, 2);
    });
}

fn output_file() {
    run(async {
        for (program, reason) in [
            ("open('/work/output', 'wb').write(b'x' * (1 << 20) + b'y')", NotKept::TooLarge),
            ("import os; os.symlink('/etc/passwd', '/work/output')", NotKept::Link),
            ("import os; os.mkdir('/work/output')", NotKept::NotAFile),
        ] {
            let rig = python(&format!("{program}\nprint('last line')"));
            let exit = rig.finished().await;
            assert_eq!((exit.output_refused, exit.detail), (Some(reason), None));
            assert_eq!(exit.output.as_deref(), Some(&b"last line"[..]));
        }
    });
}

fn full() {
    run(async {
        for medium in [Medium::Memory, Medium::Disk] {
            let mut rig = with_outputs(
                "n = 0\ntry:\n while True: open('/work/fill%d' % n, 'wb', 0).write(b'x' * 65536); n += 1\nexcept OSError as e: print(e.errno)",
            );
            rig.spec.storage.medium = medium;
            let exit = rig.finished().await;
            assert_eq!(exit.output.as_deref(), Some(&b"28"[..]), "{}", said(&rig));
            kept(&rig, &exit.artifacts);
        }
    });
}

/// How many empty files an agent could make.
async fn made(rig: &Rig) -> u64 {
    let exit = rig.finished().await;
    let said = String::from_utf8(exit.output.unwrap_or_default()).unwrap();
    let (errno, made) = said.split_once(' ').unwrap_or_else(|| panic!("{said} {}", self::said(rig)));
    assert_eq!(errno, "28");
    made.parse().unwrap()
}

const MAKE_FILES: &str =
    "n = 0\ntry:\n while True: open('/work/%d' % n, 'w').close(); n += 1\nexcept OSError as e: print(e.errno, n)";

fn inodes() {
    run(async {
        let mut rig = python(MAKE_FILES);
        rig.spec.resources.workspace_inodes = Some(100);
        assert_eq!(made(&rig).await, 100);
    });
}

fn disk_inodes() {
    run(async {
        let mut rig = python(MAKE_FILES);
        rig.spec.resources.workspace_inodes = Some(500);
        rig.spec.storage.medium = Medium::Disk;
        let made = made(&rig).await;
        // The tables of a file system are whole blocks.
        assert!((500..=532).contains(&made), "{made}");
    });
}

const FILL: &str = "import os\nwritten = 0\nf = open('/work/big', 'wb', 0)\ntry:\n while True: written += f.write(b'x' * 65536)\nexcept OSError as e: print(e.errno, written)";

async fn filled(rig: &Rig) -> u64 {
    let exit = rig.finished().await;
    let said = String::from_utf8(exit.output.unwrap_or_default()).unwrap();
    let (errno, written) = said.split_once(' ').unwrap_or_else(|| panic!("{said} {}", self::said(rig)));
    assert!(["27", "28"].contains(&errno), "{said}");
    written.parse().unwrap()
}

fn disk_bytes() {
    run(async {
        for mib in [1_u64, 8, 96] {
            let mut rig = python(
                "written = 0\nn = 0\ntry:\n while True:\n  with open('/work/%d' % n, 'wb', 0) as f:\n   for _ in range(32): written += f.write(b'x' * 8192)\n  n += 1\nexcept OSError as e: print(e.errno, written)",
            );
            rig.spec.resources.workspace_mib = u32::try_from(mib).unwrap();
            rig.spec.storage.medium = Medium::Disk;
            let written = filled(&rig).await;
            // The directory itself and the trees of the files are of its bytes.
            let least = (mib << 20) - (mib << 20) / 64 - (64 << 10);
            assert!((least..=mib << 20).contains(&written), "{mib} MiB took {written} bytes");
        }
    });
}

fn disk_memory() {
    run(async {
        let mut rig = python(FILL);
        rig.spec.resources.memory_mib = 64;
        rig.spec.resources.workspace_mib = 200;
        rig.spec.storage.medium = Medium::Disk;
        let written = filled(&rig).await;
        assert!((190 << 20..=200 << 20).contains(&written), "{written}");
    });
}

fn disk_attributes() {
    run(async {
        let mut rig = python(
            r#"
import os, shutil, stat
def refused(what):
    try: what(); print('DONE')
    except OSError as e: print(e.errno)
shutil.copy('/usr/bin/true', '/work/true'); os.chmod('/work/true', 0o6755)
refused(lambda: os.execv('/work/true', ['true']))
refused(lambda: os.mknod('/work/sda', stat.S_IFBLK | 0o600, os.makedev(8, 0)))
flags = os.statvfs('/work').f_flag
print(flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
print(os.listdir('/work'), oct(os.stat('/work').st_mode), os.stat('/work').st_uid)
"#,
        );
        rig.spec.storage.medium = Medium::Disk;
        assert_eq!(rig.finished().await.code, Some(0), "{}", said(&rig));
        let said = said(&rig);
        assert!(["13\n", "1\n"].iter().any(|e| said.starts_with(e)), "{said}");
        assert!(said.ends_with("True\n['true'] 0o40700 1000\n") && !said.contains("DONE"), "{said}");
    });
}

/// Files of loop devices on this host, by their sizes and names.
fn loops(run_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.contains(&*run_dir.to_string_lossy()) {
            found.push(file);
        }
    }
    found
}

async fn no_loops(run_dir: &Path) {
    for _ in 0..1_000 {
        if loops(run_dir).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", loops(run_dir));
}

fn disk_gone() {
    run(async {
        let mut rig = python("import time\nprint('up', flush=True)\ntime.sleep(99)");
        rig.spec.storage.medium = Medium::Disk;
        let run = rig.started().await;
        rig.until("up").await;
        assert_eq!(loops(&rig.spec.run_dir).len(), 1);
        assert!(!rig.spec.run_dir.join("workspace.img").exists());
        run.kill().await.unwrap();
        run.wait().await;
        no_loops(&rig.spec.run_dir).await;

        // Its supervisor is killed: the kernel cleans up.
        let mut rig = python("import time\nprint('up', flush=True)\ntime.sleep(99)");
        rig.spec.storage.medium = Medium::Disk;
        let run = rig.started().await;
        rig.until("up").await;
        let supervisor = rustix::process::Pid::from_raw(i32::try_from(run.supervisor()).unwrap()).unwrap();
        rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
        run.wait().await;
        no_loops(&rig.spec.run_dir).await;
    });
}

fn disk_neighbours() {
    run(async {
        let mut full = python(FILL);
        full.spec.storage.medium = Medium::Disk;
        let mut other = python("import time\nopen('/work/a', 'wb').write(b'x' * (6 << 20))\nprint('wrote')");
        other.spec.storage.medium = Medium::Disk;
        let written = filled(&full).await;
        assert!((7 << 20..=8 << 20).contains(&written), "{written}");
        assert_eq!(other.finished().await.output.as_deref(), Some(&b"wrote"[..]), "{}", said(&other));
        // The directory of the run, which is the plane's, still takes bytes.
        fs::write(full.spec.run_dir.join("more"), vec![0; 1 << 20]).unwrap();
    });
}

fn disk_room() {
    run(async {
        // A small disk of its own stands for a full one.
        let small = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs"])
            .arg(small.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        let mut rig = python("print('ran')");
        rig.spec.run_dir = small.path().join("run");
        fs::create_dir(&rig.spec.run_dir).unwrap();
        rig.spec.storage.medium = Medium::Disk;
        rig.spec.resources.workspace_mib = 64;
        let refused = cogward_sandbox::launch(&crate::rig::exe(), &rig.spec).await;
        let refused = refused.map(drop).unwrap_err().to_string();
        let left = rig.spec.run_dir.join("workspace.img").exists();
        let unmounted = std::process::Command::new("umount").arg("-l").arg(small.path()).status().unwrap();
        assert!(unmounted.success());
        assert!(refused.contains("workspace on disk") && refused.contains("no room"), "{refused}");
        assert!(!left);
    });
}

/// What the evidence needs of the plane's disk is not taken by what an agent leaves.
fn outputs_without_room() {
    run(async {
        let small = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs"])
            .arg(small.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        let mut rig = with_outputs("");
        rig.spec.run_dir = small.path().join("run");
        fs::create_dir(&rig.spec.run_dir).unwrap();
        let exit = rig.finished().await;
        let unmounted = std::process::Command::new("umount").arg("-l").arg(small.path()).status().unwrap();
        assert!(unmounted.success());
        let reasons: Vec<_> = exit.artifacts.iter().map(|a| a.refused).collect();
        assert_eq!(reasons, [Some(NotKept::NoSpace), Some(NotKept::NoSpace), Some(NotKept::Missing)]);
    });
}

fn kill_while_kept() {
    run(async {
        let mut rig = python("f = open('/work/big', 'wb')\nfor _ in range(180): f.write(b'x' * (1 << 20))\nf.close()");
        rig.spec.resources.workspace_mib = 200;
        rig.spec.resources.memory_mib = 512;
        rig.spec.storage.outputs = vec![output("big", "/work/big", 200)];
        let run = rig.started().await;
        let artifacts = rig.spec.run_dir.join("artifacts/big");
        while !artifacts.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begin = Instant::now();
        let report = run.kill().await;
        // The run may have been recorded meanwhile; what must not be is a wait, or a supervisor that is killed for it.
        assert!(begin.elapsed() < Duration::from_secs(4), "{report:?}");
        let exit = run.wait().await;
        assert_ne!(exit.cause, ExitCause::SupervisorLost);
        assert_eq!(of(&exit.artifacts, "big").content.unwrap().bytes, 180 << 20);
    });
}
