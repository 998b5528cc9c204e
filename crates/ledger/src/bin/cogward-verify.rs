//! `cogward-verify`: says whether an exported ledger is whole. Needs no plane and no network.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use cogward_ledger::{
    archive,
    extract::Scope,
    key_chain::KeyChain,
    map_check,
    note::{NOTE_BYTES_MAX, VerifyingKey},
    pack,
    policy::{POLICY_BYTES_MAX, Policy},
    proof_file::{self, Proven},
    verify::{self, Contradiction, Finding, What},
};

const HELP: &str = "\
cogward-verify [pack] DIR [--key VKEY|FILE] [--against FILE] [--plane-key VKEY|FILE]
               [--witnesses POLICY] [--json] [--threads N]
cogward-verify proof FILE --key VKEY|FILE [--json]
cogward-verify index DIR [--key VKEY|FILE] [--against FILE] [--json] [--threads N]
cogward-verify archive DIR [--key VKEY|FILE] [--against FILE] [--json]

Verifies an exported ledger: the signature of its checkpoint, every leaf, its place and
predecessor, every run's chain, every tile and the root. A pack of a part (a run, a window,
an agent) is checked leaf by leaf against the signed root, and for being all of that part.

  proof    one proof: a leaf in the log, an older state of it, or a whole run
  index    an exported ledger, and that its verifiable index is what its leaves give
  archive  the archive of a plane: the chain of its manifests, every segment, every leaf of all
           logs, and that they lead to the signed checkpoints. The key is that of the plane log;
           --against is a checkpoint of any of its logs, or a manifest, that you kept.

  --key      the log's public key (NAME+HASH+BASE64) or a file with it, got from somewhere
             else than the pack. Without it the key in the pack is used, which shows that
             the pack is whole but not whose it is.
  --against  an older `checkpoint` of the same log that you kept. The log must contain all
             that it covers. Without one nobody can see whether the holder of the key
             wrote the log anew.
  --plane-key  the public key of the plane log, got from somewhere else: the log's checkpoint
             must be in that log.
  --witnesses  a C2SP tlog-policy file: who must have seen the plane log's checkpoint. Its
             `log` lines are keys of plane logs, as --plane-key.
  --json     the verdict as one JSON object
  --threads  so many threads; one for each processor without it
  --version  which program this is

Exit code: 0 it holds, 9 it does not, 2 the command is wrong or there is nothing to verify.
A key that is not that of the log makes it fail, too: the program cannot know which is right.
";

/// What is verified.
enum Task {
    Pack(PathBuf),
    Index(PathBuf),
    Proof(PathBuf),
    Archive(PathBuf),
}

impl Task {
    /// The directory of a whole log.
    fn whole_log(&self) -> Option<&Path> {
        match self {
            Self::Pack(dir) | Self::Index(dir) if !pack::is_partial(dir) => Some(dir),
            _ => None,
        }
    }
}

struct Arguments {
    task: Task,
    key: Option<VerifyingKey>,
    /// The older checkpoint's note.
    against: Option<String>,
    plane_key: Option<VerifyingKey>,
    witnesses: Option<Policy>,
    json: bool,
    threads: usize,
}

/// What the command asks for.
enum Asked {
    Help,
    Version,
    Verdict(Box<Arguments>),
}

fn arguments() -> Result<Asked, String> {
    let (mut words, mut key, mut against, mut json, mut threads) = (Vec::new(), None, None, false, 0);
    let (mut plane_key, mut witnesses) = (None, None);
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(Asked::Help),
            Some("--version") => return Ok(Asked::Version),
            Some("--json") => json = true,
            Some("--key") => {
                let value = given.next().ok_or("--key needs a key or a file")?;
                key = Some(read_key(&value)?);
            }
            Some("--plane-key") => {
                let value = given.next().ok_or("--plane-key needs a key or a file")?;
                plane_key = Some(read_key(&value)?);
            }
            Some("--witnesses") => {
                let path = PathBuf::from(given.next().ok_or("--witnesses needs a file")?);
                witnesses = Some(read_policy(&path)?);
            }
            Some("--against") => {
                let path = PathBuf::from(given.next().ok_or("--against needs a file")?);
                against = Some(read_kept(&path)?);
            }
            Some("--threads") => {
                let number = given.next().and_then(|n| n.to_str()?.parse().ok()).filter(|n| (1..=1_024).contains(n));
                threads = number.ok_or("--threads needs a number up to 1024")?;
            }
            Some(option) if option.starts_with('-') => return Err(format!("there is no option {option}")),
            _ => words.push(argument),
        }
    }
    let task = match words.as_slice() {
        [] => return Err("which directory?".to_owned()),
        [dir] => Task::Pack(dir.into()),
        [word, path] => match word.to_str() {
            Some("pack") => Task::Pack(path.into()),
            Some("index") => Task::Index(path.into()),
            Some("proof") => Task::Proof(path.into()),
            Some("archive") => Task::Archive(path.into()),
            _ => return Err("one directory, please".to_owned()),
        },
        _ => return Err("one directory, please".to_owned()),
    };
    match &task {
        Task::Pack(path) | Task::Index(path) | Task::Archive(path) if !path.is_dir() => {
            return Err(format!("{} is not a directory", path.display()));
        }
        Task::Pack(path) | Task::Index(path) => readable_pack(path)?,
        Task::Proof(path) if !path.is_file() => return Err(format!("{} is not a file", path.display())),
        // A proof has no key beside it that could be shown instead.
        Task::Proof(_) if key.is_none() => return Err("a proof needs the log's key: --key".to_owned()),
        _ => {}
    }
    if against.is_some() && task.whole_log().is_none() && !matches!(task, Task::Archive(_)) {
        let next =
            "of a part ask the plane for `evidence prove consistency OLD` and verify that with `cogward-verify proof`";
        return Err(format!("--against compares whole logs; {next}"));
    }
    if (plane_key.is_some() || witnesses.is_some()) && task.whole_log().is_none() {
        return Err(
            "--plane-key and --witnesses are about whole logs: only their packs have the plane log's proof".to_owned()
        );
    }
    Ok(Asked::Verdict(Box::new(Arguments { task, key, against, plane_key, witnesses, json, threads })))
}

/// What is no pack at all, or may not be read, is no damaged pack.
fn readable_pack(dir: &Path) -> Result<(), String> {
    let files = [verify::CHECKPOINT_FILE, verify::KEY_FILE, pack::MANIFEST_FILE].map(|name| dir.join(name));
    if files.iter().all(|file| file.symlink_metadata().is_err()) {
        return Err(format!("{} is no exported ledger: it has no {}", dir.display(), verify::CHECKPOINT_FILE));
    }
    let opened = |file: &PathBuf| std::fs::File::open(file).map_err(|error| error.kind());
    match files.iter().find(|file| matches!(opened(file), Err(std::io::ErrorKind::PermissionDenied))) {
        Some(file) => Err(format!("you may not read {}", file.display())),
        None => Ok(()),
    }
}

fn read_policy(path: &Path) -> Result<Policy, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(POLICY_BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let policy = Policy::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if policy.logs().is_empty() && !policy.needs_witnesses() {
        return Err(format!("{}: it names no log and needs no witness, so there is nothing to check", path.display()));
    }
    Ok(policy)
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

/// A checkpoint, or a manifest of an archive.
fn read_kept(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(archive::MANIFEST_BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text)
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
    let dir = arguments.task.whole_log()?;
    let now = read_note(&dir.join(verify::CHECKPOINT_FILE)).ok()?;
    let own = verify::key_of(dir).ok()?;
    let keys = verify::keys_in(dir, &own).ok()?;
    // Who gave a key that is none of the pack's compares by that one alone.
    let keys = match &arguments.key {
        Some(key) if keys.chain.generation_of(key).is_none() => KeyChain::new(key.clone()),
        _ => keys.chain,
    };
    let meaning = match verify::contradiction(&older, &now, &keys)? {
        Contradiction::Shorter => {
            "The key signed a longer log before: this one is older than the checkpoint, or its end was cut off."
        }
        Contradiction::Rewritten => "The key signed two histories. These two notes are the proof of it:",
    };
    Some((meaning, older, now))
}

/// Prints a line. What came with a pack may move no cursor; and a reader who went away does not change the verdict.
fn say(line: &str) {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (c.is_control() && c != '\n') { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    let _gone = writeln!(std::io::stdout(), "{shown}");
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Asked::Verdict(arguments)) => arguments,
        Ok(Asked::Help) => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            say(concat!("cogward-verify ", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            let mistake: String = mistake.chars().flat_map(char::escape_debug).collect();
            let _gone = writeln!(std::io::stderr(), "cogward-verify: {mistake}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let Arguments { task, key, .. } = &*arguments;
    if let Task::Archive(dir) = task {
        return archived(dir, &arguments);
    }
    let verdict = match task {
        Task::Proof(path) => proof(path, key.as_ref()),
        Task::Pack(dir) if pack::is_partial(dir) => partial(dir, key.as_ref()),
        Task::Pack(dir) => whole(dir, &arguments, false),
        // Answered above.
        Task::Index(dir) | Task::Archive(dir) => whole(dir, &arguments, true),
    };
    let code = if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(9) };
    match (verdict, arguments.json) {
        (Ok(said), true) => say(&said.json.to_string()),
        (Ok(said), false) => said.lines.iter().for_each(|line| say(line)),
        (Err(finding), as_json) => {
            let notes = if finding.what == What::Against { both_notes(&arguments) } else { None };
            if as_json {
                let notes = notes.map(|(_, older, now)| serde_json::json!({"older": older, "now": now}));
                say(&serde_json::json!({"verdict": "failed", "finding": finding, "notes": notes}).to_string());
                return code;
            }
            say(&format!("FAILED  {finding}"));
            if finding.what == What::Signature && key.is_some() {
                say(OTHER_KEY);
            }
            if let Some((meaning, older, now)) = notes {
                say(&format!(
                    "{meaning}\n\n--- the checkpoint that was kept\n{older}\n--- the checkpoint of this log\n{now}"
                ));
            }
        }
    }
    code
}

/// A good verdict in both forms.
struct Said {
    json: serde_json::Value,
    lines: Vec<String>,
}

const UNPINNED: &str =
    "WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.";

const UNCOMPARED: &str = "NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`.";

const OTHER_KEY: &str = "If it was signed by another key of that log, say before its key was replaced, verify it with the key of that time.";

const UNANCHORED: &str = "NOTE: there is no plane/ in the pack: no witness and no time stamp speaks for it.";

const UNPINNED_PLANE: &str = "WARNING: the key of the plane log came with the pack as well. What `plane` and `stamp` say is worth as much as that key: give it with --plane-key.";

const UNWITNESSED: &str = "NOTE: nobody but the plane signed its checkpoint: no witness speaks for it.";

const PART: &str = "NOTE: a part is of the state of the log that its checkpoint signs, and cannot show later leaves, or that the log was never another: compare that checkpoint with those that you kept (evidence prove consistency).";

const ON_REQUEST: &str = "NOTE: the plane commits to its index every 65,536 leaves, and for what is behind that when somebody asks. A root that was made for this pack was made by who made the pack.";

const STAMPED: &str = "NOTE: the authority's signature was not checked here. In plane/timestamp: openssl ts -verify -in checkpoint.tsr -data checkpoint -CAfile CA.pem";

const FOLLOWED: &str = "each was replaced by a statement that it signed itself. Keep the present one.";

const REVOKED: &str = "WARNING: the key that you gave was revoked. Whoever has it can lead you to another log: compare the present one with the one that the operator published.";

fn whole(dir: &Path, arguments: &Arguments, with_index: bool) -> Result<Said, Finding> {
    let Arguments { key, against, threads, .. } = arguments;
    let key = key.as_ref();
    let options = verify::Options {
        key,
        against: against.as_deref(),
        plane_key: arguments.plane_key.as_ref(),
        witnesses: arguments.witnesses.as_ref(),
        threads: *threads,
        ..Default::default()
    };
    let log = verify::verify(dir, &options)?;
    let mut lines = vec![
        format!("OK  {} leaves, {} runs ({} closed)", log.leaves, log.runs, log.closed_runs),
        format!("    log   {}", log.origin),
        format!("    root  {}", log.root),
    ];
    if let (Some(first), Some(last)) = (&log.first_time, &log.last_time) {
        lines.push(format!("    time  {first} to {last}"));
    }
    let mut json = serde_json::json!({"verdict": "ok", "log": log});
    if with_index {
        let checkpoint = match key.filter(|_| log.pinned_generation.is_none()) {
            Some(key) => map_check::checkpoint_of(dir, key),
            None => map_check::checkpoint_of(dir, &verify::key_of(dir)?),
        };
        let index = map_check::check(dir, &checkpoint?)?;
        lines.push(format!("    index {} roots made anew and the same, leaves 0 to {}", index.claims, index.covered));
        if let Some(all) = json.as_object_mut() {
            all.insert("index".to_owned(), serde_json::to_value(index).unwrap_or_default());
        }
    }
    match &log.anchored {
        Some(plane) => anchored_lines(plane, &mut lines),
        None => lines.push(UNANCHORED.to_owned()),
    }
    if let Some(stamped) = &log.stamped {
        lines.push(format!("    stamp {} leaves since {}, says a time stamp authority", stamped.leaves, stamped.time));
        lines.push(STAMPED.to_owned());
    }
    lines.push(format!("    key   {}", log.key));
    if let Some(generation) = log.pinned_generation {
        lines.push(format!(
            "    the key that you gave is number {generation}, this is number {}: {FOLLOWED}",
            log.generation
        ));
        if log.pinned_revoked {
            lines.push(REVOKED.to_owned());
        }
    }
    lines.push(match log.against {
        Some(size) => format!("    contains the {size} leaves of the older checkpoint"),
        None => UNCOMPARED.to_owned(),
    });
    if !log.key_pinned {
        lines.push(UNPINNED.to_owned());
    }
    Ok(Said { json, lines })
}

fn anchored_lines(plane: &verify::Anchored, lines: &mut Vec<String>) {
    lines.push(format!(
        "    plane {}: among its first {} checkpoints, there since {}",
        plane.origin, plane.size, plane.time
    ));
    lines.push(format!("    plane key {}", plane.key));
    lines.push(match (&plane.seen, plane.cosignatures) {
        (Some(seen), _) => {
            let by: Vec<_> = seen.iter().map(|seen| format!("{} on {}", seen.by, seen.time)).collect();
            format!("    seen  by {}: enough by the policy that you gave", by.join(", "))
        }
        (None, 0) => UNWITNESSED.to_owned(),
        (None, count) => format!("NOTE: {count} signatures of witnesses were not checked: --witnesses POLICY."),
    });
    if !plane.key_pinned {
        lines.push(UNPINNED_PLANE.to_owned());
    }
}

fn partial(dir: &Path, key: Option<&VerifyingKey>) -> Result<Said, Finding> {
    let pack = pack::verify_pack(dir, key)?;
    let of = match &pack.scope {
        Scope::Run { run } => format!("run {run}"),
        Scope::Window { since, until } => {
            let end = |time: &Option<String>, open: &str| time.clone().unwrap_or_else(|| open.to_owned());
            let (since, until) = (end(since, "the beginning"), end(until, "the end"));
            format!("all from {since} to {until} that the first {} leaves have", pack.size)
        }
        Scope::Key { of, value, from, to, since, until } => {
            let end = |word: &str, time: &Option<String>| {
                time.iter().map(|time| format!(" {word} {time}")).collect::<String>()
            };
            let window = end("from", since) + &end("to", until);
            format!("all with {} {value}{window} among leaves {from} to {to}", of.as_str())
        }
        Scope::Sample { nonce, count, .. } => format!("{count} drawn with {nonce}"),
    };
    let mut lines = vec![format!("OK  {} leaves: {of}", pack.extracted.leaves)];
    if !pack.extracted.complete {
        lines.push(match &pack.scope {
            Scope::Run { .. } => "    the run has no run.closed in this checkpoint: it may have gone on".to_owned(),
            _ => "    the window goes on behind what the index of this checkpoint covers".to_owned(),
        });
    }
    lines.push(format!("    log   {}, {} leaves", pack.origin, pack.size));
    lines.push(format!("    root  {}", pack.root));
    if let (Some(first), Some(last)) = (&pack.extracted.first_time, &pack.extracted.last_time) {
        lines.push(format!("    time  {first} to {last}"));
    }
    lines.push(format!("    disclosures  {}", pack.disclosures));
    lines.push(format!("    key   {}", pack.key));
    if let Some(generation) = pack.pinned_generation {
        lines.push(format!("    the key that you gave is number {generation}: {FOLLOWED}"));
    }
    if let Scope::Key { to, until, .. } = &pack.scope {
        if until.is_none() && *to < pack.size {
            lines.push(format!(
                "NOTE: of leaves {to} to {} nothing is said: they came behind what the index of this pack covers.",
                pack.size - 1
            ));
        }
        lines.push(ON_REQUEST.to_owned());
    }
    lines.push(PART.to_owned());
    if !pack.key_pinned {
        lines.push(UNPINNED.to_owned());
    }
    Ok(Said { json: serde_json::json!({"verdict": "ok", "pack": pack}), lines })
}

fn archived(dir: &Path, arguments: &Arguments) -> ExitCode {
    let options = archive::Options { key: arguments.key.as_ref(), against: arguments.against.as_deref() };
    match (archive::verify(&archive::Directory::new(dir), &options), arguments.json) {
        (Ok(found), true) => say(&serde_json::json!({"verdict": "ok", "archive": found}).to_string()),
        (Ok(found), false) => archived_lines(&found).iter().for_each(|line| say(line)),
        (Err(finding), as_json) => {
            match as_json {
                true => say(&serde_json::json!({"verdict": "failed", "finding": finding}).to_string()),
                false => say(&format!("FAILED  {finding}")),
            }
            return ExitCode::from(9);
        }
    }
    ExitCode::SUCCESS
}

fn archived_lines(found: &archive::Verified) -> Vec<String> {
    let mut lines = vec![
        format!(
            "OK  {} segments, {} bytes, {} leaves of {} logs",
            found.segments,
            found.bytes,
            found.leaves,
            found.logs.len()
        ),
        format!("    plane    {}", found.plane),
    ];
    lines.extend(found.logs.iter().map(|(log, leaves)| format!("    log      {log}: {leaves} leaves")));
    lines.push(format!("    newest   manifest {}", found.newest));
    lines.push(format!("    key      {}", found.key));
    if !found.unnamed.is_empty() {
        lines.push(format!(
            "    {} objects that no manifest names, such as {}",
            found.unnamed.len(),
            found.unnamed.first().map_or("", String::as_str)
        ));
    }
    if found.compared {
        lines.push("    contains what was kept elsewhere".to_owned());
    } else {
        lines.push("NOTE: an archive cannot show by itself that its newest part is there. Keep a checkpoint or its newest manifest, and give it with --against.".to_owned());
    }
    if found.key_revoked {
        lines.push(REVOKED.to_owned());
    }
    if !found.key_pinned {
        lines.push("WARNING: the key came with the archive. Compare it with the one that the operator published, or give it with --key.".to_owned());
    }
    lines
}

/// Largest proof: a long run with its proofs.
const PROOF_BYTES_MAX: u64 = 1024 * 1024 * 1024;

fn proof(path: &Path, key: Option<&VerifyingKey>) -> Result<Said, Finding> {
    let missing = |detail: String| Finding { leaf: None, what: What::Missing, detail };
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(PROOF_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| missing(format!("{}: {error}", path.display())))?;
    let key = key.ok_or_else(|| missing("no key".to_owned()))?;
    let proven = proof_file::verify(&text, key)?;
    let lines = match &proven {
        Proven::Inclusion { origin, size, index, event, time, .. } => {
            vec![
                format!("OK  leaf {index} is in the log: {event} of {time}"),
                format!("    log   {origin}, {size} leaves"),
            ]
        }
        Proven::Consistency { origin, size, old, new } => vec![
            format!("OK  the log of {} leaves is a beginning of the one of {}", old.size, new.size),
            format!("    roots {} and {}: compare them with the checkpoints that you kept", old.root, new.root),
            format!("    log   {origin}, {size} leaves"),
        ],
        Proven::Run { origin, size, run, extracted } => vec![
            format!("OK  {} leaves of run {run}", extracted.leaves),
            match extracted.complete {
                true => "    its chain is complete up to run.closed".to_owned(),
                false => "    the run has no run.closed in this checkpoint: it may have gone on".to_owned(),
            },
            format!("    log   {origin}, {size} leaves"),
        ],
    };
    Ok(Said { json: serde_json::json!({"verdict": "ok", "proven": proven}), lines })
}
