#!/usr/bin/env python3
"""Leaves out each comparison of the verifier in turn and demands that a log of the corpus notices.

    scripts/mutate-verifier.py [--list] [PART OF A NAME]...

Works on a copy of the tree below the build directory (CARGO_TARGET_DIR or target), with one small build
for each mutant: minutes, so it is not part of `make test`. Prints a line for each; docs/verifier-mutants.md
holds the last record. Exit code 1 when a mutant lives.
"""
import os, pathlib, shutil, subprocess, sys

LEDGER = "crates/ledger/src/"
# Where, what stands there (once), what stands there in the mutant.
MUTANTS = [
    # verify.rs: what is looked at before any leaf
    ("verify.rs", 'if own != *key {', 'if false {'),
    ("verify.rs", '.map_err(|e| log_finding(What::Signature, e.to_string()))?;', '.or_else(|_| Checkpoint::open(&note, &own)).map_err(|e| log_finding(What::Signature, e.to_string()))?;'),
    ("verify.rs", 'if let Some(older) = &older {', 'if let Some(older) = older.as_ref().filter(|_| false) {'),
    # verify/against.rs
    ("verify/against.rs", 'if older.size > now.size {\n        let', 'if false && older.size > now.size {\n        let'),
    ("verify/against.rs", 'if root != Some(&older.root) {', 'if root.is_none() {'),
    ("verify/against.rs", 'Checkpoint::open(note, key).map_err(|error| log_finding(What::Against, format!("the older checkpoint: {error}")))', 'Checkpoint::open(note, key).or_else(|_| Checkpoint::open(&String::new(), key)).or(Ok(Checkpoint { origin: String::new(), size: 0, root: crate::tree::empty_root() }))'),
    # verify/bundle.rs
    ("verify/bundle.rs", 'if hashes.len() != width || !rest.is_empty() {', 'if hashes.len() != width {'),
    ("verify/bundle.rs", 'if hashes.len() != width || !rest.is_empty() {', 'if !rest.is_empty() {'),
    ("verify/bundle.rs", '        bytes?;\n', '        drop(bytes);\n'),
    ("verify/bundle.rs", 'if Some(tree.size()) == older {', 'if older.is_some() {'),
    ("verify/bundle.rs", 'filter(|older| *older > 0)', 'filter(|older| *older > 1)'),
    ("verify/bundle.rs", 'if length.is_none() || end > entries.len() {', 'if length.is_none() {'),
    ("verify/bundle.rs", 'if length.is_none() || end > entries.len() {', 'if end > entries.len() + 2 {'),
    ("verify/bundle.rs", '!= *expected {', '!= *expected && false {'),
    ("verify/bundle.rs", 'if at == entries.len() {', 'if true {'),
    ("verify/bundle.rs", 'if body.v != 1 {', 'if body.v == 0 {'),
    ("verify/bundle.rs", 'if chain.seq != seq {', 'if false {'),
    ("verify/bundle.rs", 'if !is_hash_text(chain.prev, Some(prev)) {', 'if chain.prev.is_none() && prev.is_empty() {'),
    ("verify/bundle.rs", '                    if !is_time(chain.time) {', '                    if false {'),
    ("verify/bundle.rs", '                if !is_time(time) {', '                if false {'),
    ("verify/bundle.rs", 'if *chain.time < *ends.last_time {', 'if false {'),
    ("verify/bundle.rs", 'if *ends.tenant != *body.tenant {', 'if false {'),
    ("verify/bundle.rs", 'if body.run_prev.is_some() || body.run_seq.is_some() {', 'if false {'),
    ("verify/bundle.rs", 'match known.end.follow(body.run_seq, body.run_prev) {', 'match known.end.follow(Some(known.end.seq + 1), body.run_prev) {'),
    ("verify/bundle.rs", 'match known.end.follow(body.run_seq, body.run_prev) {', 'match known.end.follow(body.run_seq, Some(&crate::leaf::hash_text(&known.end.last))) {'),
    ("verify/bundle.rs", 'closed: known.end.closed || closed };', 'closed: true };'),
    # verify/runs.rs
    ("verify/runs.rs", 'if seq != self.seq.checked_add(1) {', 'if seq.is_none() {'),
    ("verify/runs.rs", 'if !is_hash_text(prev, Some(&self.last)) {', 'if prev.is_none() {'),
    ("verify/runs.rs", 'None if run.seq != Some(1) || run.prev.is_some()', 'None if run.prev.is_some()'),
    ("verify/runs.rs", 'None if run.seq != Some(1) || run.prev.is_some()', 'None if run.seq != Some(1)'),
    ("verify/runs.rs", 'match known.follow(run.seq, run.prev.as_deref()) {', 'match known.follow(Some(known.seq + 1), run.prev.as_deref()) {'),
    ("verify/runs.rs", 'match known.follow(run.seq, run.prev.as_deref()) {', 'match known.follow(run.seq, Some(&crate::leaf::hash_text(&known.last))) {'),
    # verify/join.rs
    ("verify/join.rs", 'if !is_hash_text(ends.prev.as_deref(), self.prev.as_ref()) {', 'if ends.prev.is_none() != self.prev.is_none() {'),
    ("verify/join.rs", 'if !is_hash_text(ends.prev.as_deref(), self.prev.as_ref()) {', 'if self.prev.is_some() && !is_hash_text(ends.prev.as_deref(), self.prev.as_ref()) {'),
    ("verify/join.rs", 'is_some_and(|last| ends.first_time < *last)', 'is_some_and(|_| false)'),
    ("verify/join.rs", '!= &ends.tenant {', '!= &ends.tenant && false {'),
    ("verify/join.rs", '(problem.leaf, problem.rule) < (before.leaf, before.rule)', 'false'),
    ("verify/join.rs", 'if let Some(Problem { finding, .. }) = wrong {', 'if let Some(Problem { finding, .. }) = wrong.filter(|w| w.leaf > 0) {'),
    ("verify/join.rs", 'if let Some(finding) = self.above.wrong.take() {', 'if let Some(finding) = self.above.wrong.take().filter(|_| false) {'),
    ("verify/join.rs", 'if root != checkpoint.root {', 'if false && root != checkpoint.root {'),
    ("verify/join.rs", 'Ok(file) if file == bytes => None,', 'Ok(_) if true => None,'),
    ("verify/join.rs", '                Err(finding) => Some(finding),', '                Err(_) => None,'),
    ("verify/join.rs", '(older == Some(0)).then(empty_root)', 'Some(empty_root()).filter(|_| false)'),
    # note.rs
    ("note.rs", 'if origin != key.origin {', 'if false {'),
    ("note.rs", 'if number.to_string() != size {', 'if false {'),
    ("note.rs", '.map_err(|_| NoteError::Signature)?;', '.or(Ok::<(), NoteError>(()))?;'),
    ("note.rs", 'if holds { Ok(()) }', 'if true || holds { Ok(()) }'),
    ("note.rs", 'signatures.strip_suffix(\'\\n\').ok_or(NoteError::Form("the last line has no end"))?', 'signatures.trim_end_matches(\'\\n\')'),
    # scan.rs: the form of a leaf
    ("scan.rs", 'Some(parsed) if scan.at == text.len() => Ok(parsed),', 'Some(parsed) => Ok(parsed),'),
    ("scan.rs", 'if depth > DEPTH_MAX + 2 {', 'if depth > DEPTH_MAX * 100 {'),
    ("scan.rs", '!key.bytes().all(is_key_byte) || ', ''),
    ("scan.rs", ' || before.is_some_and(|before| before >= key)', ''),
    ("scan.rs", 'before.is_some_and(|before| before >= key)', 'before.is_some_and(|before| before > key)'),
    ("scan.rs", 'before.is_some_and(|before| before >= key)', 'before.is_some_and(|before| before == key)'),
    ("scan.rs", '(!matches!(tens + ones, 0x08 | b\'\\t\' | b\'\\n\' | 0x0c | b\'\\r\')).then_some(())', 'Some(())'),
    ("scan.rs", 'digit @ b\'a\'..=b\'f\' => digit - b\'a\' + 10,', 'digit @ (b\'a\'..=b\'f\' | b\'A\'..=b\'F\') => (digit | 32) - b\'a\' + 10,'),
    ("scan.rs", 'digits > 0 && !(zero_first && (digits > 1 || negative))', '!(zero_first && (digits > 1 || negative))'),
    ("scan.rs", '(zero_first && (digits > 1 || negative))', '(zero_first && negative)'),
    ("scan.rs", '(zero_first && (digits > 1 || negative))', '(zero_first && digits > 1)'),
    ("scan.rs", '|| value > INTEGER_MAX.unsigned_abs()', ''),
    ("scan.rs", 'let control = word.wrapping_sub(EACH * 0x20) & !word;', 'let control = 0;'),
    ("scan.rs", '"id" => id = Some(value.text()?),', '"id" => id = Some(value.text().unwrap_or("x")),'),
    ("scan.rs", '"tenant" => tenant = Some(value.text()?),', '"tenant" => tenant = Some(value.text().unwrap_or("x")),'),
    ("scan.rs", '"run" => run = value.text_or_null()?,', '"run" => run = value.text_or_null().unwrap_or(Some("run_1")),'),
    ("scan.rs", '"run_seq" => run_seq = value.natural_or_null()?,', '"run_seq" => run_seq = value.natural_or_null().unwrap_or(Some(1)),'),
    ("scan.rs", '"v" => version = Some(value.natural()?),', '"v" => version = Some(value.natural().unwrap_or(1)),'),
    ("scan.rs", 'let prev = self.value(2)?.text_or_null()?;', 'let prev = self.value(2)?.text_or_null().unwrap_or(None);'),
    ("scan.rs", 'let seq = self.value(2)?.natural()?;', 'let seq = self.value(2)?.natural().unwrap_or(0);'),
    ("scan.rs", 'ParsedBody { id: id?, ', 'ParsedBody { id: id.unwrap_or("x"), '),
    ("scan.rs", 'tenant: tenant?, ', 'tenant: tenant.unwrap_or("x"), '),
    ("scan.rs", 'kind: kind?, ', 'kind: kind.unwrap_or("x"), '),
    ("scan.rs", 'v: version? ', 'v: version.unwrap_or(1) '),
    # leaf.rs
    ("leaf.rs", '(None, None) => true,', '(None, _) => true,'),
    ("leaf.rs", '&& text.as_bytes() == expected', '&& text.len() >= expected.len()'),
]

# Mutants that change no verdict, and why.
EQUAL = {
    ("if length.is_none() || end > entries.len() {", "if length.is_none() {"): "a hash over nothing is not the tile's either",
    ("if length.is_none() || end > entries.len() {", "if end > entries.len() + 2 {"): "a hash over nothing is not the tile's either",
    ("if older.size > now.size {\n        let", "if false && older.size > now.size {\n        let"): "a log that is shorter has no root at that size either",
}


def main(arguments):
    name = lambda n, m: f"{n + 1:02} {m[0]}: {' '.join(m[1].split())}  ->  {' '.join(m[2].split()) or '(nothing)'}"
    if arguments[:1] == ["--list"]:
        print("\n".join(name(n, m) for n, m in enumerate(MUTANTS)))
        return 0
    tree = pathlib.Path(__file__).resolve().parent.parent
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", tree / "target")).resolve() / "mutants"
    copy = target / "tree"
    shutil.rmtree(copy, ignore_errors=True)
    files = subprocess.run(["git", "-C", tree, "ls-files"], check=True, capture_output=True, text=True).stdout.split("\n")
    for file in filter(None, files):
        if (tree / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / file, copy / file)
    command = ["cargo", "test", "--locked", "--quiet", "-p", "cogward-ledger", "--test", "corpus", "--", "our_own_verdict"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target / "build"), "RUST_BACKTRACE": "0"}

    def run():
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1800)
        return done.returncode, done.stdout + done.stderr

    code, output = run()
    if code != 0:
        print(f"the verifier as it is fails:\n{output[-3000:]}")
        return 2
    alive = 0
    for n, (file, old, new) in enumerate(MUTANTS):
        if arguments and not any(part in name(n, (file, old, new)) for part in arguments):
            continue
        path = copy / LEDGER / file
        whole = path.read_text()
        if whole.count(old) != 1:
            print(f"ABSENT    {name(n, (file, old, new))} (stands there {whole.count(old)} times)", flush=True)
            alive += 1
            continue
        path.write_text(whole.replace(old, new))
        code, output = run()
        path.write_text(whole)
        if "error: could not compile" in output or "error[E" in output:
            verdict = "NO BUILD"
        elif code == 0:
            verdict = "equal" if (old, new) in EQUAL else "LIVES"
        else:
            verdict = "killed"
        alive += verdict not in ("killed", "equal")
        witness = next((line.strip().rsplit(": ", 1)[-1] for line in output.split("\n") if "assertion `left == right` failed: " in line), "a panic")
        print(f"{verdict:<9} {name(n, (file, old, new))}" + (f"   [{witness}]" if verdict == "killed" else f"   [{EQUAL.get((old, new))}]" if verdict == "equal" else ""), flush=True)
    print(f"{len(MUTANTS)} mutants, {alive} alive" if not arguments else f"{alive} alive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
