//! `cogward-verify`: says whether an exported ledger is whole. Needs no plane and no network.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use cogward_ledger::{
    note::{NOTE_BYTES_MAX, VerifyingKey},
    verify::{self, Contradiction, What},
};

const HELP: &str = "\
cogward-verify DIR [--key VKEY|FILE] [--against FILE] [--json] [--threads N]

Verifies an exported ledger: the signature of its checkpoint, every leaf, its place and
predecessor, every run's chain, every tile and the root.

  --key      the log's public key (NAME+HASH+BASE64) or a file with it, got from somewhere
             else than the pack. Without it the key in the pack is used, which shows that
             the pack is whole but not whose it is.
  --against  an older `checkpoint` of the same log that you kept. The log must contain all
             that it covers. Without one nobody can see whether the holder of the key
             wrote the log anew.
  --json     the verdict as one JSON object
  --threads  so many threads; one for each processor without it

Exit code: 0 it holds, 9 it does not, 2 the command is wrong.
";

struct Arguments {
    dir: PathBuf,
    key: Option<VerifyingKey>,
    /// The older checkpoint's note.
    against: Option<String>,
    json: bool,
    threads: usize,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let (mut dir, mut key, mut against, mut json, mut threads) = (None, None, None, false, 0);
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(None),
            Some("--json") => json = true,
            Some("--key") => {
                let value = given.next().ok_or("--key needs a key or a file")?;
                key = Some(read_key(&value)?);
            }
            Some("--against") => {
                let path = PathBuf::from(given.next().ok_or("--against needs a file")?);
                against = Some(read_note(&path)?);
            }
            Some("--threads") => {
                let number = given.next().and_then(|n| n.to_str()?.parse().ok()).filter(|n| (1..=1_024).contains(n));
                threads = number.ok_or("--threads needs a number up to 1024")?;
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
    Ok(Some(Arguments { dir, key, against, json, threads }))
}

/// A key is one line.
const KEY_FILE_BYTES_MAX: u64 = 4_096;

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

fn read_note(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(NOTE_BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text)
}

/// Two signed notes that cannot both be true are the proof, whoever reads them: all of both is shown.
fn both_notes(arguments: &Arguments) -> Option<(&'static str, String, String)> {
    let older = arguments.against.clone()?;
    let now = read_note(&arguments.dir.join(verify::CHECKPOINT_FILE)).ok()?;
    let key = arguments.key.clone().or_else(|| verify::key_of(&arguments.dir).ok())?;
    let meaning = match verify::contradiction(&older, &now, &key)? {
        Contradiction::Shorter => {
            "The key signed a longer log before: this one is older than the checkpoint, or its end was cut off."
        }
        Contradiction::Rewritten => "The key signed two histories. These two notes are the proof of it:",
    };
    Some((meaning, older, now))
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
    let Arguments { key, against, threads, .. } = &arguments;
    let options =
        verify::Options { key: key.as_ref(), against: against.as_deref(), threads: *threads, ..Default::default() };
    let verdict = verify::verify(&arguments.dir, &options);
    let code = if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(9) };
    if arguments.json {
        let json = match &verdict {
            Ok(verified) => serde_json::json!({"verdict": "ok", "log": verified}),
            Err(finding) => {
                let notes = (finding.what == What::Against).then(|| both_notes(&arguments)).flatten();
                let notes = notes.map(|(_, older, now)| serde_json::json!({"older": older, "now": now}));
                serde_json::json!({"verdict": "failed", "finding": finding, "notes": notes})
            }
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
            println!("    key   {}", log.key);
            match log.against {
                Some(size) => println!("    contains the {size} leaves of the older checkpoint"),
                None => println!(
                    "NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`."
                ),
            }
            if !log.key_pinned {
                println!(
                    "WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key."
                );
            }
        }
        Err(finding) => {
            println!("FAILED  {finding}");
            if finding.what == What::Against
                && let Some((meaning, older, now)) = both_notes(&arguments)
            {
                println!(
                    "{meaning}\n\n--- the checkpoint that was kept\n{older}\n--- the checkpoint of this log\n{now}"
                );
            }
        }
    }
    code
}
