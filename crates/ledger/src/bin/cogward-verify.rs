//! `cogward-verify`: says whether an exported ledger is whole. Needs no plane and no network.

use std::{io::Read, path::PathBuf, process::ExitCode};

use cogward_ledger::{note::VerifyingKey, verify};

const HELP: &str = "\
cogward-verify DIR [--key VKEY|FILE] [--json]

Verifies an exported ledger: the signature of its checkpoint, every leaf, its place and
predecessor, every run's chain, every tile and the root.

  --key    the log's public key (NAME+HASH+BASE64) or a file with it, got from somewhere
           else than the pack. Without it the key in the pack is used, which shows that
           the pack is whole but not whose it is.
  --json   the verdict as one JSON object

Exit code: 0 it holds, 9 it does not, 2 the command is wrong.
";

struct Arguments {
    dir: PathBuf,
    key: Option<VerifyingKey>,
    json: bool,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let (mut dir, mut key, mut json) = (None, None, false);
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(None),
            Some("--json") => json = true,
            Some("--key") => {
                let value = given.next().ok_or("--key needs a key or a file")?;
                key = Some(read_key(&value)?);
            }
            Some(option) if option.starts_with('-') => return Err(format!("there is no option {option}")),
            _ if dir.is_some() => return Err("one directory, please".to_owned()),
            _ => dir = Some(PathBuf::from(argument)),
        }
    }
    let dir = dir.ok_or("which directory?")?;
    if !dir.is_dir() {
        return Err(format!("{} is not a directory", dir.display()));
    }
    Ok(Some(Arguments { dir, key, json }))
}

/// A key is a line or two.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1_024;

fn read_key(value: &std::ffi::OsStr) -> Result<VerifyingKey, String> {
    if let Some(key) = value.to_str().and_then(|text| text.parse().ok()) {
        return Ok(key);
    }
    let path = PathBuf::from(value);
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("{} is neither a key nor a file with one: {error}", path.display()))?;
    text.trim_end().parse().map_err(|error| format!("{}: {error}", path.display()))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what this program is for")]
fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("cogward-verify: {mistake}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let verdict = verify::verify_dir(&arguments.dir, arguments.key.as_ref());
    let code = if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(9) };
    if arguments.json {
        let json = match &verdict {
            Ok(verified) => serde_json::json!({"verdict": "ok", "log": verified}),
            Err(finding) => serde_json::json!({"verdict": "failed", "finding": finding}),
        };
        println!("{json}");
        return code;
    }
    match verdict {
        Ok(log) => {
            println!("OK  {} leaves, {} runs ({} closed)", log.leaves, log.runs, log.closed_runs);
            println!("    log   {}", log.origin);
            println!("    root  {}", log.root);
            if let (Some(first), Some(last)) = (&log.first_time, &log.last_time) {
                println!("    time  {first} to {last}");
            }
            if let Some(plane) = &log.anchored {
                println!("    plane {}: among {} checkpoints since {}", plane.origin, plane.size, plane.time);
            }
            println!("    key   {}", log.key);
            if !log.key_pinned {
                println!(
                    "WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key."
                );
            }
        }
        Err(finding) => println!("FAILED  {finding}"),
    }
    code
}
