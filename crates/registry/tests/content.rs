//! Files on their way into a run: what is sent is what is received, and nothing else is.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use cogward_model::content::{ContentKind, DEPTH_MAX, TreeError, TreeLimits};
use cogward_registry::content::{ReceiveError, SendError, pack, receive};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

const LIMITS: TreeLimits = TreeLimits { entries: 100, bytes: 1024 * 1024 };

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn packed(source: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(source, LIMITS, &mut stream).unwrap();
    stream
}

type Made<'a> = (&'a str, EntryType, u32, &'a [u8], &'a str);

/// A stream as nobody of ours would write it.
fn stream(entries: &[Made<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, kind, mode, data, target) in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_size(data.len() as u64);
        // Set by hand: the writer would refuse what a sender need not.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let link = &mut header.as_old_mut().linkname;
        link[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        tar.append(&header, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

const DIR: Made<'static> = ("content", EntryType::Directory, 0o755, b"", "");

fn refused(entries: &[Made<'_>]) -> ReceiveError {
    let dir = temp();
    fs::write(dir.path().join("outside"), "host").unwrap();
    let error = receive(stream(entries).as_slice(), &dir.path().join("place"), LIMITS).unwrap_err();
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"host");
    let above: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(above.iter().all(|n| n == "outside" || n == "place"), "{above:?}");
    error
}

#[test]
fn a_file_and_a_tree_come_out_as_they_went_in() {
    let dir = temp();
    let file = dir.path().join("claim.json");
    fs::write(&file, "hello").unwrap();
    let mut sent = Vec::new();
    let content = pack(&file, LIMITS, &mut sent).unwrap();
    assert_eq!((content.kind, content.bytes, content.entries), (ContentKind::File, 5, 1));
    assert_eq!(content.digest.hex(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    assert_eq!(receive(sent.as_slice(), &dir.path().join("one"), LIMITS).unwrap(), content);
    assert_eq!(fs::read(dir.path().join("one")).unwrap(), b"hello");
    assert_eq!(fs::metadata(dir.path().join("one")).unwrap().permissions().mode() & 0o777, 0o644);

    let tree = dir.path().join("tree");
    let long = format!("{}/{}", "n".repeat(120), "m".repeat(120));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::create_dir(tree.join("n".repeat(120))).unwrap();
    fs::write(tree.join(&long), "long").unwrap();
    fs::write(tree.join("a/b/é"), "x").unwrap();
    fs::write(tree.join("run.sh"), "").unwrap();
    fs::set_permissions(tree.join("run.sh"), PermissionsExt::from_mode(0o700)).unwrap();
    let mut sent = Vec::new();
    let content = pack(&tree, LIMITS, &mut sent).unwrap();
    assert_eq!((content.kind, content.bytes, content.entries), (ContentKind::Directory, 5, 6));
    let place = dir.path().join("two");
    assert_eq!(receive(sent.as_slice(), &place, LIMITS).unwrap(), content);
    assert_eq!(pack(&place, LIMITS, std::io::sink()).unwrap(), content);
    assert_eq!(fs::read(place.join(long)).unwrap(), b"long");
    assert_eq!(fs::metadata(place.join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn paths_that_leave_their_place_are_refused() {
    for path in [
        "../outside",
        "/etc/passwd",
        "content/../../outside",
        "content/a\nb",
        "content/./a",
        "content//a",
        "content/..",
        "contents/a",
        "other",
        "content/no/parent",
    ] {
        refused(&[DIR, (path, EntryType::Regular, 0o644, b"x", "")]);
        refused(&[DIR, (path, EntryType::Directory, 0o755, b"", "")]);
    }
    refused(&[("../outside", EntryType::Regular, 0o644, b"x", "")]);
    refused(&[]);
    // Once one thing, always one thing.
    refused(&[DIR, DIR]);
    refused(&[("content", EntryType::Regular, 0o644, b"x", ""), DIR]);
    refused(&[("content", EntryType::Regular, 0o644, b"x", ""), ("content/a", EntryType::Regular, 0o644, b"x", "")]);
    refused(&[
        DIR,
        ("content/a", EntryType::Regular, 0o644, b"x", ""),
        ("content/a", EntryType::Regular, 0o644, b"y", ""),
    ]);
}

#[test]
fn only_files_and_directories_are_taken() {
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::Block,
        EntryType::GNUSparse,
        EntryType::Continuous,
        EntryType::GNULongName,
        EntryType::XGlobalHeader,
    ] {
        let error = refused(&[DIR, ("content/a", kind, 0o644, b"", "../outside")]);
        assert!(matches!(error, ReceiveError::Kind { .. } | ReceiveError::Malformed(_)), "{kind:?}: {error}");
    }
    for mode in [0o4755, 0o2755, 0o1644] {
        let error = refused(&[DIR, ("content/a", EntryType::Regular, mode, b"x", "")]);
        assert!(matches!(error, ReceiveError::Kind { .. }), "{error}");
    }
}

#[test]
fn bytes_entries_and_depth_are_bounded_while_it_streams() {
    let big = vec![0; 1024 * 1024 + 1];
    let error = refused(&[("content", EntryType::Regular, 0o644, &big, "")]);
    assert!(error.is_too_large(), "{error}");
    let half = vec![0; 700 * 1024];
    let error = refused(&[
        DIR,
        ("content/a", EntryType::Regular, 0o644, &half, ""),
        ("content/b", EntryType::Regular, 0o644, &half, ""),
    ]);
    assert!(error.is_too_large(), "{error}");
    let names: Vec<String> = (0..101).map(|n| format!("content/{n}")).collect();
    let mut many = vec![DIR];
    many.extend(names.iter().map(|n| (n.as_str(), EntryType::Regular, 0o644, &b""[..], "")));
    assert!(refused(&many).is_too_large());
    let deep: Vec<String> = (1..=DEPTH_MAX + 1).map(|n| format!("content/{}", vec!["d"; n].join("/"))).collect();
    let mut nested = vec![DIR];
    nested.extend(deep.iter().map(|n| (n.as_str(), EntryType::Directory, 0o755, &b""[..], "")));
    assert!(matches!(refused(&nested), ReceiveError::Tree(TreeError::TooDeep(_))));

    // A header that promises a terabyte costs nothing to refuse.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_path("content").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let dir = temp();
    let error = receive(&header.as_bytes()[..], &dir.path().join("place"), LIMITS).unwrap_err();
    assert!(error.is_too_large() && !dir.path().join("place").exists(), "{error}");
}

#[test]
fn a_stream_that_breaks_off_is_not_taken() {
    let dir = temp();
    fs::write(dir.path().join("file"), vec![7; 5_000]).unwrap();
    let whole = packed(&dir.path().join("file"));
    for cut in [0, 100, 512, 600, 3_000, 5_511] {
        let place = dir.path().join(format!("cut{cut}"));
        assert!(receive(whole.get(..cut).unwrap(), &place, LIMITS).is_err(), "{cut}");
    }
}

#[test]
fn links_pipes_and_odd_names_are_refused_where_they_are_sent() {
    let dir = temp();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();
    assert!(matches!(pack(&tree, LIMITS, std::io::sink()), Err(SendError::Link(_))));
    fs::remove_file(tree.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    assert!(matches!(pack(&tree, LIMITS, std::io::sink()), Err(SendError::Walk(_))));
    fs::remove_file(tree.join("pipe")).unwrap();
    fs::write(tree.join("a\nb"), "").unwrap();
    assert!(matches!(pack(&tree, LIMITS, std::io::sink()), Err(SendError::Tree(TreeError::Path { .. }))));
    assert!(pack(Path::new("/dev/null"), LIMITS, std::io::sink()).is_err());
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
    let error = pack(&dir.path().join("sparse"), LIMITS, std::io::sink()).unwrap_err();
    assert!(matches!(error, SendError::Tree(TreeError::TooLarge(_))), "{error}");
}

proptest! {
    /// Whatever the bytes are: an answer, and nothing outside of the place.
    #[test]
    fn any_bytes_are_read_to_an_end(mut bytes in prop::collection::vec(any::<u8>(), 0..2_048), keep in 0_usize..2_048) {
        let dir = temp();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/f"), "data").unwrap();
        let mut whole = packed(&dir.path().join("tree"));
        let end = keep.min(whole.len()).min(bytes.len());
        bytes.truncate(end);
        whole.splice(..end, bytes);
        let _ = receive(whole.as_slice(), &dir.path().join("place"), LIMITS);
        prop_assert!(fs::read_dir(dir.path()).unwrap().count() <= 2);
    }
}
