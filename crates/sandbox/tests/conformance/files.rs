//! Files that go in and come out, whatever the workspace is made of.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use cogward_model::manifest::{Medium, Output};
use cogward_sandbox::{ReadOnlyMount, storage::InputMount};

use crate::{Carrier, rig::run};

pub const CHECKS: &[crate::Check] = &[
    ("inputs_are_read_only_and_outputs_are_kept", memory),
    ("a_workspace_on_disk_has_its_size_and_its_files", disk),
    ("what_the_host_mounts_later_does_not_come_in", later),
];

const PROGRAM: &str = r#"
import os
print(open('/inputs/claim').read(), open('/work/begun/with').read(), oct(os.stat('/work').st_mode & 0o777), os.stat('/work/begun').st_uid)
def refused(what):
    try: what(); print('DONE')
    except OSError: pass
refused(lambda: open('/inputs/claim', 'w'))
refused(lambda: open('/inputs/new', 'w'))
refused(lambda: os.remove('/inputs/claim'))
os.makedirs('/work/result/deep')
open('/work/result/deep/file', 'w').write('kept')
open('/work/begun/with', 'a').write(' more')
n = 0
try:
    with open('/work/big', 'wb', buffering=0) as f:
        while n < 64 << 20: n += f.write(b'x' * (1 << 20))
except OSError as e: print('full at', n >> 20, e.errno in (28, 27))
os.remove('/work/big')
os.symlink('/etc', '/work/leads-out')
"#;

fn files(carrier: &Carrier, medium: Medium) {
    run(async {
        let mut rig = carrier.python(PROGRAM);
        let given = rig.data.path().join("given");
        fs::create_dir_all(given.join("template/begun")).unwrap();
        for (file, text) in [("claim", "claim 17"), ("template/begun/with", "begun")] {
            fs::write(given.join(file), text).unwrap();
            fs::set_permissions(given.join(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let storage = &mut rig.spec.storage;
        storage.medium = medium;
        storage.from = Some(given.join("template"));
        storage.inputs.push(InputMount { name: "claim".parse().unwrap(), source: given.join("claim") });
        let outputs = [("result", "/work/result"), ("out", "/work/leads-out"), ("none", "/work/none")];
        // Of a machine they are refused (tests/machine).
        for (name, path) in outputs.into_iter().filter(|_| !carrier.is_machine()) {
            let (name, path) = (name.parse().unwrap(), path.to_owned());
            storage.outputs.push(Output { name, path, max_mib: 1, required: false });
        }
        let exit = rig.finished().await;
        assert_eq!(exit.code, Some(0), "{exit:?} {}", rig.log("stderr.log"));
        let said = rig.log("stdout.log");
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("claim 17 begun 0o700 1000"), "{said}");
        let full = lines.next().unwrap_or_default();
        assert!(["full at 7 True", "full at 8 True"].contains(&full) && lines.next().is_none(), "{said}");
        assert_eq!(fs::read(given.join("claim")).unwrap(), b"claim 17");
        assert_eq!(fs::read(given.join("template/begun/with")).unwrap(), b"begun");
        if carrier.is_machine() {
            return assert_eq!(exit.artifacts, []);
        }
        let kept: Vec<_> = exit.artifacts.iter().map(|a| (a.name.as_str(), a.content.is_some())).collect();
        assert_eq!(kept, [("result", true), ("out", false), ("none", false)], "{:?}", exit.artifacts);
        let content = exit.artifacts[0].content.as_ref().unwrap();
        assert!(content.bytes >= 4 && content.entries >= 1, "{content:?}");
    });
}

fn memory(carrier: &Carrier) {
    files(carrier, Medium::Memory);
}

fn disk(carrier: &Carrier) {
    files(carrier, Medium::Disk);
}

/// Mounts of the host, which end with the test.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    fn mount(&mut self, at: &Path) {
        command("mount", &["-t", "tmpfs", "of-the-host"], at);
        self.0.push(at.to_owned());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.0.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

fn command(program: &str, arguments: &[&str], at: &Path) {
    assert!(Command::new(program).args(arguments).arg(at).status().unwrap().success());
}

fn later(carrier: &Carrier) {
    run(async {
        let program = "import sys, os\nprint('up', os.listdir('/data/late'), flush=True)\n\
                       n = 0\nwhile True:\n    n += 1\n    print(n, os.listdir('/data/late'), flush=True)\n    __import__('time').sleep(0.02)";
        let mut rig = carrier.python(program);
        let mut mounted = Mounted(Vec::new());
        let source = rig.data.path().join("shared");
        fs::create_dir(&source).unwrap();
        mounted.mount(&source);
        // As the mounts of a host are where systemd runs.
        command("mount", &["--make-shared"], &source);
        fs::create_dir(source.join("late")).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
        rig.spec.mounts.push(ReadOnlyMount { source: source.clone(), at: "/data".into() });
        let run = rig.started().await;
        rig.until("up").await;
        let groups = rig.groups_left();
        let members = groups.iter().flat_map(|group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            text.lines().map(|pid| pid.parse::<i32>().unwrap()).collect::<Vec<_>>()
        });
        let first = members.min().unwrap();
        let table = || fs::read_to_string(format!("/proc/{first}/mountinfo")).unwrap();
        let before = table();
        assert!(!before.is_empty() && !before.contains("master:") && !before.contains("shared:"), "{before}");
        mounted.mount(&source.join("late"));
        fs::write(source.join("late/of-the-host"), "x").unwrap();
        let lines = rig.log("stdout.log").lines().count();
        rig.until(&format!("\n{} [", lines + 3)).await;
        assert!(!rig.log("stdout.log").contains("of-the-host"));
        assert_eq!(table(), before);
        assert!(run.attest().await.unwrap().unwrap().gone().is_none());
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
    });
}
