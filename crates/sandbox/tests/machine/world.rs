//! A host with a monitor of the tests, and an image with a Python.
//!
//! Where `COGWARD_FIRECRACKER`, `COGWARD_JAILER` and `COGWARD_KERNEL` name real ones, the tests of a machine's life
//! (`life.rs`) run in real machines instead.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use cogward_model::manifest::Profile;
use cogward_sandbox::{DriverSettings, FirecrackerSettings, Root};

use crate::rig::{self, Rig};

/// A rig whose driver is `firecracker`, with a monitor that behaves as said (JSON, see `firecracker.py`).
pub fn machine(program: &str, behaviour: &str) -> Rig {
    let mut rig = rig::python(program);
    let settings = settings(rig.data.path(), behaviour);
    rig.spec.profile = Profile::Microvm;
    rig.spec.driver = DriverSettings::Firecracker(settings);
    rig.spec.root = Root::Image { dir: image() };
    rig
}

/// The programs and the kernel of a host.
pub fn settings(directory: &Path, behaviour: &str) -> FirecrackerSettings {
    if let Some(real) = real().filter(|_| behaviour == WELL) {
        return real;
    }
    let programs = directory.join("programs");
    fs::create_dir(&programs).unwrap();
    let program = |name: &str| {
        let path = programs.join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine").join(format!("{name}.py"));
        fs::copy(source, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let kernel = programs.join("vmlinux");
    fs::write(&kernel, behaviour).unwrap();
    FirecrackerSettings {
        firecracker: program("firecracker"),
        jailer: program("jailer"),
        kernel,
        images: Some(shared().join("images")),
    }
}

/// The behaviour of one that does what it should: a real one, where one is named.
pub const WELL: &str = "{}";
/// The same, and never a real one.
pub const WELL_IN_TESTS: &str = "{ }";

fn real() -> Option<FirecrackerSettings> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    Some(FirecrackerSettings {
        firecracker: path("COGWARD_FIRECRACKER")?,
        jailer: path("COGWARD_JAILER")?,
        kernel: path("COGWARD_KERNEL")?,
        images: Some(shared().join("images")),
    })
}

/// Settings without anything behind them.
pub fn nothing() -> FirecrackerSettings {
    let none = PathBuf::from("/nowhere/firecracker");
    FirecrackerSettings { firecracker: none.clone(), jailer: none.clone(), kernel: none, images: None }
}

fn shared() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("machine")
}

/// An image with a Python and a shell, made of this host's own, once.
pub fn image() -> PathBuf {
    let image = shared().join("root");
    if image.is_dir() {
        return image;
    }
    let new = shared().join(format!("root.{}", std::process::id()));
    let script = r#"
        set -e
        mkdir -p "$1/usr/bin" "$1/etc"; cd "$1"
        for l in bin lib lib64 sbin; do ln -s usr/$l $l; done
        python=$(readlink -f /usr/bin/python3)
        for program in "$python" /usr/bin/dash /usr/bin/sleep /usr/bin/id /usr/bin/env; do
          cp -L "$program" usr/bin/
          for library in $(ldd "$program" | grep -o '/[^ ]*'); do
            real=/usr${library#/usr}; mkdir -p ".${real%/*}"; cp -L "$library" ".$real"
          done
        done
        ln -s dash usr/bin/sh; ln -s "${python##*/}" usr/bin/python3
        mkdir -p usr/lib; cp -a /usr/lib/"${python##*/}" usr/lib/
        rm -rf usr/lib/python3*/test usr/lib/python3*/idlelib usr/lib/python3*/config-*
        find usr/lib -name '*.so' | while read -r so; do
          ldd "/$so" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
            real=/usr${library#/usr}; mkdir -p ".${real%/*}"; [ -e ".$real" ] || cp -L "$library" ".$real"
          done
        done
        printf 'root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/work:/bin/sh\n' > etc/passwd
        printf '127.0.0.1 localhost\n' > etc/hosts
        chmod -R a+rX .
    "#;
    let done = Command::new("sh").args(["-c", script, "sh"]).arg(&new).status().unwrap();
    assert!(done.success());
    if fs::rename(&new, &image).is_err() {
        // Another test was faster.
        fs::remove_dir_all(&new).unwrap();
    }
    image
}

/// Loop devices that are of files below a directory.
pub fn devices_left(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(file.trim_end().trim_end_matches(" (deleted)")).starts_with(below) {
            found.push(entry.path());
        }
    }
    found
}
