//! Whether the package of a run is mounted from where it was declared to be, by the table of its mounts.

use std::{collections::BTreeSet, path::PathBuf};

use cogward_model::Digest;

use crate::{
    image::{Backing, KIND},
    spec::{LaunchSpec, PACKAGE_DIRECTORY, Root},
};

/// Top-level places of a sandbox that are never the package's.
const OURS: [&str; 8] = ["", "proc", "dev", "sys", "tmp", "run", "work", crate::storage::INPUTS];
/// What an image is mounted with.
const OPTIONS: [&str; 3] = ["ro", "nosuid", "nodev"];

/// What of a launch comes from the package, and where from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    image: Option<(Digest, PathBuf)>,
    /// Where the package is mounted.
    places: BTreeSet<String>,
    /// Whether each other top-level directory is the package's as well, and which are not.
    root: Option<BTreeSet<String>>,
}

/// What was found of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What it is mounted from.
    pub from: &'static str,
    /// What is not as it was declared.
    pub wrong: Vec<String>,
}

/// One mount.
struct Mount<'t> {
    device: &'t str,
    /// The directory of the file system that is mounted.
    root: String,
    at: String,
    options: Vec<&'t str>,
    kind: &'t str,
    source: String,
}

impl Declared {
    /// What a launch declares.
    pub fn of(spec: &LaunchSpec) -> Self {
        let Some(image) = &spec.package_image else { return Self::default() };
        let (inside, others): (Vec<_>, Vec<_>) =
            spec.mounts.iter().partition(|mount| image.inside(&mount.source).is_some());
        let root = match &spec.root {
            Root::Image { dir } if image.inside(dir).is_some() => {
                Some(others.into_iter().map(|mount| mount.at.clone()).collect())
            }
            Root::Image { .. } | Root::HostUsr => None,
        };
        Self {
            image: Some((image.digest, image.of.clone())),
            places: inside.into_iter().map(|mount| mount.at.clone()).collect(),
            root,
        }
    }

    /// The image that was mounted.
    pub fn image(&self) -> Option<Digest> {
        self.image.as_ref().map(|(digest, _)| *digest)
    }

    /// Holds a table of mounts against it.
    pub fn found(&self, table: &str) -> Found {
        let mounts: Option<Vec<Mount<'_>>> = table.lines().map(Mount::parse).collect();
        let mut found = Found { from: PACKAGE_DIRECTORY, wrong: Vec::new() };
        let Some((_, of)) = &self.image else { return found };
        let Some(mounts) = mounts else {
            found.wrong.push("a line of the table of mounts is not whole".to_owned());
            return found;
        };
        let mut must = |holds: bool, why: String| {
            if !holds {
                found.wrong.push(why);
            }
        };
        let (mut devices, mut by_loop) = (BTreeSet::new(), false);
        for at in &self.places {
            must(mounts.iter().any(|mount| mount.at == *at), format!("nothing is mounted at {at}"));
        }
        for mount in mounts.iter().filter(|mount| self.is_of_package(&mount.at)) {
            let at = &mount.at;
            must(mount.kind == KIND, format!("{at} is {} and not its image", mount.kind));
            let restricted = OPTIONS.iter().all(|option| mount.options.contains(option));
            must(restricted, format!("{at} is mounted {}", mount.options.join(",")));
            devices.insert(mount.device);
            by_loop |= mount.source.starts_with("/dev/");
        }
        must(devices.len() <= 1, "it comes from several images".to_owned());
        let of = of.to_string_lossy();
        for mount in &mounts {
            let tells = mount.root.contains(&*of) || mount.source.contains(&*of);
            must(!tells, format!("{} is from the package's directory on the host", mount.at));
        }
        found.from = if by_loop { Backing::Loop } else { Backing::File }.as_str();
        found
    }

    fn is_of_package(&self, at: &str) -> bool {
        let below = |place: &String| at.strip_prefix(place.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if self.places.iter().any(|place| at == place || below(place)) {
            return true;
        }
        let Some(others) = &self.root else { return false };
        let top = at.split('/').nth(1).unwrap_or_default();
        !OURS.contains(&top) && !others.iter().any(|place| at == place || below(place))
    }
}

impl<'t> Mount<'t> {
    /// A line of `mountinfo`: numbers, device, root, place, options, tags up to a dash, kind, source.
    fn parse(line: &'t str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (device, root, at) = (before.next()?, unescaped(before.next()?), unescaped(before.next()?));
        let options = before.next()?.split(',').collect();
        let mut after = after.split(' ');
        Some(Self { device, root, at, options, kind: after.next()?, source: unescaped(after.next()?) })
    }
}

/// A path of the table: space, tab, line break and backslash are written as three octal digits.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let code = escape.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = if code.is_some() { escape.get(3..).unwrap_or_default() } else { escape };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
90 80 0:70 / / ro,nosuid,nodev - tmpfs none ro\n\
91 90 8:1 /usr /usr ro,nosuid,nodev - ext4 /dev/vda rw\n\
92 90 0:71 /code /app ro,nosuid,nodev,noatime - erofs /proc/self/fd/9 ro\n\
93 90 0:71 /code/skills/a\\040b /skills/a\\040b ro,nosuid,nodev,noatime - erofs /proc/self/fd/9 ro\n\
94 90 0:72 / /work rw,nosuid,nodev,noexec - tmpfs none rw\n";

    fn declared(root: bool) -> Declared {
        Declared {
            image: Some((Digest::from_bytes([1; 32]), "/data/packages/ab".into())),
            places: ["/app", "/skills/a b"].map(str::to_owned).into(),
            root: root.then(BTreeSet::new),
        }
    }

    #[test]
    fn what_is_mounted_as_declared_is_accepted() {
        assert_eq!(declared(false).found(TABLE), Found { from: "erofs", wrong: vec![] });
        let by_loop = TABLE.replace("/proc/self/fd/9", "/dev/loop3");
        assert_eq!(declared(false).found(&by_loop), Found { from: "erofs-loop", wrong: vec![] });
        assert_eq!(Declared::default().found(TABLE), Found { from: "directory", wrong: vec![] });
    }

    #[test]
    fn anything_else_in_its_place_is_found() {
        let app = "/code /app ro,nosuid,nodev,noatime - erofs /proc/self/fd/9 ro";
        assert!(TABLE.contains(app));
        for (instead, why) in [
            ("/data/packages/ab/code /app ro,nosuid,nodev - ext4 /dev/vda rw", "/app is ext4"),
            ("/code /app rw,nosuid,nodev - erofs /proc/self/fd/9 ro", "/app is mounted rw"),
            ("/code /app ro,nodev - erofs /proc/self/fd/9 ro", "/app is mounted ro,nodev"),
            ("/code /app ro,nosuid - erofs /proc/self/fd/9 ro", "/app is mounted ro,nosuid"),
            ("/code /other ro,nosuid,nodev - erofs /proc/self/fd/9 ro", "nothing is mounted at /app"),
            ("/code /app ro,nosuid,nodev - erofs /data/packages/ab/x ro", "/app is from the package's directory"),
            ("/code", "not whole"),
        ] {
            let found = declared(false).found(&TABLE.replace(app, instead));
            assert!(found.wrong.iter().any(|wrong| wrong.contains(why)), "{instead}: {found:?}");
        }
        let another = TABLE.replace("92 90 0:71", "92 90 0:79");
        assert_eq!(declared(false).found(&another).wrong, ["it comes from several images"]);
        for (line, why) in [
            ("99 92 0:80 / /app/sub ro,nosuid,nodev - tmpfs none ro\n", "/app/sub is tmpfs"),
            ("99 92 0:80 / /app ro,nosuid,nodev - tmpfs none ro\n", "/app is tmpfs"),
            ("99 94 8:1 /data/packages/ab/x /work/x ro - ext4 /dev/vda rw\n", "/work/x is from the package's"),
        ] {
            let found = declared(false).found(&format!("{TABLE}{line}"));
            assert!(found.wrong.iter().any(|wrong| wrong.contains(why)), "{line}: {found:?}");
        }
    }

    #[test]
    fn with_a_root_of_the_package_every_place_that_is_not_ours_must_be_of_the_image() {
        let found = declared(true).found(TABLE);
        assert!(found.wrong.iter().any(|wrong| wrong.contains("/usr is ext4")), "{found:?}");
        let whole = TABLE.replace(
            "8:1 /usr /usr ro,nosuid,nodev - ext4 /dev/vda rw",
            "0:71 /image/usr /usr ro,nosuid,nodev - erofs x ro",
        );
        assert_eq!(declared(true).found(&whole).wrong, Vec::<String>::new());
    }

    #[test]
    fn escapes_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped(r"/a\040b\134c\011"), "/a b\\c\t");
        assert_eq!(unescaped(r"/a\04"), r"/a\04");
    }

    proptest! {
        #[test]
        fn no_table_breaks_it(table in "[ -~\n\\\\é]{0,300}") {
            let _ = declared(true).found(&table);
        }
    }
}
