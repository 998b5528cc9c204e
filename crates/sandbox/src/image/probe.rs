//! Whether this host can do it, done once on a small scale.

use std::{
    fs,
    io::Read,
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use super::{
    Backing, maker,
    mount::{self},
};

/// Makes a small image in `dir` of a directory in it, mounts it, and reads what is in it.
pub(crate) fn probe(dir: &Path) -> Result<String, String> {
    let program = maker::program().map_err(|e| e.to_string())?;
    if !rustix::process::geteuid().is_root() {
        return Err("only a plane that runs as root can mount an image".to_owned());
    }
    let failed = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    let (source, image) = (dir.join("source"), dir.join("image.erofs"));
    fs::create_dir(&source).map_err(failed("a directory"))?;
    fs::write(source.join("probe"), "seen").map_err(failed("a file"))?;
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).map_err(failed("a directory"))?;
    maker::make_unbounded_by_room(program, &source, &image).map_err(|e| e.to_string())?;
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&image);
    let file = file.map_err(failed("the image"))?;
    let mounted = mount::mount(file.as_fd()).map_err(failed("mounting an image"))?;
    let path = mounted.path().join("probe");
    let mut text = String::new();
    fs::File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text)).map_err(failed("reading it"))?;
    match fs::OpenOptions::new().write(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {}
        other => return Err(format!("a file of a mounted image could be written: {other:?}")),
    }
    if text != "seen" {
        return Err("a mounted image does not hold what was put into it".to_owned());
    }
    let how = match mounted.backing {
        Backing::File => "the file itself, without a loop device",
        Backing::Loop => "by a loop device: this kernel does not mount files",
    };
    let version = maker::version(program).unwrap_or_default();
    Ok(format!("an image was made by {version}, mounted ({how}) and read"))
}
