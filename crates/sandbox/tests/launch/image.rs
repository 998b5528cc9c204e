//! Packages that come from an image of their own.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use cogward_model::{Digest, manifest::Profile};
use cogward_sandbox::{HostReport, LaunchError, ReadOnlyMount, Root};

use crate::{
    Test,
    rig::{self, Rig, imaged, python, run},
    world,
};

pub const TESTS: &[Test] = &[
    ("image::nothing_of_the_host_is_seen_of_a_package", nothing_of_the_host),
    ("image::what_is_written_to_the_directory_later_is_not_seen", later),
    ("image::two_runs_of_a_package_share_no_file", strangers),
    ("image::a_root_skills_and_a_template_come_out_of_it", whole),
    ("image::one_that_was_changed_is_refused_before_the_agent", changed),
    ("image::a_package_that_is_mounted_from_elsewhere_is_found", elsewhere),
    ("image::the_evidence_says_what_it_was", said),
    ("image::the_doctor_says_why_there_are_none", none),
];

const LOOKS: &str = r#"
import os
table = [line.split() for line in open('/proc/self/mountinfo')]
for line in table:
    if line[4] in ('/app', '/skills/s'):
        dash = line.index('-')
        print(line[4], line[3], sorted(set(line[5].split(',')) & {'ro', 'nosuid', 'nodev'}), line[dash + 1], line[dash + 2].rsplit('/', 1)[0])
for name in ('mountinfo', 'mounts', 'mountstats'):
    text = open('/proc/self/' + name).read()
    print(name, os.environ['DATA'] in text)
def refused(what):
    try: what(); print('DONE')
    except OSError as e: print(e.errno)
refused(lambda: open('/app/main.py', 'a'))
refused(lambda: open('/app/new', 'w'))
refused(lambda: os.remove('/app/main.py'))
refused(lambda: os.chmod('/app/main.py', 0o777))
print(os.stat('/app/main.py').st_dev, flush=True)
"#;

fn data(rig: &Rig) -> String {
    rig.data.path().to_string_lossy().into_owned()
}

fn nothing_of_the_host() {
    for profile in [Profile::Standard, Profile::Hardened] {
        run(async move {
            let mut rig = python(LOOKS);
            rig.spec.profile = profile;
            let data = data(&rig);
            rig.spec.env.push(("DATA".into(), data));
            imaged(&mut rig);
            let exit = rig.finished().await;
            assert_eq!(exit.code, Some(0), "{}", rig.log("stderr.log"));
            let said = rig.log("stdout.log");
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(
                lines[..8],
                [
                    "/app / ['nodev', 'nosuid', 'ro'] erofs /proc/self/fd",
                    "mountinfo False",
                    "mounts False",
                    "mountstats False",
                    "30",
                    "30",
                    "30",
                    "30",
                ],
                "{said}"
            );
            // Of the directory all of it is seen.
            let mut bare = python(LOOKS);
            bare.spec.profile = profile;
            let data = self::data(&bare);
            bare.spec.env.push(("DATA".into(), data));
            assert_eq!(bare.finished().await.code, Some(0));
            let shown = bare.log("stdout.log");
            assert!(shown.contains("mountinfo True") && !shown.contains("erofs"), "{shown}");

            let host = rig.spec.mounts[0].source.metadata().unwrap().dev();
            assert_ne!(lines[8], host.to_string());
        });
    }
}

fn later() {
    run(async {
        let program = "import time, os\nprint('up', flush=True)\nn = 0\nwhile True:\n    n += 1\n    \
                       print(n, open('/app/main.py').read().count('LA' + 'TER'), os.listdir('/app'), flush=True)\n    time.sleep(0.02)\n";
        let mut rig = python(program);
        imaged(&mut rig);
        let run = rig.started().await;
        rig.until("up").await;
        let code = rig.spec.mounts[0].source.clone();
        // In place: the same inode, and the same pages where they are shared.
        let file = fs::OpenOptions::new().write(true).open(code.join("main.py")).unwrap();
        file.write_all_at(b"# LATER LATER LATER", 0).unwrap();
        file.sync_all().unwrap();
        fs::write(code.join("new"), "x").unwrap();
        let lines = rig.log("stdout.log").lines().count();
        rig.until(&format!("\n{} 0 ['main.py']", lines + 3)).await;
        assert!(!rig.log("stdout.log").contains("new"));
        assert!(run.attest().await.unwrap().unwrap().gone().is_none());
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
        // The next start of a directory sees what is there now: the image is what keeps it out.
        rig.spec.package_image = None;
        fs::create_dir(rig.data.path().join("again")).unwrap();
        rig.spec.run_dir = rig.data.path().join("again");
        rig.spec.argv = ["/bin/cat", "main.py"].map(str::to_owned).to_vec();
        assert_eq!(rig.finished().await.code, Some(0));
        assert!(rig.log("stdout.log").contains("LATER"));
    });
}

fn strangers() {
    run(async {
        // A lock that each run takes on the same file of the same package: they can tell nothing to each other.
        let program = "import fcntl, os, time\nf = open('/app/main.py')\nfcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
                       print('up', os.fstat(f.fileno()).st_dev, flush=True)\ntime.sleep(99)\n";
        let mut one = python(program);
        imaged(&mut one);
        let mut two = python("");
        (two.spec.mounts, two.spec.package_image) = (one.spec.mounts.clone(), one.spec.package_image.clone());
        let (first, second) = (one.started().await, two.started().await);
        one.until("up").await;
        two.until("up").await;
        assert_ne!(one.log("stdout.log"), two.log("stdout.log"));
        for run in [first, second] {
            assert!(run.kill().await.unwrap().empty);
            run.wait().await;
        }
    });
}

fn whole() {
    run(async {
        let program = "import os, sys\nprint(sys.executable, open('/skills/s/SKILL.md').read(), open('/work/with').read())\n\
                       print(sorted(set(line.split(' - ')[1].split()[0] for line in open('/proc/self/mountinfo'))))\n\
                       print(sum(os.environ['DATA'] in line for line in open('/proc/self/mountinfo')))\n";
        let mut rig = python(program);
        let package = rig.data.path().join("package");
        let app = package.join("root/app");
        fs::create_dir_all(&package).unwrap();
        assert!(Command::new("cp").arg("-a").arg(world::image()).arg(package.join("root")).status().unwrap().success());
        fs::create_dir_all(app.join("skills/s")).unwrap();
        fs::create_dir(app.join("begin")).unwrap();
        for (file, text) in [("main.py", program), ("skills/s/SKILL.md", "a skill"), ("begin/with", "begun")] {
            fs::write(app.join(file), text).unwrap();
        }
        rig.spec.root = Root::Image { dir: package.join("root") };
        rig.spec.mounts = vec![ReadOnlyMount { source: app.join("skills/s"), at: "/skills/s".into() }];
        rig.spec.storage.from = Some(app.join("begin"));
        let data = data(&rig);
        rig.spec.env.push(("DATA".into(), data));
        rig::image_of(&mut rig, &package);
        let run = rig.started().await;
        let (facts, checks) = run.proof().map(|proof| (proof.facts.clone(), proof.checks.clone())).unwrap();
        assert!(checks.iter().any(|check| check.name.contains("package") && check.holds), "{checks:?}");
        assert_eq!(facts.package.as_deref(), Some("erofs"));
        let exit = run.wait().await;
        assert_eq!(exit.code, Some(0), "{}", rig.log("stderr.log"));
        let said = rig.log("stdout.log");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], lines[2]), ("/usr/bin/python3 a skill begun", "0"), "{said}");
        // What else is there is the devices.
        assert_eq!(lines[1].replace("'devtmpfs', ", ""), "['erofs', 'proc', 'tmpfs']");
    });
}

/// Another byte, the same length, the same time.
fn change(file: &Path) {
    let found = file.metadata().unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let opened = fs::OpenOptions::new().write(true).open(file).unwrap();
    opened.write_all_at(b"!", found.len() - 1).unwrap();
    opened.set_modified(found.modified().unwrap()).unwrap();
}

fn changed() {
    type Attack = fn(&mut Rig);
    let attacks: [(&str, Attack); 5] = [
        ("a byte of it", |rig| change(&rig.spec.package_image.as_ref().unwrap().file)),
        ("another of the same name", |rig| {
            let file = &rig.spec.package_image.as_ref().unwrap().file;
            let other = file.with_file_name("other");
            fs::copy(file, &other).unwrap();
            change(&other);
            fs::rename(other, file).unwrap();
        }),
        ("a link to it", |rig| {
            let file = &rig.spec.package_image.as_ref().unwrap().file;
            let other = file.with_file_name("other");
            fs::rename(file, &other).unwrap();
            symlink(other, file).unwrap();
        }),
        ("more of it", |rig| {
            let file = &rig.spec.package_image.as_ref().unwrap().file;
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1 << 20).unwrap();
        }),
        ("none", |rig| fs::remove_file(&rig.spec.package_image.as_ref().unwrap().file).unwrap()),
    ];
    for (what, attack) in attacks {
        run(async move {
            let mut rig = python("open('/work/ran', 'w')\nprint('ran')\n");
            imaged(&mut rig);
            attack(&mut rig);
            let refused = cogward_sandbox::launch(&rig::exe(), &rig.spec).await.unwrap_err();
            let LaunchError::Refused(failure) = refused else { panic!("{what}: {refused}") };
            assert!(failure.stage.contains("image of the package"), "{what}: {failure}");
            let log = rig.spec.run_dir.join("stdout.log");
            assert!(fs::read(log).unwrap_or_default().is_empty() && rig.groups_left().is_empty(), "{what}");
        });
    }
}

fn elsewhere() {
    run(async {
        let mut rig = python("print('up', flush=True)\nimport time\ntime.sleep(600)\n");
        imaged(&mut rig);
        let run = rig.started().await;
        rig.until("up").await;
        let first = run.proof().unwrap();
        let check = first.checks.iter().find(|check| check.name == "package from where it was declared to be").unwrap();
        assert!(check.holds);
        let group = rig.groups_left().into_iter().next().unwrap();
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let init = processes.lines().map(|pid| pid.parse::<i32>().unwrap()).min().unwrap().to_string();
        // The host's root puts the directory over it.
        let over = ["-t", &init, "-m", "mount", "-t", "tmpfs", "-o", "ro", "other", "/app"];
        let done = Command::new("nsenter").args(over).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let found = run.attest().await.unwrap().unwrap();
        let gone: Vec<_> = found.checks.iter().filter(|check| !check.holds).collect();
        assert!(
            gone.iter()
                .any(|c| c.name.starts_with("package") && c.detail.as_deref().unwrap_or("").contains("/app is tmpfs")),
            "{gone:?}"
        );
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
    });
}

fn said() {
    run(async {
        let mut rig = python("");
        imaged(&mut rig);
        let image = rig.spec.package_image.clone().unwrap();
        let run = rig.held().await;
        assert_eq!(run.enforcement().package, "erofs");
        let facts = &run.proof().unwrap().facts;
        assert_eq!((facts.package.as_deref(), facts.package_image), (Some("erofs"), Some(image.digest)));
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;

        let rig = python("");
        let run = rig.held().await;
        assert_eq!(run.enforcement().package, "directory");
        let facts = &run.proof().unwrap().facts;
        assert_eq!((facts.package.as_deref(), facts.package_image), (Some("directory"), None));
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
        assert_ne!(image.digest, Digest::from_bytes([0; 32]));
    });
}

/// What the doctor says when it is started so, with this program as `$0`.
fn doctor(script: &str, program: &Path) -> HostReport {
    let done = Command::new("/bin/sh").args(["-c", script]).arg(program).stdin(Stdio::null()).output().unwrap();
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&done.stderr)))
}

fn none() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (plain, hangs) = (dir.path().join("plain"), dir.path().join("hangs-at-package-image"));
    for program in [&plain, &hangs] {
        fs::copy(rig::exe(), program).unwrap();
    }
    let here = doctor("exec \"$0\" supervise --probe", &plain);
    assert_eq!(here.require_package_images(), Ok(()));
    let masked = "for f in /usr/bin/mkfs.erofs /usr/sbin/mkfs.erofs; do [ ! -e $f ] || mount --bind /dev/null $f; done; \
                  exec \"$0\" supervise --probe";
    for (script, program, why) in [
        (format!("exec unshare -m /bin/sh -c '{masked}' \"$0\""), &plain, "erofs-utils"),
        ("exec setpriv --bounding-set -sys_admin \"$0\" supervise --probe".to_owned(), &plain, "mounting an image"),
        (
            "exec setpriv --reuid 54321 --regid 54321 --clear-groups \"$0\" supervise --probe".to_owned(),
            &plain,
            "runs as root",
        ),
        ("exec \"$0\" supervise --probe".to_owned(), &hangs, "hung"),
    ] {
        let report = doctor(&script, program);
        let missing = report.require_package_images().unwrap_err();
        assert!(missing.why.contains(why) && missing.fix.contains("erofs-utils"), "{script}: {missing:?}");
        // No profile depends on it.
        let lacking = report.require(Profile::Standard).err().unwrap_or_default();
        assert!(lacking.iter().all(|lacks| lacks.mechanism != "package-image"), "{lacking:?}");
    }
}
