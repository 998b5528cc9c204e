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
    ("verify.rs", 'if !own.includes(key) {', 'if false {'),
    ("verify.rs", 'Checkpoint::open(&note, key).map_err(', 'Checkpoint::open(&note, key).or_else(|_| Checkpoint::open(&note, &own)).map_err('),
    ("verify.rs", '    Checkpoint::open(&note, &own).map_err(|e| log_finding(What::Signature, e.to_string()))?;', ''),
    ("verify.rs", 'keys.compare(&checkpoint.origin, &log.key_leaves)?;', ''),
    ("verify.rs", 'if let Some(older) = &older {', 'if let Some(older) = older.as_ref().filter(|_| false) {'),
    # verify/against.rs
    ("verify/against.rs", 'if older.size > now.size {\n        let', 'if false && older.size > now.size {\n        let'),
    ("verify/against.rs", 'if root != Some(&older.root) {', 'if root.is_none() {'),
    ("verify/against.rs", 'keys.open_kept(note).map_err(|error| log_finding(What::Against, format!("the older checkpoint: {error}")))', 'keys.open_kept(note).or(Ok(Checkpoint { origin: String::new(), size: 0, root: crate::tree::empty_root() }))'),
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
    ("note.rs", 'if self.origin != key.origin {', 'if false {'),
    ("note.rs", 'if number.to_string() != size {', 'if false {'),
    ("note.rs", '.verify(note.text.as_bytes(), &line.bytes)\n                .map_err(|_| NoteError::Signature)?;\n            classic', '.verify(note.text.as_bytes(), &line.bytes)\n                .or(Ok::<(), NoteError>(()))?;\n            classic'),
    ("note.rs", '.verify(&message, signature)\n                    .map_err(|_| NoteError::Signature)?;', '.verify(&message, signature)\n                    .or(Ok::<(), NoteError>(()))?;'),
    ("note.rs", 'if !classic || (all', 'if (all'),
    ("note.rs", ' || (all && key.ml_dsa.is_some() && !quantum)', ''),
    ("note.rs", 'note.signatures.len() > 1)', 'false)'),
    ("note.rs", 'note.signatures.len() > 1)', 'true)'),
    ("note.rs", 'if found.len() == SIGNATURES_MAX {', 'if false {'),
    ("note.rs", 'ML_DSA | ED25519 => return Err(KeyError),', 'ML_DSA | ED25519 => {}'),
    ("note.rs", '.filter(|key| key.name == keys.origin).ok_or', '.ok_or'),
    ("note.rs", '            && (known.ml_dsa.is_none() || known.ml_dsa == self.ml_dsa)', ''),
    ("note.rs", 'lines.strip_suffix(\'\\n\').ok_or(NoteError::Form("the last line has no end"))?', 'lines.trim_end_matches(\'\\n\')'),
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
    # key_chain.rs: what follows from what
    ("key_chain.rs", 'if self.last.as_deref() == Some(note) {', 'if false {'),
    ("key_chain.rs", 'if self.statements >= STATEMENTS_MAX {', 'if false {'),
    ("key_chain.rs", 'if self.statements >= STATEMENTS_MAX {', 'if self.statements > STATEMENTS_MAX {'),
    ("key_chain.rs", 'if self.statements >= STATEMENTS_MAX {', 'if self.statements + 1 >= STATEMENTS_MAX {'),
    ("key_chain.rs", 'if statement.origin() != self.first.origin() {', 'if false {'),
    ("key_chain.rs", 'if generation != self.generation() + 1 || old', 'if old'),
    ("key_chain.rs", ' || old != *self.present() {', ' {'),
    ("key_chain.rs", 'if self.keys().any(|(_, key)| key.ed25519_only() == new.ed25519_only()) {', 'if false {'),
    ("key_chain.rs", 'key.ed25519_only() == new.ed25519_only()', '*key == new'),
    ("key_chain.rs", 'if size < before.0 || leaf', 'if leaf'),
    ("key_chain.rs", ' || leaf < before.1', ''),
    ("key_chain.rs", ' || leaf.is_some_and(|leaf| leaf < size) {', ' {'),
    ("key_chain.rs", 'leaf.is_some_and(|leaf| leaf < size)', 'leaf.is_some_and(|leaf| leaf <= size)'),
    ("key_chain.rs", 'by("the old key", &old)?;', ''),
    ("key_chain.rs", 'by("the new key", &new)?;', ''),
    ("key_chain.rs", 'if generation >= self.generation() || self', 'if self'),
    ("key_chain.rs", ' || self.key(generation) != Some(&key) {', ' {'),
    ("key_chain.rs", '.is_some_and(|most| size > most) {', '.is_some_and(|_| false) {'),
    ("key_chain.rs", '.is_some_and(|most| size > most) {', '.is_some_and(|most| size >= most) {'),
    ("key_chain.rs", 'by("the present key", self.present())?;', ''),
    ("key_chain.rs", 'self.revoked.insert(generation, size);', 'drop((generation, size));'),
    ("key_chain.rs", 'self.revoked.get(&generation).copied().unwrap_or(next.alone)', 'next.alone'),
    ("key_chain.rs", 'Some(most) if checkpoint.size > most => {', 'Some(most) if checkpoint.size > most + 1 => {'),
    ("key_chain.rs", 'Some(most) if checkpoint.size > most => {', 'Some(most) if checkpoint.size >= most => {'),
    ("key_chain.rs", '                Err(error) => return Err(error),', '                Err(error) => drop(wrong.get_or_insert(error)),'),
    ("key_chain.rs", 'Statement::Rotation { generation: 1, old, .. } =>', 'Statement::Rotation { old, .. } =>'),
    ("key_chain.rs", '(statement.text() == text && statement.origin() == origin).then_some(statement)', '(statement.origin() == origin).then_some(statement)'),
    ("key_chain.rs", '(statement.text() == text && statement.origin() == origin).then_some(statement)', '(statement.text() == text).then_some(statement)'),
    ("key_chain.rs", '(old.origin() == origin).then_some', 'true.then_some'),
    ("key_chain.rs", 'Some(ROTATED | REVOKED)', 'Some(ROTATED)'),
    ("key_chain.rs", '.filter(|(log, _)| log == origin)', '.filter(|_| !origin.is_empty())'),
    ("key_chain.rs", 'text("statement").unwrap_or_default().to_owned();', 'text("statement").unwrap_or("x").to_owned();'),
    ("key_chain.rs", '(text("log")?.to_owned(), statement())', '(text("log")?.to_owned(), text("statement").map(|_| statement())?)'),
    # note/statement.rs: every kind of a key
    ("note/statement.rs", '(false, self.ml_dsa.is_none());', '(true, self.ml_dsa.is_none());'),
    ("note/statement.rs", '(false, self.ml_dsa.is_none());', '(false, true);'),
    ("note/statement.rs", '.verify(note.text.as_bytes(), &line.bytes)\n                .map_err(|_| NoteError::Signature)?;', '.verify(note.text.as_bytes(), &line.bytes)\n                .or(Ok::<(), NoteError>(()))?;'),
    ("note/statement.rs", '.verify(&message(note.text), &line.bytes)\n                    .map_err(|_| NoteError::Signature)?;', '.verify(&message(note.text), &line.bytes)\n                    .or(Ok::<(), NoteError>(()))?;'),
    ("note/statement.rs", 'if classic && quantum {', 'if classic || quantum {'),
    # verify/chain.rs: the statements of a pack
    ("verify/chain.rs", 'if chain.present() != own {', 'if false && chain.present() != own {'),
    ("verify/chain.rs", '.nth(2 * STATEMENTS_MAX)', '.nth(3 * STATEMENTS_MAX)'),
    ("verify/chain.rs", '.nth(2 * STATEMENTS_MAX)', '.nth(2 * STATEMENTS_MAX - 1)'),
    ("verify/chain.rs", 'in_own_log.then_some(*leaf)', 'Some(*leaf).filter(|_| in_own_log || true)'),
    ("verify/chain.rs", 'in_own_log.then_some(*leaf)', 'Some(*leaf).filter(|_| in_own_log && false)'),
    ("verify/chain.rs", 'if generation < self.chain.generation() => (present', 'if generation == 0 => (present'),
    ("verify/chain.rs", 'if generation < self.chain.generation() => (present', 'if generation <= self.chain.generation() => (present'),
    ("verify/chain.rs", 'if self.entries.is_empty() {', 'if true {'),
    ("verify/chain.rs", 'if self.entries.is_empty() {', 'if false {'),
    ("verify/chain.rs", 'if entry.leaf == *leaf && entry', 'if entry'),
    ("verify/chain.rs", ' && entry.statement == statement =>', ' =>'),
    ("verify/chain.rs", '_ if last.as_ref() == Some(&statement) => {}', '_ if last.as_ref() == Some(&statement) && false => {}'),
    ("verify/chain.rs", 'Some(entry) if entry.leaf < *leaf => {', 'Some(entry) if entry.leaf < *leaf && false => {'),
    ("verify/chain.rs", 'match entries.next() {\n            Some', 'match entries.next().filter(|_| false) {\n            Some'),
    ("verify/join.rs", 'KEY_LEAVES_MAX: usize = 4 *', 'KEY_LEAVES_MAX: usize = 5 *'),
    # verify/anchor.rs and plane.rs: where a checkpoint is in the plane log
    ("verify/anchor.rs", 'let _led_to_it = keys_of_plane(&plane, &key)?;', 'let _led_to_it = keys_of_plane(&plane, &key);'),
    ("verify/anchor.rs", 'if plane.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {', 'if !plane.is_dir() || io::ErrorKind::NotFound == io::ErrorKind::Other {'),
    ("plane.rs", 'if leaf.checkpoint != checkpoint_digest(note) || leaf', 'if leaf'),
    ("plane.rs", ' || leaf.size != said.size', ''),
    ("plane.rs", ' || leaf.root != said.root', ''),
    ("plane.rs", 'if opens.commitment() != leaf.log || origin_in', 'if origin_in'),
    ("plane.rs", ' || origin_in(&self.disclosure).as_deref() != Some(origin) {', ' {'),
    ("plane.rs", 'let plane = Checkpoint::open(&self.note, key)?;', 'let plane = Checkpoint::from_text(crate::note::Note::parse(&self.note)?.text).or(Checkpoint::open(&self.note, key))?;'),
    ("plane.rs", 'if !is_in || leaf.seq', 'if leaf.seq'),
    ("plane.rs", ' || leaf.seq != self.index {', ' {'),
    ("plane.rs", 'form.v == VERSION && leaf', 'leaf'),
    ("plane.rs", ' && leaf.to_bytes() == bytes', ''),
    ("plane.rs", 'if index.to_string() != number {', 'if false {'),
    ("plane.rs", 'if proof.len() > 64 {', 'if false {'),
    ("plane.rs", 'if lines.next() != Some(PROOF_HEADER) {', 'if lines.next().is_none() {'),
    ("plane.rs", '(field == FIELD).then_some(origin)', '(field != "").then_some(origin)'),
    ("plane.rs", '        hash_of(&form.log.commitment)?;\n', ''),
    # verify/stamp.rs: what is stamped
    ("verify/stamp.rs", 'if leaf.size == 0 || leaf', 'if leaf'),
    ("verify/stamp.rs", ' || leaf.size > now.size {', ' {'),
    ("verify/stamp.rs", 'leaf.size > now.size {', 'leaf.size >= now.size {'),
    ("verify/stamp.rs", 'if note != anchor.note.as_bytes() {', 'if false && note != anchor.note.as_bytes() {'),
    ("verify/stamp.rs", 'if stamped.imprint != imprint(&note) {', 'if false && stamped.imprint != imprint(&note) {'),
    ("verify/stamp.rs", 'if root == self.root {', 'if root == self.root || true {'),
    ("verify/stamp.rs", '            bytes.truncate(tile.width * 32);\n', '            bytes.truncate(TILE_WIDTH * 32);\n'),
    ("verify/stamp.rs", 'if dir.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {', 'if !dir.is_dir() || io::ErrorKind::NotFound == io::ErrorKind::Other {'),
    # timestamp.rs: the answer of an authority
    ("timestamp.rs", 'if answer.len() > TIMESTAMP_BYTES_MAX {', 'if false {'),
    ("timestamp.rs", 'if stamped.nonce.as_ref() != Some(&self.nonce()) {', 'if false {'),
    ("timestamp.rs", 'if stamped.imprint != self.imprint {', 'if false {'),
    ("timestamp.rs", '        outer.end().map_err(&whole)?;\n', ''),
    ("timestamp.rs", '    status.end().map_err(&bad)?;\n', ''),
    ("timestamp.rs", 'if number < 2 {', 'if number < 3 {'),
    ("timestamp.rs", 'if number < 2 {', 'if number < 1 {'),
    ("timestamp.rs", '    response.end()?;\n', ''),
    ("timestamp.rs", '    content.end()?;\n', ''),
    ("timestamp.rs", 'let mut signed = explicit.within(der::SEQUENCE)?;\n    explicit.end()?;', 'let mut signed = explicit.within(der::SEQUENCE)?;'),
    ("timestamp.rs", '    signed.end()?;\n', ''),
    ("timestamp.rs", '    inner.end()?;\n', ''),
    ("timestamp.rs", 'let info = explicit.within(der::OCTET_STRING)?;\n    explicit.end()?;', 'let info = explicit.within(der::OCTET_STRING)?;'),
    ("timestamp.rs", '    info.end()?;\n', ''),
    ("timestamp.rs", '    algorithm.end()?;\n', ''),
    ("timestamp.rs", '    over.end()?;\n', ''),
    ("timestamp.rs", '    fields.end()?;\n', ''),
    ("timestamp.rs", '    accuracy.end()?;\n', ''),
    ("timestamp.rs", 'if content.of(der::OID)? != SIGNED_DATA {', 'if content.of(der::OID)?.is_empty() {'),
    ("timestamp.rs", 'if inner.of(der::OID)? != TST_INFO {', 'if inner.of(der::OID)?.is_empty() {'),
    ("timestamp.rs", 'signed.within(der::SET)?.of(der::SEQUENCE)?;', 'signed.within(der::SET)?;'),
    ("timestamp.rs", '    signed.integer()?;\n', '    signed.any()?;\n'),
    ("timestamp.rs", 'if fields.integer()? != [1] {', 'if fields.integer()?.is_empty() {'),
    ("timestamp.rs", 'if !is_sha256 || !parameters', 'if !parameters'),
    ("timestamp.rs", ' || !parameters.is_empty()', ''),
    ("timestamp.rs", ' || serial.len() > SERIAL_BYTES_MAX', ''),
    ("timestamp.rs", 'serial.len() > SERIAL_BYTES_MAX', 'serial.len() >= SERIAL_BYTES_MAX'),
    ("timestamp.rs", '!matches!(ordering, [0 | 0xff])', '!matches!(ordering, [_])'),
    ("timestamp.rs", '.is_some_and(|nonce| nonce.len() > 64)', '.is_some_and(|nonce| nonce.len() > 65)'),
    ("timestamp.rs", '.maybe(der::INTEGER)?.map(der::integer).transpose()?', '.maybe(der::INTEGER)?'),
    ("timestamp.rs", 'content.len() <= 4 && ', ''),
    ("timestamp.rs", ' && content.first().is_some_and(|first| first & 0x80 == 0)', ''),
    ("timestamp.rs", 'if is_small && number <= max {', 'if is_small {'),
    ("timestamp.rs", 'fraction.is_empty() || ', ''),
    ("timestamp.rs", 'fraction.len() > 9 || ', ''),
    ("timestamp.rs", ' || fraction.ends_with(\'0\')', ''),
    ("timestamp.rs", 'if fraction.bytes().all(|byte| byte.is_ascii_digit()) =>', 'if fraction.is_ascii() =>'),
    ("timestamp.rs", 'if seconds.len() != 14 {', 'if seconds.len() < 14 {'),
    # der.rs: one writing of each element
    ("der.rs", 'if tag & 0x1f == 0x1f {', 'if false && tag & 0x1f == 0x1f {'),
    ("der.rs", '(1..=3).contains(&count)', '(1..=4).contains(&count)'),
    ("der.rs", '(1..=3).contains(&count)', '(0..=3).contains(&count)'),
    ("der.rs", 'if length < 0x80 || bytes', 'if bytes'),
    ("der.rs", ' || bytes.first() == Some(&0) {', ' {'),
    ("der.rs", '[] | [0, 0..=0x7f, ..]', '[0, 0..=0x7f, ..]'),
    ("der.rs", '[0, 0..=0x7f, ..] | [0xff', '[0xff'),
    ("der.rs", ' | [0xff, 0x80..=0xff, ..] =>', ' =>'),
    ("der.rs", 'if content.len() > 64 || content', 'if content'),
    ("der.rs", ' || content.last().is_none_or(|last| last & 0x80 != 0) {', ' || content.is_empty() {'),
    ("der.rs", 'if begins && *byte == 0x80 || arc', 'if arc'),
    ("der.rs", ' || arc >> 57 != 0 {', ' {'),
    # archive: names, manifests, segments, and what they lead to
    ("archive.rs", '(found.to_string() == name).then_some(found)', 'Some(found)'),
    ("archive.rs", 'if !path.metadata()?.is_file() {', 'if path.metadata()?.is_dir() {'),
    ("archive/keys.rs", '(None, Some(first)) => KeyChain::starting_at(first).map_err(keys)?,', '(None, Some(_)) => KeyChain::new(told.named_keys()?),'),
    ("archive/keys.rs", 'chain.push(None, statement).map_err(keys)?;', 'drop(chain.push(None, statement).map_err(keys));'),
    ("archive/keys.rs", 'Manifest::open(bytes, chain.present())?', 'Manifest::open(bytes, &told.named_keys()?)?'),
    ("archive/manifest.rs", 'if manifest.plane != key.origin() || signed', 'if signed'),
    ("archive/manifest.rs", ' || signed != Self::text(&manifest.plane, manifest.number, line) {', ' {'),
    ("archive/manifest.rs", 'if manifest.form != FORM {', 'if manifest.form == 0 {'),
    ("archive/manifest.rs", '.filter(|json| !json.contains(\'\\n\'))', ''),
    ("archive/segment.rs", 'if header != expected {', 'if header[..8] != expected[..8] {'),
    ("archive/segment.rs", 'if length > FRAME_BYTES_MAX || (HEADER_BYTES + length) as u64 > left {', 'if length > FRAME_BYTES_MAX {'),
    ("archive/segment.rs", 'if crc != u32::from_le_bytes([c0, c1, c2, c3]) || kind', 'if kind'),
    ("archive/segment.rs", ' || kind == 0 {', ' {'),
    ("archive/segment.rs", 'if buffer.get(..part).unwrap_or_default().iter().any(|byte| *byte != 0) {', 'if false {'),
    ("archive/segment.rs", 'if read != self.bytes {', 'if false {'),
    ("archive/walk.rs", 'if tenant.is_empty() || tenant', 'if tenant'),
    ("archive/walk.rs", ' || tenant.contains(\'/\') {', ' {'),
    ("archive/walk.rs", 'Parsed::from_canonical(bytes)', 'Parsed::from_bytes(bytes).map_err(|_| "no leaf")'),
    ("archive/walk.rs", 'if leaf.body.v != LEAF_VERSION {', 'if false {'),
    ("archive/walk.rs", 'if leaf.body.tenant != tenant {', 'if false {'),
    ("archive/walk.rs", 'if leaf.chain.seq != number {', 'if false {'),
    ("archive/walk.rs", 'if !is_hash_text(leaf.chain.prev, log.last.as_ref()) {', 'if false {'),
    ("archive/walk.rs", 'if leaf.chain.time.parse::<Timestamp>().is_err() {', 'if false {'),
    ("archive/walk.rs", 'if leaf.chain.time < log.time.as_str() {', 'if false {'),
    ("archive/walk.rs", 'PlaneLeaf::from_bytes(bytes).filter(|_| name.is_empty())', 'PlaneLeaf::from_bytes(bytes).filter(|_| name.len() < 256)'),
    ("archive/walk.rs", 'if leaf.seq != number {', 'if false {'),
    ("archive/walk.rs", 'if leaf.time < log.time {', 'if false {'),
    ("archive/walk.rs", 'self.found = Some(sought.root == tree.root());', 'self.found = Some(true);'),
    ("archive/walk.rs", 'if named.len() != parts.len() {', 'if false {'),
    ("archive/walk.rs", 'if (part.first, part.end) != (found.first, found.end) {', 'if part.end != found.end {'),
    ("archive/walk.rs", 'if (part.first, part.end) != (found.first, found.end) {', 'if part.first != found.first {'),
    ("archive/walk.rs", 'if part.root.0 != found.root || part', 'if part'),
    ("archive/walk.rs", ' || part.last.0 != found.last', ''),
    ("archive/walk.rs", ' || part.edge != edge {', ' {'),
    ("archive/walk.rs", 'match named.keys().find(|log| !reached.contains_key(**log)) {', 'match named.keys().find(|_| false) {'),
    ("archive/walk.rs", 'self.logs.values_mut().for_each(|log| log.first = None);', ''),
    ("archive/verify.rs", 'if manifests.insert(number, name).is_some() {', 'if manifests.insert(number, name).is_some() && false {'),
    ("archive/verify.rs", 'if *number != expected {', 'if false {'),
    ("archive/verify.rs", '        if manifests.is_empty() {', '        if false {'),
    ("archive/verify.rs", 'if sha256(&bytes) != name.digest() {', 'if false {'),
    ("archive/verify.rs", 'if !matches!(name, Name::Manifest { number, .. } if *number == manifest.number) {', 'if false {'),
    ("archive/verify.rs", 'if manifest.previous.map(|hash| hash.0) != previous {', 'if false {'),
    ("archive/verify.rs", 'if manifest.segment.index != manifest.number {', 'if false {'),
    ("archive/verify.rs", 'if reader.finish().map_err(broken)? != sealed.sha256.0 {', 'if { reader.finish().map_err(broken)?; false } {'),
    ("archive/verify.rs", 'if (first.unwrap_or(to), to) != (sealed.from, sealed.to) {', 'if to != sealed.to {'),
    ("archive/verify.rs", 'if (first.unwrap_or(to), to) != (sealed.from, sealed.to) {', 'if first.unwrap_or(to) != sealed.from {'),
    ("archive/verify.rs", 'walk.compare(&manifest.logs).map_err(|problem| Finding::of(&name, problem))', 'drop(walk.compare(&manifest.logs)); Ok(())'),
    ("archive/verify.rs", 'if named.origin() != part.log || (part', 'if (part'),
    ("archive/verify.rs", ' || (part.log == plane.origin() && !named.includes(plane)) {', ' {'),
    ("archive/verify.rs", 'let key = if part.log == plane.origin() { plane } else { &named };', 'let key = &named;'),
    ("archive/verify.rs", 'let grown = checkpoint.size >= part.end', 'let grown = true'),
    ("archive/verify.rs", '        && size == part.end\n', ''),
    ("archive/verify.rs", '        && verify_consistency(', '        && true || verify_consistency('),
    ("archive/verify.rs", 'if !matches!(self.0, Some(Ok(()))) && ', 'if '),
    ("archive/verify.rs", 'Kept::Checkpoint(kept) if kept.origin == key.origin()', 'Kept::Checkpoint(_)'),
    ("archive/verify.rs", 'signed.check(&kept, options.against, chain)?;', 'drop(signed.check(&kept, options.against, chain));'),
    ("archive/verify.rs", 'plane.open_kept(note).map(drop)', 'Checkpoint::open_older(note, plane.present()).map(drop)'),
    ("archive/verify.rs", '.is_some_and(|rest| rest.is_empty() || rest.starts_with(\'/\'))', '.is_some()'),
    ("archive/verify.rs", 'Kept::Manifest(_) if met => Ok(()),', 'Kept::Manifest(_) if met || true => Ok(()),'),
    ("archive/verify.rs", 'Some(true) => Ok(()),', 'Some(_) => Ok(()),'),
    ("archive/verify.rs", 'let generation = chain.generation_of(key).ok_or_else(', 'let generation = chain.generation_of(key).or(Some(0)).ok_or_else('),
]

# Mutants that change no verdict, and why.
EQUAL = {
    ("if length.is_none() || end > entries.len() {", "if length.is_none() {"): "a hash over nothing is not the tile's either",
    ("if length.is_none() || end > entries.len() {", "if end > entries.len() + 2 {"): "a hash over nothing is not the tile's either",
    ("if statement.origin() != self.first.origin() {", "if false {"): "the keys of another log are none of this one's either",
    ("Statement::Rotation { generation: 1, old, .. } =>", "Statement::Rotation { old, .. } =>"): "the statement is looked at once more as the first of the chain",
    ("(statement.text() == text && statement.origin() == origin).then_some(statement)", "(statement.text() == text).then_some(statement)"): "the text has the log's name in it",
    ("(old.origin() == origin).then_some", "true.then_some"): "a key of another log is never the present one",
    ("if length > FRAME_BYTES_MAX || (HEADER_BYTES + length) as u64 > left {", "if length > FRAME_BYTES_MAX {"): "the object ends before the frame does, and that is the same damage",
    ("let grown = checkpoint.size >= part.end", "let grown = true"): "no proof leads from more leaves to fewer",
    ("        && size == part.end\n", ""): "where the leaves end was compared before",
    ("        if manifests.is_empty() {", "        if false {"): "that nothing was read is said at the end as well",
    ("form.v == VERSION && leaf", "leaf"): "what is written anew has the version in it",
    ("if proof.len() > 64 {", "if false {"): "a way of more steps than the tree is high leads nowhere",
    ("        hash_of(&form.log.commitment)?;\n", ""): "no disclosure has such a digest",
    ("if tag & 0x1f == 0x1f {", "if false && tag & 0x1f == 0x1f {"): "no such tag is looked for, and what is not looked for is refused",
    ("(1..=3).contains(&count)", "(1..=4).contains(&count)"): "no answer of 64 KiB has such a length in its shortest form",
    ("(1..=3).contains(&count)", "(0..=3).contains(&count)"): "a length of no bytes is 0, and that has a shorter form",
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
            shutil.copyfile(tree / file, copy / file)  # as new: what an interrupted run built from a mutant is not taken for it
    cargo = ["cargo", "test", "--locked", "--quiet", "-p", "cogward-ledger"]
    corpus, archives = [*cargo, "--test", "corpus", "--", "our_own_verdict"], [*cargo, "--test", "archives", "--", "our_own_verdict", "a_pipe_in"]
    # The logs that a file is about; it is not looked at by the others.
    about = {"key_chain.rs": ["rotated", "anchored"], "note/statement.rs": ["rotated"], "verify/chain.rs": ["rotated", "anchored"],
             "verify/anchor.rs": ["anchored"], "plane.rs": ["anchored", "stamped"], "verify/stamp.rs": ["stamped"],
             "timestamp.rs": ["stamped"], "der.rs": ["stamped"]}
    # What only the plane asks of an answer, and nobody who reads a pack, is in the tests beside it.
    beside = [*cargo, "--lib", "--", "timestamp::"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target / "build"), "RUST_BACKTRACE": "0", "CARGO_PROFILE_DEV_DEBUG": "0"}

    def commands_for(file):
        if file.startswith("archive"):
            return [archives]
        logs = [f"our_own_verdict_of_{word}" for word in about.get(file, [])]
        return [[*corpus[:-1], *logs] if logs else corpus] + ([beside] if file == "timestamp.rs" else [])

    def run(commands):
        output = ""
        for command in commands:
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1800)
            output += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, output
        return 0, output

    chosen = list(enumerate(MUTANTS))
    if arguments:  # in the order in which they are asked for
        chosen = list(dict.fromkeys(one for part in arguments for one in chosen if part in name(*one)))
    needed = [command for _, (file, _, _) in chosen for command in commands_for(file)]
    code, output = run([list(command) for command in dict.fromkeys(map(tuple, needed))])
    if code != 0:
        print(f"the verifier as it is fails:\n{output[-3000:]}")
        return 2
    alive = 0
    for n, (file, old, new) in chosen:
        path = copy / LEDGER / file
        whole = path.read_text()
        if whole.count(old) != 1:
            print(f"ABSENT    {name(n, (file, old, new))} (stands there {whole.count(old)} times)", flush=True)
            alive += 1
            continue
        path.write_text(whole.replace(old, new))
        code, output = run(commands_for(file))
        path.write_text(whole)
        if "error: could not compile" in output or "error[E" in output:
            verdict = "NO BUILD"
        elif code == 0:
            verdict = "equal" if (old, new) in EQUAL else "LIVES"
        else:
            verdict = "killed"
        alive += verdict not in ("killed", "equal")
        failed = [line.split(" ")[1].rsplit(":", 1)[-1] for line in output.split("\n") if line.startswith("test ") and line.endswith("FAILED")]
        named = [line.strip().rsplit(": ", 1)[-1] for line in output.split("\n") if "assertion `left == right` failed: " in line]
        witness = (named or failed or ["a panic"])[0]
        print(f"{verdict:<9} {name(n, (file, old, new))}" + (f"   [{witness}]" if verdict == "killed" else f"   [{EQUAL.get((old, new))}]" if verdict == "equal" else ""), flush=True)
    print(f"{len(MUTANTS)} mutants, {alive} alive" if not arguments else f"{alive} alive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
