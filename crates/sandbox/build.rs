//! Compiles the programs that this crate carries inside: neither needs anything of the root it runs in.
//!
//! The attacker of the battery is linked with nothing at all. The guest (`guest/main.rs`) is the first process of a
//! sandbox of which the supervisor is not the parent; it has the standard library in it and no crate.

use std::{
    env,
    error::Error,
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=attacker");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    attacker()?;
    guest()
}

/// Compiles `source` to `name` in the directory of the build, for the target and with the linker of the build.
fn compile(name: &str, source: &str, options: &[&OsStr], linked: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut compiler = Command::new(env::var("RUSTC")?);
    // A relative path, so that the program does not say where it was built.
    compiler.current_dir(env::var("CARGO_MANIFEST_DIR")?).arg(source);
    compiler.arg("-o").arg(Path::new(&env::var("OUT_DIR")?).join(name));
    compiler.args(["--edition=2024", "--crate-type=bin", "--target", &env::var("TARGET")?]);
    compiler.args(options);
    for argument in linked {
        compiler.arg("-C").arg(format!("link-arg={argument}"));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = OsString::from("linker=");
        argument.push(linker);
        compiler.arg("-C").arg(argument);
    }
    let done = compiler.status()?;
    if done.success() { Ok(()) } else { Err(format!("{source} could not be compiled: {done}").into()) }
}

/// On an architecture for which there is no such program the file is empty, and who needs it says so.
fn attacker() -> Result<(), Box<dyn Error>> {
    if !matches!(env::var("CARGO_CFG_TARGET_ARCH")?.as_str(), "x86_64" | "aarch64") {
        return Ok(fs::write(Path::new(&env::var("OUT_DIR")?).join("attacker"), [])?);
    }
    let options = ["panic=abort", "opt-level=s", "debuginfo=0", "strip=symbols", "relocation-model=static"];
    let options: Vec<&OsStr> = options.iter().flat_map(|o| [OsStr::new("-C"), OsStr::new(*o)]).collect();
    let linked = ["-nostdlib", "-nostartfiles", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack"];
    compile("attacker", "attacker/main.rs", &options, &linked)
}

/// Small, because it is copied into each sandbox, and the same bytes wherever the tree lies.
fn guest() -> Result<(), Box<dyn Error>> {
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("guest"));
    remap.push("=guest");
    let mut options = ["--crate-name", "cogward_guest", "--cap-lints", "warn"].map(OsStr::new).to_vec();
    options.push(&remap);
    let code = [
        "target-feature=+crt-static",
        "panic=abort",
        "opt-level=s",
        "lto=fat",
        "codegen-units=1",
        "strip=symbols",
        "overflow-checks=on",
    ];
    options.extend(code.iter().flat_map(|o| [OsStr::new("-C"), OsStr::new(*o)]));
    compile("guest", "guest/main.rs", &options, &[])
}
