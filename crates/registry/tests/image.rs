//! OCI image layouts: layers, whiteouts, and images that were made to break out.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use cogward_model::{Digest, manifest::Manifest};
use cogward_registry::{
    manifest::{parse, sha256, template},
    package::{ContentError, Limits, OciError, PackError, WalkError, check, pack, receive, verify},
};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

struct Layout(PathBuf);

impl Layout {
    fn new(dir: &Path) -> Self {
        let layout = dir.join("image");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        Self(layout)
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    }

    fn layer(&self, tar: &[u8], kind: &str) -> Value {
        let mut bytes = tar.to_vec();
        if kind == GZIP {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            bytes = gzip.finish().unwrap();
        }
        json!({ "mediaType": kind, "digest": self.blob(&bytes).to_string(), "size": bytes.len() })
    }

    fn image(&self, layers: Vec<Value>) -> Value {
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers });
        let digest = self.blob(manifest.to_string().as_bytes());
        json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": 1,
            "platform": { "architecture": here(), "os": "linux" } })
    }

    fn index(&self, manifests: Vec<Value>) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }
}

struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: EntryType, mode: u32, data: &[u8], target: &str) -> Self {
        let mut header = Header::new_gnu();
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

    fn file(self, path: &str, data: &str) -> Self {
        self.add(path, EntryType::Regular, 0o644, data.as_bytes(), "")
    }

    fn dir(self, path: &str) -> Self {
        self.add(path, EntryType::Directory, 0o755, b"", "")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.add(path, EntryType::Symlink, 0o777, b"", target)
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn text() -> String {
    template("clerk").replace("directory: . ", "ociLayout: image ").replace("development ", "production ")
}

fn manifest() -> Manifest {
    parse("agent.yaml", text().as_bytes()).unwrap().manifest
}

fn packed(dir: &Path, limits: Limits, out: impl Write) -> Result<cogward_registry::package::Packed, PackError> {
    pack(dir, ("agent.yaml", text().as_bytes()), &manifest(), limits, out)
}

#[test]
fn layers_are_put_together_and_arrive_as_a_root() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let long = format!("usr/share/{}/{}", "d".repeat(80), "f".repeat(90));
    let mut base = Layer::new()
        .dir("./")
        .dir("./usr/")
        .dir("./usr/bin")
        .link("bin", "usr/bin")
        .add("usr/bin/su", EntryType::Regular, 0o4755, b"su", "")
        .file("etc/old", "old")
        .file("etc/kept", "kept")
        .file("var/cache/a", "a")
        .add("dev/null", EntryType::Char, 0o666, b"", "");
    base.0.append_pax_extensions([("path", long.as_bytes()), ("mtime", &b"1.5"[..])]).unwrap();
    let base = base.file("short", "long").done();
    let top = Layer::new()
        .add("bin/agent", EntryType::Regular, 0o755, b"run", "")
        .add("usr/bin/again", EntryType::Link, 0o755, b"", "bin/agent")
        .file("etc/.wh.old", "")
        .file("var/cache/.wh..wh..opq", "")
        .file("var/cache/b", "b")
        .file("app/agent.py", "print(1)")
        .done();
    let image = layout.image(vec![layout.layer(&base, GZIP), layout.layer(&top, PLAIN)]);
    let attestation = json!({ "mediaType": MANIFEST, "digest": sha256(b"x").to_string(), "size": 1,
        "platform": { "architecture": "unknown", "os": "unknown" } });
    let nested = json!({ "manifests": [attestation, image] });
    let nested = layout.blob(nested.to_string().as_bytes());
    layout.index(vec![json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": nested.to_string() })]);

    let mut stream = Vec::new();
    let sent = packed(dir.path(), Limits::default(), &mut stream).unwrap();
    let contents = &sent.contents;
    for file in ["root/usr/bin/agent", "root/usr/bin/again", "root/usr/bin/su", "root/etc/kept", "root/var/cache/b"] {
        assert!(contents.has_file(file), "{file}");
    }
    assert!(contents.has_file(&format!("root/{long}")) && contents.has_program("root/usr/bin/again"));
    for gone in ["root/etc/old", "root/etc/.wh.old", "root/var/cache/a", "root/bin/agent", "root/dev/null"] {
        assert!(!contents.has_file(gone), "{gone}");
    }
    let packages = dir.path().join("packages");
    fs::create_dir(&packages).unwrap();
    let staged = receive(stream.as_slice(), &packages, Limits::default()).unwrap();
    assert_eq!(staged.summary(), sent.summary);
    assert!(check(&parse("agent.yaml", text().as_bytes()).unwrap(), staged.contents()).is_empty());
    let kept = staged.keep().unwrap();
    verify(&packages, sent.summary.digest).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &str| fs::metadata(kept.join(p)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("root/usr/bin/su"), 0o755, "no set-id bit arrives");
    assert_eq!(fs::read_to_string(kept.join("root/usr/bin/again")).unwrap(), "run");
}

#[test]
fn hostile_layers_are_refused() {
    let mut sparse = Layer::new();
    sparse.0.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("parent", Layer::new().file("../../evil", "x").done()),
        ("inner parent", Layer::new().file("a/../../evil", "x").done()),
        ("hard link out", Layer::new().add("h", EntryType::Link, 0o644, b"", "/etc/passwd").done()),
        ("hard link up", Layer::new().add("h", EntryType::Link, 0o644, b"", "../../etc/passwd").done()),
        ("circle", Layer::new().link("a", "b").link("b", "a").file("a/x", "x").done()),
        ("below a file", Layer::new().file("a", "x").file("a/b", "x").done()),
        ("device", Layer::new().add("etc/sda", EntryType::Block, 0o644, b"", "").done()),
        ("pipe", Layer::new().add("p", EntryType::Fifo, 0o644, b"", "").done()),
        ("sparse", sparse.file("a", "x").done()),
        ("climbing link", Layer::new().link("a", "../../etc").done()),
        ("noise", vec![0x5a; 2_048]),
    ];
    for (name, layer) in cases {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.index(vec![layout.image(vec![layout.layer(&layer, GZIP)])]);
        let outcome = packed(dir.path(), Limits::default(), io::sink());
        assert!(
            matches!(
                outcome,
                Err(PackError::Oci(OciError::Layer(_)) | PackError::Walk(WalkError::Content(ContentError::Link { .. })))
            ),
            "{name}: {outcome:?}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn a_write_through_a_link_stays_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let layer = Layer::new().link("l", outside.to_str().unwrap()).file("l/evil", "x").done();
    layout.index(vec![layout.image(vec![layout.layer(&layer, PLAIN)])]);
    let sent = packed(dir.path(), Limits::default(), io::sink()).unwrap();
    assert!(sent.contents.has_file(&format!("root{}/evil", outside.display())));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn blobs_are_what_their_digest_says_and_one_image_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let layer = layout.layer(&Layer::new().file("a", "x").done(), PLAIN);
    let image = layout.image(vec![layer.clone()]);
    let refused = |what: &str| match packed(dir.path(), Limits::default(), io::sink()) {
        Err(PackError::Oci(error)) => error,
        other => panic!("{what}: {other:?}"),
    };
    assert!(matches!(refused("no index"), OciError::Io { .. }));
    layout.index(vec![image.clone(), layout.image(vec![layer.clone(), layer.clone()])]);
    assert!(matches!(refused("two images"), OciError::Platform { found: 2, .. }));
    layout.index(vec![]);
    assert!(matches!(refused("no image"), OciError::Platform { found: 0, .. }));
    let mut zstd = layer.clone();
    zstd["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    layout.index(vec![layout.image(vec![zstd])]);
    assert!(matches!(refused("zstd"), OciError::Compression(_)));
    layout.index(vec![image.clone()]);
    packed(dir.path(), Limits::default(), io::sink()).unwrap();
    let small = Limits { entries: 100, bytes: 0 };
    assert!(packed(dir.path(), small, io::sink()).is_err());
    for descriptor in [&layer, &image] {
        let name = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = layout.0.join("blobs/sha256").join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, [good.as_slice(), b" "].concat()).unwrap();
        assert!(matches!(refused("changed blob"), OciError::Digest(_)));
        fs::write(&path, good).unwrap();
    }
    let mut path = layer;
    path["digest"] = json!("sha256:../../../etc/passwd");
    layout.index(vec![layout.image(vec![path])]);
    assert!(matches!(refused("path as digest"), OciError::Document { .. }));
}
