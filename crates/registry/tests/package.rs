//! Packages: the same digest on both sides, and streams that were made to break out.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use cogward_registry::{
    manifest::{parse, template},
    package::{
        ContentError, KeepError, Limits, PackError, ReceiveError, Staged, VerifyError, WalkError, check, pack, receive,
        sweep, verify,
    },
};
use tar::{Builder, EntryType, Header};

fn manifest_text() -> String {
    template("clerk").replace("    # prompts: [prompts/system.md]", "    prompts: [prompts/system.md]")
}

/// A package with all that may be in one.
fn author(dir: &Path) -> PathBuf {
    let base = dir.join("agent");
    fs::create_dir_all(base.join("prompts")).unwrap();
    fs::create_dir_all(base.join("empty")).unwrap();
    fs::write(base.join("agent.yaml"), manifest_text()).unwrap();
    fs::write(base.join("agent.py"), "print('hello')\n").unwrap();
    fs::write(base.join("prompts/system.md"), "Be brief.\n").unwrap();
    fs::write(base.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(base.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    let deep = base.join("a".repeat(120)).join("b".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("ünïcode name"), vec![7; 300_000]).unwrap();
    symlink("prompts/system.md", base.join("link")).unwrap();
    symlink("/usr/bin/python3", base.join("python")).unwrap();
    symlink(format!("x/{}", "y".repeat(150)), base.join("long-link")).unwrap();
    base
}

fn packed(base: &Path) -> Result<(Vec<u8>, cogward_registry::package::Packed), PackError> {
    let text = manifest_text();
    let manifest = parse("agent.yaml", text.as_bytes()).unwrap().manifest;
    let mut stream = Vec::new();
    let packed = pack(base, ("agent.yaml", text.as_bytes()), &manifest, Limits::default(), &mut stream)?;
    Ok((stream, packed))
}

fn packages(dir: &Path) -> PathBuf {
    let packages = dir.join("packages");
    fs::create_dir_all(&packages).unwrap();
    packages
}

fn received(stream: &[u8], dir: &Path) -> Result<Staged, ReceiveError> {
    receive(stream, &packages(dir), Limits::default())
}

#[test]
fn both_sides_and_the_stored_files_have_one_digest() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, sent) = packed(&author(dir.path())).unwrap();
    let staged = received(&stream, dir.path()).unwrap();
    assert_eq!(staged.summary(), sent.summary);
    assert_eq!((staged.manifest_name(), staged.manifest()), ("agent.yaml", manifest_text().as_bytes()));
    let parsed = parse(staged.manifest_name(), staged.manifest()).unwrap();
    assert!(check(&parsed, staged.contents()).is_empty());
    let kept = staged.keep().unwrap();
    assert_eq!(kept.file_name().unwrap().to_str().unwrap(), sent.summary.digest.hex());
    assert_eq!(verify(&packages(dir.path()), sent.summary.digest).unwrap(), sent.summary);
    let mode = |p: &str| fs::metadata(kept.join(p)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("code/run.sh"), mode("code/agent.py"), mode("code/prompts")), (0o755, 0o644, 0o755));
    assert_eq!(fs::read_link(kept.join("code/python")).unwrap(), Path::new("/usr/bin/python3"));
    // Again: the same directory, and nothing is left over.
    received(&stream, dir.path()).unwrap().keep().unwrap();
    assert_eq!(fs::read_dir(packages(dir.path())).unwrap().count(), 1);
}

#[test]
fn the_digest_is_of_the_files_and_not_of_their_place_or_age() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (packed(&author(a.path())).unwrap(), packed(&author(b.path())).unwrap());
    assert_eq!(one.0, two.0, "byte for byte");
    let base = b.path().join("agent");
    let digest = one.1.summary.digest;
    for change in [
        |b: &Path| fs::write(b.join("agent.py"), "print('other')\n").unwrap(),
        |b: &Path| fs::write(b.join("new"), "").unwrap(),
        |b: &Path| fs::set_permissions(b.join("new"), fs::Permissions::from_mode(0o755)).unwrap(),
        |b: &Path| fs::rename(b.join("new"), b.join("newer")).unwrap(),
        |b: &Path| fs::create_dir(b.join("dir")).unwrap(),
        |b: &Path| symlink("a", b.join("dir/l")).unwrap(),
    ] {
        let before = packed(&base).unwrap().1.summary.digest;
        change(&base);
        let after = packed(&base).unwrap().1.summary.digest;
        assert!(after != before && after != digest);
    }
}

#[test]
fn a_stored_package_that_was_changed_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, sent) = packed(&author(dir.path())).unwrap();
    let kept = received(&stream, dir.path()).unwrap().keep().unwrap();
    let digest = sent.summary.digest;
    fs::write(kept.join("code/agent.py"), "print('evil!')\n").unwrap();
    assert!(matches!(verify(&packages(dir.path()), digest), Err(VerifyError::Changed { .. })));
    assert!(matches!(received(&stream, dir.path()).unwrap().keep(), Err(KeepError::Damaged(_))));
    fs::write(kept.join("code/agent.py"), "print('hello')\n").unwrap();
    verify(&packages(dir.path()), digest).unwrap();
    fs::create_dir(kept.join("extra")).unwrap();
    assert!(matches!(verify(&packages(dir.path()), digest), Err(VerifyError::Walk(_))));
    fs::remove_dir_all(&kept).unwrap();
    assert!(matches!(verify(&packages(dir.path()), digest), Err(VerifyError::Missing(_))));
}

#[test]
fn what_cannot_be_in_a_package_is_refused_by_the_author_side() {
    type Change = fn(&Path);
    type Wanted = fn(&PackError) -> bool;
    let cases: [(&str, Change, Wanted); 5] = [
        (
            "pipe",
            |b| rustix::fs::mknodat(rustix::fs::CWD, b.join("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
            |e| matches!(e, PackError::Walk(WalkError::Kind { .. })),
        ),
        (
            "socket",
            |b| drop(std::os::unix::net::UnixListener::bind(b.join("s")).unwrap()),
            |e| matches!(e, PackError::Walk(WalkError::Kind { .. })),
        ),
        (
            "setuid",
            |b| fs::set_permissions(b.join("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap(),
            |e| matches!(e, PackError::Walk(WalkError::SetId { .. })),
        ),
        (
            "link out",
            |b| symlink("../../../../etc/passwd", b.join("out")).unwrap(),
            |e| matches!(e, PackError::Walk(WalkError::Content(ContentError::Link { .. }))),
        ),
        (
            "line break",
            |b| fs::write(b.join("a\nb"), "").unwrap(),
            |e| matches!(e, PackError::Walk(WalkError::Content(ContentError::Path { .. }))),
        ),
    ];
    for (name, change, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let base = author(dir.path());
        change(&base);
        let error = packed(&base).unwrap_err();
        assert!(wanted(&error), "{name}: {error:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(packed(&dir.path().join("none")), Err(PackError::Walk(WalkError::Io { .. }))));
}

#[test]
fn a_link_to_a_directory_outside_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let base = author(dir.path());
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "do not pack me").unwrap();
    symlink(&secret, base.join("inside")).unwrap();
    let (stream, _) = packed(&base).unwrap();
    assert!(!stream.windows(14).any(|w| w == b"do not pack me"));
}

/// A stream whose entries are given as they are, without any check.
struct Hostile(Builder<Vec<u8>>);

impl Hostile {
    fn new() -> Self {
        let mut hostile = Self(Builder::new(Vec::new()));
        hostile.raw("agent.yaml", EntryType::Regular, 0o644, manifest_text().as_bytes(), "");
        hostile
    }

    fn code() -> Self {
        let mut hostile = Self::new();
        hostile.raw("code", EntryType::Directory, 0o755, b"", "");
        hostile
    }

    fn raw(&mut self, path: &str, kind: EntryType, mode: u32, data: &[u8], target: &str) -> &mut Self {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(&mut self, path: &str) -> &mut Self {
        self.raw(path, EntryType::Regular, 0o644, b"x", "")
    }

    fn done(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.0, Builder::new(Vec::new())).into_inner().unwrap()
    }
}

#[test]
fn hostile_streams_are_refused_and_leave_nothing() {
    let link = EntryType::Symlink;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("parent", Hostile::code().file("code/../../evil").done()),
        ("absolute", Hostile::code().file("/tmp/evil").done()),
        ("dot", Hostile::code().file("./code/evil").done()),
        ("top", Hostile::code().file("evil").done()),
        ("package.json", Hostile::code().file("package.json").done()),
        ("link out", Hostile::code().raw("code/l", link, 0o777, b"", "../../outside").done()),
        ("through a link", Hostile::code().raw("code/l", link, 0o777, b"", "/tmp").file("code/l/evil").done()),
        ("over a link", Hostile::code().raw("code/l", link, 0o777, b"", "/tmp/evil").file("code/l").done()),
        ("tree as a link", Hostile::new().raw("code", link, 0o777, b"", "/tmp").file("code/evil").done()),
        ("hard link", Hostile::code().raw("code/h", EntryType::Link, 0o644, b"", "/etc/passwd").done()),
        ("device", Hostile::code().raw("code/d", EntryType::Char, 0o644, b"", "").done()),
        ("block device", Hostile::code().raw("code/d", EntryType::Block, 0o644, b"", "").done()),
        ("pipe", Hostile::code().raw("code/p", EntryType::Fifo, 0o644, b"", "").done()),
        ("sparse", Hostile::code().raw("code/s", EntryType::GNUSparse, 0o644, b"", "").done()),
        (
            "gnu long name",
            Hostile::code().raw("x", EntryType::GNULongName, 0o644, b"code/evil", "").file("code/y").done(),
        ),
        (
            "global",
            Hostile::code().raw("x", EntryType::XGlobalHeader, 0o644, b"11 path=ab\n", "").file("code/y").done(),
        ),
        (
            "other extension",
            Hostile::code().raw("x", EntryType::XHeader, 0o644, b"10 size=9\n", "").file("code/y").done(),
        ),
        (
            "bad extension",
            Hostile::code().raw("x", EntryType::XHeader, 0o644, b"99999 path=9\n", "").file("code/y").done(),
        ),
        (
            "extension out",
            Hostile::code().raw("x", EntryType::XHeader, 0o644, b"16 path=../evil\n", "").file("code/y").done(),
        ),
        (
            "huge extension",
            Hostile::code().raw("x", EntryType::XHeader, 0o644, &[b'9'; 10_000], "").file("code/y").done(),
        ),
        ("setuid", Hostile::code().raw("code/s", EntryType::Regular, 0o4755, b"x", "").done()),
        ("twice", Hostile::code().file("code/a").file("code/a").done()),
        ("file over directory", Hostile::code().file("code").done()),
        ("below a file", Hostile::code().file("code/a").file("code/a/b").done()),
        ("no parent", Hostile::code().file("code/no/b").done()),
        ("no manifest", Hostile(Builder::new(Vec::new())).raw("code", EntryType::Directory, 0o755, b"", "").done()),
        ("empty", Vec::new()),
        ("noise", vec![0x5a; 4_096]),
        ("cut in the head", Hostile::code().file("code/a").done()[..1_800].to_vec()),
    ];
    for (name, stream) in cases {
        let dir = tempfile::tempdir().unwrap();
        let outcome = received(&stream, dir.path());
        assert!(outcome.is_err(), "{name} was taken");
        drop(outcome);
        assert_eq!(fs::read_dir(packages(dir.path())).unwrap().count(), 0, "{name} left something");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name} wrote elsewhere");
        assert!(!Path::new("/tmp/evil").exists());
    }
}

#[test]
fn a_size_that_no_disk_has_is_refused_before_it_is_read() {
    let mut header = Header::new_gnu();
    header.set_path("code/big").unwrap();
    header.set_size(1 << 60);
    header.set_mode(0o644);
    header.set_cksum();
    let mut stream = Hostile::code().done();
    stream.truncate(stream.len() - 1_024);
    let end = io::repeat(0).take(1 << 40);
    let dir = tempfile::tempdir().unwrap();
    let endless = stream.as_slice().chain(&header.as_bytes()[..]).chain(end);
    let outcome = receive(endless, &packages(dir.path()), Limits::default());
    assert!(matches!(outcome, Err(ReceiveError::Content(ContentError::TooLarge(_)))));
}

#[test]
fn bounds_on_entries_and_bytes_hold() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 50, bytes: 1_000 };
    let mut many = Hostile::code();
    for n in 0..60 {
        many.file(&format!("code/{n}"));
    }
    let many = receive(many.done().as_slice(), &packages(dir.path()), limits);
    assert!(matches!(many, Err(ReceiveError::Content(ContentError::TooMany(50)))));
    let mut large = Hostile::code();
    large.raw("code/a", EntryType::Regular, 0o644, &[0; 600], "").raw(
        "code/b",
        EntryType::Regular,
        0o644,
        &[0; 600],
        "",
    );
    let large = receive(large.done().as_slice(), &packages(dir.path()), limits);
    assert!(matches!(large, Err(ReceiveError::Content(ContentError::TooLarge(1_000)))));
}

#[test]
fn a_million_entries_end_at_the_limit() {
    /// Directories without end, made as they are read.
    struct Endless(Vec<u8>, usize, u64);
    impl Read for Endless {
        fn read(&mut self, mut out: &mut [u8]) -> io::Result<usize> {
            if self.1 == self.0.len() {
                let mut header = Header::new_ustar();
                header.set_path(format!("code/{}", self.2)).unwrap();
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                header.set_cksum();
                (self.0, self.1, self.2) = (header.as_bytes().to_vec(), 0, self.2 + 1);
            }
            let count = out.write(&self.0[self.1..])?;
            self.1 += count;
            Ok(count)
        }
    }
    let mut head = Hostile::code().done();
    head.truncate(head.len() - 1_024);
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 2_000, ..Limits::default() };
    let outcome = receive(Endless(head, 0, 0), &packages(dir.path()), limits);
    assert!(matches!(outcome, Err(ReceiveError::Content(ContentError::TooMany(2_000)))));
}

#[test]
fn what_a_crash_left_is_swept_and_packages_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, sent) = packed(&author(dir.path())).unwrap();
    received(&stream, dir.path()).unwrap().keep().unwrap();
    std::mem::forget(received(&stream, dir.path()).unwrap());
    assert_eq!(sweep(&packages(dir.path())).unwrap(), 1);
    assert_eq!(sweep(&packages(dir.path())).unwrap(), 0);
    verify(&packages(dir.path()), sent.summary.digest).unwrap();
}

#[test]
fn files_that_the_manifest_names_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let base = author(dir.path());
    fs::remove_file(base.join("prompts/system.md")).unwrap();
    fs::remove_file(base.join("agent.py")).unwrap();
    let (_, sent) = packed(&base).unwrap();
    let parsed = parse("agent.yaml", manifest_text().as_bytes()).unwrap();
    let findings = check(&parsed, &sent.contents);
    let paths: Vec<_> = findings.findings.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["spec.package.prompts[0]", "spec.package.entrypoint[1]"]);
    assert!(findings.findings.iter().all(|f| f.line > 0 && f.rule == "package-file"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn any_stream_is_refused_or_stays_inside(flips in proptest::collection::vec((0_usize..6_000, proptest::prelude::any::<u8>()), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = Hostile::code().file("code/a").raw("code/l", EntryType::Symlink, 0o777, b"", "a").done();
        for (at, value) in flips {
            let length = stream.len();
            stream[at % length] = value;
        }
        if let Ok(staged) = received(&stream, dir.path()) {
            let digest = staged.summary().digest;
            staged.keep().unwrap();
            proptest::prop_assert_eq!(verify(&packages(dir.path()), digest).unwrap().digest, digest);
        }
        proptest::prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

/// A manifest with a skill and files to begin with, and what is found wrong with a package for it.
fn findings_of(change: impl Fn(&Path), more: &str) -> (String, Vec<(String, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let base = author(dir.path());
    fs::create_dir_all(base.join("skills/pdf")).unwrap();
    fs::write(base.join("skills/pdf/SKILL.md"), "hello").unwrap();
    fs::create_dir_all(base.join("template")).unwrap();
    fs::write(base.join("template/letter.txt"), "Dear").unwrap();
    change(&base);
    let text = manifest_text()
        .replace("    prompts: [prompts/system.md]", "    prompts: [prompts/system.md]\n    skills: [skills/pdf/]")
        .replace("  sandbox:\n", &format!("  sandbox:\n    workspace: {{from: template}}\n{more}"));
    let parsed = parse("agent.yaml", text.as_bytes()).unwrap_or_else(|f| panic!("{f}"));
    let mut stream = Vec::new();
    pack(&base, ("agent.yaml", text.as_bytes()), &parsed.manifest, Limits::default(), &mut stream).unwrap();
    let staged = received(&stream, dir.path()).unwrap();
    let found = check(&parsed, staged.contents());
    let skills = cogward_registry::package::skills(&parsed.manifest, staged.contents()).unwrap();
    let skills = skills.into_iter().map(|(name, digest)| (name, digest.to_string())).collect();
    (found.findings.iter().map(|f| format!("{} {}\n", f.path, f.rule)).collect(), skills)
}

#[test]
fn a_skill_has_a_digest_of_its_own() {
    let (found, skills) = findings_of(|_| (), "");
    assert_eq!(found, "");
    // printf 'cogward-tree-v1\nf\t-\t%s\t5\tSKILL.md\n' "$(printf hello | sha256sum | cut -c-64)" | sha256sum
    let digest = "sha256:5dc098885235d9be95c50b245f6791b23c0774ca92849c813728c1fbbc1c7956";
    assert_eq!(skills, [("pdf".to_owned(), digest.to_owned())]);
    let (_, changed) = findings_of(|base| fs::write(base.join("skills/pdf/SKILL.md"), "hellp").unwrap(), "");
    assert_ne!(skills, changed);
}

#[test]
fn a_skill_or_a_beginning_that_is_not_there_as_a_directory_is_refused() {
    let skill = |make: fn(&Path)| {
        findings_of(
            |base| {
                fs::remove_dir_all(base.join("skills/pdf")).unwrap();
                make(&base.join("skills/pdf"));
            },
            "",
        )
        .0
    };
    for found in [skill(|_| ()), skill(|p| fs::write(p, "").unwrap()), skill(|p| symlink("..", p).unwrap())] {
        assert_eq!(found, "spec.package.skills[0] package-file\n");
    }
    let (found, _) = findings_of(
        |base| {
            fs::remove_dir_all(base.join("template")).unwrap();
            symlink("prompts", base.join("template")).unwrap();
        },
        "",
    );
    assert_eq!(found, "spec.sandbox.workspace.from package-file\n");
}

#[test]
fn what_a_workspace_begins_with_must_fit_into_it() {
    let big = |base: &Path| fs::write(base.join("template/big"), vec![0; 65 << 20]).unwrap();
    assert_eq!(findings_of(big, "").0, "spec.sandbox.workspace.from workspace-size\n");
    let many = |base: &Path| (0..70).for_each(|n| fs::write(base.join(format!("template/{n}")), "").unwrap());
    assert_eq!(findings_of(many, "").0, "");
}
