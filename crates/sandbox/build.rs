//! Builds the guest (`guest/main.rs`): a static program without a crate, which the library then carries inside.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-changed=guest");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
    let target = variable("TARGET")?;
    let out = PathBuf::from(variable("OUT_DIR")?).join("guest");
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("guest/main.rs");

    let mut compiler = Command::new(variable("RUSTC")?);
    compiler
        .args(["--crate-name", "cogward_guest", "--crate-type", "bin", "--edition", "2024", "--cap-lints", "warn"])
        .arg("--target")
        .arg(&target)
        // Static, so that it needs nothing of any root; small, because it is copied into each sandbox.
        .args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "opt-level=s"])
        .args(["-C", "lto=fat", "-C", "codegen-units=1", "-C", "strip=symbols", "-C", "overflow-checks=on"])
        // The same bytes wherever the tree lies.
        .arg(remap(source.parent().unwrap_or(Path::new("."))))
        .arg("-o")
        .arg(&out)
        .arg(&source);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = OsString::from("linker=");
        argument.push(linker);
        compiler.arg("-C").arg(argument);
    }
    let status = compiler.status().map_err(|e| format!("the compiler could not be started: {e}"))?;
    if !status.success() {
        return Err(format!("the guest of the sandbox could not be built for {}", target.to_string_lossy()));
    }
    Ok(())
}

fn remap(from: &Path) -> OsString {
    let mut argument = OsString::from("--remap-path-prefix=");
    argument.push(from);
    argument.push("=guest");
    argument
}
