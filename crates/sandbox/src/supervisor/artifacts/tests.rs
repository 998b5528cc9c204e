//! Trees that an agent could leave, on a real file system.

use std::{
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
};

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(dir.path().join("secret"), "of the host").unwrap();
        Self { dir }
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("run/artifacts/out")
    }

    fn collect_with(&self, path: &str, meanwhile: &mut dyn FnMut()) -> Artifact {
        let work = rustix::fs::open(self.work(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let output = Output { name: "out".parse().unwrap(), path: format!("/work/{path}"), max_mib: 1, required: true };
        collect(&work, &[output], 64 << 20, &self.dir.path().join("run"), meanwhile).remove(0)
    }

    fn collect(&self, path: &str) -> Artifact {
        self.collect_with(path, &mut || {})
    }

    /// Not kept, for this reason, and nothing of it is left.
    fn refused(&self, path: &str, reason: NotKept) {
        let artifact = self.collect(path);
        assert_eq!((artifact.refused, artifact.content), (Some(reason), None), "{artifact:?}");
        assert!(!self.kept().exists());
        assert!(!artifact.detail.unwrap_or_default().chars().any(char::is_control));
    }
}

#[test]
fn a_file_is_kept_with_the_digest_of_its_bytes() {
    let place = Place::new();
    fs::write(place.work().join("out.txt"), "hello").unwrap();
    let content = place.collect("out.txt").content.unwrap();
    assert_eq!((content.kind, content.bytes, content.entries), (ContentKind::File, 5, 1));
    // printf hello | sha256sum
    assert_eq!(content.digest.hex(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    assert_eq!(fs::read(place.kept()).unwrap(), b"hello");
    assert_eq!(fs::metadata(place.kept()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_tree_is_kept_as_a_tree_with_the_digest_of_its_listing() {
    let place = Place::new();
    let out = place.work().join("out");
    fs::create_dir_all(out.join("a/b")).unwrap();
    fs::write(out.join("a/b/f"), "hello").unwrap();
    fs::write(out.join("run.sh"), "").unwrap();
    fs::set_permissions(out.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let content = place.collect("out").content.unwrap();
    assert_eq!((content.kind, content.bytes, content.entries), (ContentKind::Directory, 5, 4));
    let (hello, empty) = (sha256(b"hello").hex(), sha256(b"").hex());
    let listing = format!("cogward-tree-v1\nd\ta\nd\ta/b\nf\t-\t{hello}\t5\ta/b/f\nf\tx\t{empty}\t0\trun.sh\n");
    assert_eq!(content.digest, sha256(listing.as_bytes()));
    assert_eq!(fs::read(place.kept().join("a/b/f")).unwrap(), b"hello");
}

#[test]
fn a_link_is_never_followed() {
    for target in ["../secret", "/etc/passwd", "real", "out"] {
        let place = Place::new();
        fs::write(place.work().join("real"), "x").unwrap();
        symlink(target, place.work().join("out")).unwrap();
        place.refused("out", NotKept::Link);
    }
    let place = Place::new();
    symlink("..", place.work().join("up")).unwrap();
    place.refused("up/secret", NotKept::Link);
    let place = Place::new();
    fs::create_dir(place.work().join("out")).unwrap();
    symlink("../../secret", place.work().join("out/link")).unwrap();
    place.refused("out", NotKept::Link);
}

#[test]
fn pipes_sockets_and_what_is_not_there_are_named() {
    let place = Place::new();
    place.refused("out", NotKept::Missing);
    let place = Place::new();
    fs::write(place.work().join("out"), "x").unwrap();
    place.refused("out/below", NotKept::Missing);
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.work().join("out"), Mode::from_raw_mode(0o600)).unwrap();
    place.refused("out", NotKept::NotAFile);
    let place = Place::new();
    let _socket = UnixListener::bind(place.work().join("out")).unwrap();
    place.refused("out", NotKept::NotAFile);
    let place = Place::new();
    fs::create_dir(place.work().join("out")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.work().join("out/pipe"), Mode::from_raw_mode(0o600)).unwrap();
    place.refused("out", NotKept::NotAFile);
}

#[test]
fn size_number_depth_and_names_are_bounded() {
    let place = Place::new();
    fs::write(place.work().join("out"), vec![0; 1024 * 1024 + 1]).unwrap();
    place.refused("out", NotKept::TooLarge);

    // A terabyte of holes is refused without reading one.
    let place = Place::new();
    File::create(place.work().join("out")).unwrap().set_len(1 << 40).unwrap();
    place.refused("out", NotKept::TooLarge);

    // Many files that are together too large.
    let place = Place::new();
    fs::create_dir(place.work().join("out")).unwrap();
    for n in 0..5 {
        fs::write(place.work().join(format!("out/{n}")), vec![0; 256 * 1024]).unwrap();
    }
    place.refused("out", NotKept::TooLarge);

    let place = Place::new();
    fs::create_dir(place.work().join("out")).unwrap();
    for n in 0..=CONTENT_ENTRIES_MAX {
        File::create(place.work().join(format!("out/{n}"))).unwrap();
    }
    place.refused("out", NotKept::TooMany);

    let place = Place::new();
    fs::create_dir_all(place.work().join("out").join(["d"; 40].join("/"))).unwrap();
    place.refused("out", NotKept::TooDeep);

    for name in [&b"line\nbreak"[..], b"\x1b[2Jclear", b"\xff\xfe", b"tab\there"] {
        let place = Place::new();
        fs::create_dir(place.work().join("out")).unwrap();
        File::create(place.work().join("out").join(std::ffi::OsStr::from_bytes(name))).unwrap();
        place.refused("out", NotKept::BadName);
    }
}

/// What a process that could not be killed could still do.
#[test]
fn a_file_that_changes_while_it_is_read_is_not_kept() {
    for change in [1_u8, 2] {
        let place = Place::new();
        let file = place.work().join("out");
        fs::write(&file, vec![b'a'; 700 * 1024]).unwrap();
        let mut turns = 0;
        let artifact = place.collect_with("out", &mut || {
            turns += 1;
            if turns == 2 {
                let open = OpenOptions::new().append(change == 1).write(true).open(&file).unwrap();
                match change {
                    1 => (&open).write_all(b"more").unwrap(),
                    _ => open.set_len(10).unwrap(),
                }
            }
        });
        assert_eq!(artifact.refused, Some(NotKept::Changed), "{artifact:?}");
        assert!(!place.kept().exists());
    }
}

#[test]
fn the_output_file_is_taken_whole_or_not() {
    let place = Place::new();
    let work = rustix::fs::open(place.work(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let read = || read_small(work.as_fd(), "output", 4);
    assert_eq!(read(), Ok(None));
    fs::write(place.work().join("output"), "1234").unwrap();
    assert_eq!(read(), Ok(Some(b"1234".to_vec())));
    fs::write(place.work().join("output"), "12345").unwrap();
    assert_eq!(read(), Err(NotKept::TooLarge));
    fs::remove_file(place.work().join("output")).unwrap();
    symlink("../secret", place.work().join("output")).unwrap();
    assert_eq!(read(), Err(NotKept::Link));
}

#[test]
fn a_file_with_two_names_is_refused_alone_and_in_a_directory() {
    for (path, names) in [("out", 2), ("out/one", 2), ("out", 1), ("out/one", 1)] {
        let place = Place::new();
        fs::create_dir(place.work().join("out")).unwrap();
        fs::write(place.work().join("out/one"), "hello").unwrap();
        if names == 2 {
            fs::hard_link(place.work().join("out/one"), place.work().join("out/two")).unwrap();
            place.refused(path, NotKept::Link);
        } else {
            assert!(place.collect(path).content.is_some());
        }
    }
}

#[test]
fn all_outputs_together_are_no_larger_than_the_workspace() {
    let place = Place::new();
    // All holes: they take nothing in the workspace.
    for name in ["a", "b", "c"] {
        File::create(place.work().join(name)).unwrap().set_len(600 << 10).unwrap();
    }
    fs::write(place.work().join("d"), "small").unwrap();
    let outputs = ["a", "b", "c", "d"].map(|name| Output {
        name: name.parse().unwrap(),
        path: format!("/work/{name}"),
        max_mib: 1,
        required: false,
    });
    let work = rustix::fs::open(place.work(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let kept = collect(&work, &outputs, 1 << 20, &place.dir.path().join("run"), &mut || {});
    let reasons: Vec<_> = kept.iter().map(|artifact| artifact.refused).collect();
    assert_eq!(reasons, [None, Some(NotKept::TooLarge), Some(NotKept::TooLarge), None]);
    assert!(kept[1].detail.as_ref().unwrap().contains("all outputs together"), "{kept:?}");
    assert!(!place.dir.path().join("run/artifacts/b").exists());
}
