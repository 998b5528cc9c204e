//! Compiles the programs that this crate carries inside: each is linked with nothing, so that it runs in any root.

use std::{env, error::Error, fs, path::Path, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    program("attacker", "attacker/main.rs")
}

/// Compiles `source`, a program without a standard library, to `name` in the directory of the build.
///
/// On an architecture for which there is no such program the file is empty, and who needs it says so.
fn program(name: &str, source: &str) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let output = Path::new(&env::var("OUT_DIR")?).join(name);
    if !matches!(env::var("CARGO_CFG_TARGET_ARCH")?.as_str(), "x86_64" | "aarch64") {
        return Ok(fs::write(output, [])?);
    }
    let mut compiler = Command::new(env::var("RUSTC")?);
    // A relative path, so that the program does not say where it was built.
    compiler.current_dir(env::var("CARGO_MANIFEST_DIR")?).arg(source).arg("-o").arg(&output);
    compiler.args(["--edition=2024", "--crate-type=bin", "--target", &env::var("TARGET")?]);
    for option in ["panic=abort", "opt-level=s", "debuginfo=0", "strip=symbols", "relocation-model=static"] {
        compiler.args(["-C", option]);
    }
    for argument in ["-nostdlib", "-nostartfiles", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack"] {
        compiler.arg("-C").arg(format!("link-arg={argument}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.arg("-C").arg(format!("linker={linker}"));
    }
    let done = compiler.status()?;
    if done.success() { Ok(()) } else { Err(format!("{source} could not be compiled: {done}").into()) }
}
