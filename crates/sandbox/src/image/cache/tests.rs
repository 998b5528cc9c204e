//! Real images of hostile directories, made, changed and half made.

use std::{
    ffi::OsStr,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::image::{
    Backing,
    mount::{by_file, by_loop},
};

const PACKAGE: Digest = Digest::from_bytes([7; 32]);

struct World {
    dir: tempfile::TempDir,
    of: PathBuf,
    images: PathBuf,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (of, images) = (dir.path().join("package"), dir.path().join("images"));
    fs::create_dir_all(of.join("code/deep")).unwrap();
    fs::create_dir(&images).unwrap();
    fs::write(of.join("code/main.py"), "print(1)\n").unwrap();
    fs::write(of.join("code/deep/large"), vec![5; 100_000]).unwrap();
    symlink("../main.py", of.join("code/deep/link")).unwrap();
    World { dir, of, images }
}

fn same(at: &Path) -> Result<(), String> {
    let read = |name| fs::read(at.join(name)).map_err(|e| e.to_string());
    let link = fs::read_link(at.join("code/deep/link")).map_err(|e| e.to_string())?;
    let whole = read("code/main.py")? == b"print(1)\n" && read("code/deep/large")? == vec![5; 100_000];
    (whole && link == Path::new("../main.py")).then_some(()).ok_or_else(|| "other files".to_owned())
}

impl World {
    fn images(&self) -> Images {
        Images::new(self.images.clone())
    }

    fn made(&self) -> PackageImage {
        self.images().prepare(PACKAGE, &self.of, &same).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.images).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Another byte in a file that says nothing of it: same length, same time of its content.
fn change(file: &Path) {
    let found = file.metadata().unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let opened = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    let at = found.len() - 4096;
    opened.read_exact_at(&mut byte, at).unwrap();
    opened.write_all_at(&[byte[0] ^ 1], at).unwrap();
    opened.set_modified(found.modified().unwrap()).unwrap();
    assert_eq!(file.metadata().unwrap().len(), found.len());
}

#[test]
fn an_image_is_made_once_and_found_again() {
    let world = world();
    let checked = AtomicU32::new(0);
    let verify = |at: &Path| {
        checked.fetch_add(1, Ordering::Relaxed);
        same(at)
    };
    let images = world.images();
    let first = images.prepare(PACKAGE, &world.of, &verify).unwrap();
    let inode = first.file.metadata().unwrap().ino();
    assert_eq!(
        (first.bytes, first.file.metadata().unwrap().mode() & 0o777),
        (first.file.metadata().unwrap().len(), 0o400)
    );
    assert_eq!(images.prepare(PACKAGE, &world.of, &verify).unwrap(), first);
    assert_eq!(checked.load(Ordering::Relaxed), 1, "its content was verified once");
    // Another plane: it is not made again, and it is verified again.
    assert_eq!(world.images().prepare(PACKAGE, &world.of, &verify).unwrap(), first);
    assert_eq!((checked.load(Ordering::Relaxed), first.file.metadata().unwrap().ino()), (2, inode));
    // One that is gone is made again, the same.
    fs::remove_dir_all(first.file.parent().unwrap()).unwrap();
    assert_eq!(images.prepare(PACKAGE, &world.of, &verify).unwrap(), first);
    assert_eq!(world.names(), [PACKAGE.hex()]);
    assert_eq!(crate::image::open(&first).unwrap().backing, Backing::File);
}

#[test]
fn many_starts_of_a_new_version_make_one_image() {
    let world = world();
    let (images, made) = (world.images(), AtomicU32::new(0));
    let verify = |at: &Path| {
        made.fetch_add(1, Ordering::Relaxed);
        same(at)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let start = || images.prepare(PACKAGE, &world.of, &verify).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|image| *image == all[0]));
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[test]
fn the_same_files_are_the_same_image_whenever_and_by_whomever_they_were_written() {
    let (one, two) = (world(), world());
    for file in ["code/deep/large", "code/main.py"] {
        let opened = fs::OpenOptions::new().write(true).open(two.of.join(file)).unwrap();
        opened.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        std::os::unix::fs::chown(two.of.join(file), Some(4_711), Some(4_711)).unwrap();
    }
    assert_eq!(one.made().digest, two.made().digest);
}

#[test]
fn an_image_that_was_changed_is_refused() {
    let world = world();
    let images = world.images();
    let image = images.prepare(PACKAGE, &world.of, &same).unwrap();
    change(&image.file);
    // In the life of the plane that made it the supervisor refuses it; a later plane before that.
    let again = images.prepare(PACKAGE, &world.of, &same).unwrap();
    let refused = crate::image::open(&again).unwrap_err();
    assert!(refused.why.contains("changed"), "{refused:?}");
    let refused = world.images().prepare(PACKAGE, &world.of, &same).unwrap_err();
    assert!(matches!(refused, ImageError::Changed(..)), "{refused}");
    // It is not made again behind anybody's back.
    assert!(matches!(world.images().prepare(PACKAGE, &world.of, &same).unwrap_err(), ImageError::Changed(..)));
    fs::remove_dir_all(image.file.parent().unwrap()).unwrap();
    assert_eq!(world.made(), image);
}

#[test]
fn what_is_written_beside_an_image_makes_no_other_package_of_it() {
    let (world, other) = (world(), world());
    let image = world.made();
    fs::write(other.of.join("code/main.py"), "print(2)\n").unwrap();
    let planted = other.images().prepare(PACKAGE, &other.of, &|_| Ok(())).unwrap();
    // Image and description of another package, whole and fitting together.
    for name in [IMAGE, DESCRIPTION] {
        let to = image.file.with_file_name(name);
        fs::remove_file(&to).unwrap();
        fs::copy(planted.file.with_file_name(name), to).unwrap();
    }
    let refused = world.images().prepare(PACKAGE, &world.of, &same).unwrap_err();
    assert!(matches!(&refused, ImageError::Content(why) if why == "other files"), "{refused}");
    fs::remove_file(image.file.with_file_name(DESCRIPTION)).unwrap();
    fs::write(image.file.with_file_name(DESCRIPTION), "{").unwrap();
    assert!(matches!(world.images().prepare(PACKAGE, &world.of, &same), Err(ImageError::Changed(..))));
}

#[test]
fn a_link_or_another_kind_of_file_in_its_place_is_refused() {
    let world = world();
    let image = world.made();
    let elsewhere = world.dir.path().join("elsewhere");
    fs::rename(&image.file, &elsewhere).unwrap();
    symlink(&elsewhere, &image.file).unwrap();
    assert!(crate::image::open(&image).is_err() && world.images().prepare(PACKAGE, &world.of, &same).is_err());
    fs::remove_file(&image.file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &image.file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(crate::image::open(&image).is_err() && world.images().prepare(PACKAGE, &world.of, &same).is_err());
}

#[test]
fn half_an_image_is_never_used() {
    let world = world();
    // A crash at each step: nothing yet, half a file, a file without a description; and a directory without a file.
    for (n, files) in [&[][..], &[(IMAGE, "half")], &[(IMAGE, "half"), (DESCRIPTION, "{")]].iter().enumerate() {
        let building = world.images.join(format!("{BUILDING}{n}"));
        fs::create_dir(&building).unwrap();
        files.iter().for_each(|(name, text)| fs::write(building.join(name), text).unwrap());
    }
    let place = world.images.join(PACKAGE.hex());
    fs::create_dir(&place).unwrap();
    fs::write(place.join(IMAGE), "half").unwrap();
    let image = world.made();
    assert!(crate::image::open(&image).is_ok());
    let packages = world.dir.path().join("packages");
    fs::create_dir_all(packages.join(PACKAGE.hex())).unwrap();
    fs::create_dir(world.images.join(Digest::from_bytes([8; 32]).hex())).unwrap();
    assert_eq!(world.images().sweep(&packages).unwrap(), 4, "three halves, and one of a package that is gone");
    assert_eq!(world.names(), [PACKAGE.hex()]);
}

#[test]
fn what_does_not_become_the_package_becomes_nothing() {
    let world = world();
    let refused = world.images().prepare(PACKAGE, &world.of, &|_| Err("not it".into())).unwrap_err();
    assert!(matches!(&refused, ImageError::Content(why) if why == "not it"), "{refused}");
    assert_eq!(world.names(), Vec::<String>::new());
}

/// A file system of the host, which ends with the test.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn small(at: &Path, size: &str) -> Small {
    let options = format!("size={size}");
    assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "small"]).arg(at).status().unwrap().success());
    Small(at.to_owned())
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let world = world();
    let _small = small(&world.images, "64m");
    let refused = world.images().prepare(PACKAGE, &world.of, &same).unwrap_err();
    assert!(refused.to_string().contains("no room"), "{refused:?}");
    assert_eq!(world.names(), Vec::<String>::new());
    // One that fills up while it is made.
    fs::write(world.of.join("code/huge"), vec![1; 70 << 20]).unwrap();
    let image = world.images.join("full");
    let refused = maker::make_unbounded_by_room(maker::program().unwrap(), &world.of, &image).unwrap_err();
    assert!(matches!(&refused, ImageError::Failed(why) if why.contains("space")), "{refused}");
}

#[test]
fn hostile_names_shapes_and_sizes_come_through_or_are_refused() {
    let world = world();
    let code = world.of.join("code");
    let longest = "n".repeat(254);
    let names: [&[u8]; 9] =
        [b"-rf", b"--all-root", b"new\nline", b"%s%n", b"$(id)", b" ", b"\xff\xfe", longest.as_bytes(), b"\\040"];
    for name in names {
        fs::write(code.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::hard_link(code.join("-rf"), code.join("hard")).unwrap();
    symlink("/etc/shadow", code.join("out")).unwrap();
    symlink("t".repeat(4_000), code.join("far")).unwrap();
    for (n, size) in [0, 1, 4_080, 4_095, 4_096, 4_097, 70_000].into_iter().enumerate() {
        fs::write(code.join(format!("sized-{n}")), vec![n as u8; size]).unwrap();
    }
    let mut deep = code.clone();
    for _ in 0..60 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("bottom"), "seen").unwrap();
    for n in 0..2_000 {
        fs::write(code.join("deep").join(format!("{n:0>200}")), "").unwrap();
    }
    fs::File::create(code.join("sparse")).unwrap().set_len(64 << 20).unwrap();
    let seen = |at: &Path| {
        let at = at.join("code");
        for name in names {
            assert_eq!(fs::read(at.join(OsStr::from_bytes(name))).unwrap(), name);
        }
        assert_eq!(fs::read(at.join("hard")).unwrap(), b"-rf");
        assert_eq!(fs::read_link(at.join("out")).unwrap(), Path::new("/etc/shadow"));
        assert_eq!(fs::read_link(at.join("far")).unwrap().as_os_str().len(), 4_000);
        assert_eq!(fs::read(at.join(deep.strip_prefix(&code).unwrap()).join("bottom")).unwrap(), b"seen");
        assert_eq!(at.join("sparse").metadata().unwrap().len(), 64 << 20);
        assert_eq!(fs::read_dir(at.join("deep")).unwrap().count(), 2_002);
        assert_eq!(fs::read(at.join("sized-5")).unwrap(), vec![5; 4_097]);
        same(at.parent().unwrap())
    };
    world.images().prepare(PACKAGE, &world.of, &seen).unwrap();

    type Make = fn(&Path);
    let hostile: [(&str, Make); 7] = [
        ("long name", |at| fs::write(at.with_file_name("n".repeat(255)), "").unwrap()),
        ("pipe", |at| rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap()),
        ("device", |at| {
            let null = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::CharacterDevice, 0o600.into(), null)
                .unwrap();
        }),
        ("socket", |at| drop(std::os::unix::net::UnixListener::bind(at).unwrap())),
        ("set-uid", |at| {
            fs::write(at, "").unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("giant", |at| fs::File::create(at).unwrap().set_len(5 << 30).unwrap()),
        ("deep", |at| {
            let mut at = at.to_owned();
            for _ in 0..90 {
                fs::create_dir(&at).unwrap();
                at.push("d");
            }
        }),
    ];
    for (name, make) in hostile {
        let world = self::world();
        make(&world.of.join(name));
        let begin = std::time::Instant::now();
        let refused = world.images().prepare(PACKAGE, &world.of, &|_| Ok(())).unwrap_err();
        assert!(matches!(refused, ImageError::Source(_)), "{name}: {refused}");
        assert!(begin.elapsed() < Duration::from_secs(5) && world.names().is_empty(), "{name}");
    }
}

#[test]
fn a_loop_device_shows_the_same_where_the_kernel_mounts_no_files() {
    let world = world();
    let file = open(&world.made().file).unwrap();
    for mounted in [by_file(file.as_fd()).unwrap(), by_loop(file.as_fd()).unwrap()] {
        same(&mounted.path()).unwrap();
        let refused = fs::write(mounted.path().join("code/main.py"), "x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem, "{:?}", mounted.backing);
    }
}

#[test]
fn what_is_no_image_is_not_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    for content in [vec![], vec![0; 8192], b"\xe2\xe1\xf5\xe0".repeat(4096)] {
        fs::write(&file, content).unwrap();
        assert!(mount::mount(open(&file).unwrap().as_fd()).is_err());
    }
}

#[test]
fn every_mount_has_pages_of_its_own() {
    let world = world();
    let image = world.made();
    let (one, two) = (crate::image::open(&image).unwrap(), crate::image::open(&image).unwrap());
    let device = |at: PathBuf| at.join("code/main.py").metadata().unwrap().dev();
    let all = [device(one.path()), device(two.path()), device(world.of.clone())];
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
}
