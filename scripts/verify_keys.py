"""Keys of a log that were replaced: the statements in keys.jsonl, which lead from each to the next.

A part of verify.py, which asks for it when a pack has that file. A statement is a signed note: a rotation is signed
by every kind of the old and of the new key, a revocation by those of the present one. The leaves of the log have to say
the same. Whoever knows a key that was stolen since can be led elsewhere by the thief: the report says which one was given.
"""
import json, re

from verify import (
    Ed25519PublicKey, Finding, InvalidSignature, MLDSA44PublicKey, key_id, open_checkpoint, parse_key, parse_note, read, refuse,
    text_of, unique,
)

def strict(text):
    """JSON of a form of ours: no key twice, whole numbers of 64 bits, texts of whole characters."""
    whole = lambda digits: int(digits) if len(digits) < 21 and digits[0] != "-" and int(digits) < 1 << 64 else refuse(digits)
    value = json.loads(text, object_pairs_hook=unique, parse_int=whole, parse_float=refuse, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()
    return value


ROTATION = re.compile(
    r"cogward\.dev/key-rotation@v1\nlog ([^\n]*)\ngeneration (0|[1-9][0-9]{0,19})\n((?:old [^\n]*\n)+)((?:new [^\n]*\n)+)"
    r"size (0|[1-9][0-9]{0,19})\ntime [^\n]*\n")
REVOCATION = re.compile(
    r"cogward\.dev/key-revocation@v1\nlog ([^\n]*)\ngeneration (0|[1-9][0-9]{0,19})\n((?:key [^\n]*\n)+)"
    r"size (0|[1-9][0-9]{0,19})\nwhy (?:compromised|lost|superseded)\ntime [^\n]*\n")
STATEMENTS = 1024


def keys_of_statement(lines, origin):
    """The keys in lines that all begin with one word: written as log.vkey has them, and no other kinds."""
    lines = [line[4:] for line in lines.split("\n")[:-1]]
    name, keys = parse_key("\n".join(lines))
    if name != origin or len(lines) != len(keys):
        raise Finding("key", "not the keys of one log")
    return keys


def signed_statement(signatures, origin, keys, text):
    """Whether every kind of a key has signed a statement (ML-DSA over a message of its own)."""
    holds = set()
    for name, short, data in signatures:
        for kind, key in keys.items():
            if name == origin and short == key_id(origin, key):
                try:
                    if kind == 1:
                        Ed25519PublicKey.from_public_bytes(key[1:]).verify(data, text.encode())
                    elif MLDSA44PublicKey is not None:
                        message = b"cogward.dev/key-statement@v1\n\0" + text.encode()
                        MLDSA44PublicKey.from_public_bytes(key[1:]).verify(data, message)
                except (InvalidSignature, ValueError):
                    raise Finding("key", "a signature does not belong to this statement and this key")
                holds.add(kind)
    if holds != set(keys):
        raise Finding("key", f"the statement has no signature of a key of {origin}")


class Chain:
    """The keys that a log had one after the other: `alone[n]` is the largest size that key n may speak for alone."""

    def __init__(self, origin, first):
        self.origin, self.keys, self.alone, self.revoked = origin, [first], [], set()
        self.entries, self.count, self.last, self.least = [], 0, None, (0, -1)

    def push(self, leaf, note):
        if note == self.last:
            return
        text, signatures = parse_note(note, "key")
        if self.count >= STATEMENTS:
            raise Finding("key", "there are too many statements")
        rotation, revocation = ROTATION.fullmatch(text), REVOCATION.fullmatch(text)
        match = rotation or revocation
        if not match or match[1] != self.origin:
            raise Finding("key", "not a statement about the keys of this log")
        number, size = int(match[2]), int(match[5] if rotation else match[4])
        if size >= 1 << 64 or number >= 1 << 64:
            raise Finding("key", "a number is too large")
        if rotation:
            old, new = keys_of_statement(match[3], self.origin), keys_of_statement(match[4], self.origin)
            if number != len(self.keys) or old != self.keys[-1] or any(key[1] == new[1] for key in self.keys):
                raise Finding("key", "it does not replace the present key by a new one")
            if size < self.least[0] or leaf < self.least[1] or size > leaf >= 0:
                raise Finding("key", "its size or its place is not possible")
            signed_statement(signatures, self.origin, old, text)
            signed_statement(signatures, self.origin, new, text)
            self.keys.append(new)
            self.alone.append(size)
            self.least = (size, leaf)
        else:
            key = keys_of_statement(match[3], self.origin)
            if number >= len(self.alone) or key != self.keys[number] or size > self.alone[number]:
                raise Finding("key", "it revokes a key that is not a past one, or makes it count for more")
            signed_statement(signatures, self.origin, self.keys[-1], text)
            self.alone[number] = size
            self.revoked.add(number)
        self.count, self.last = self.count + 1, note

    def number_of(self, origin, keys):
        """Which of the log's keys these are, the present one first."""
        for number in reversed(range(len(self.keys))):
            if origin == self.origin and all(self.keys[number].get(kind) == key for kind, key in keys.items()):
                return number
        return None

    def open_kept(self, note):
        """An older checkpoint: signed by the present key, or by a past one when it is from its time."""
        unsigned = None
        for number in reversed(range(len(self.keys))):
            try:
                size, root = open_checkpoint(note, self.origin, self.keys[number], older=True)
            except Finding as finding:
                if not finding.detail.startswith("the checkpoint has no signature of the key of"):
                    raise
                unsigned = unsigned or finding
                continue
            if number < len(self.alone) and size > self.alone[number]:
                raise Finding("signature", f"it has only the signature of a past key, which counts up to {self.alone[number]}")
            return size, root
        raise unsigned

    def compare(self, leaves):
        """Whether the leaves say just what keys.jsonl says."""
        entries, last = list(self.entries), None
        for seq, body in leaves:
            if body.get("log") != self.origin:
                continue
            statement = body.get("statement") if isinstance(body.get("statement"), str) else ""
            if entries and entries[0] == (seq, statement):
                entries.pop(0)
            elif statement == last:  # a crash says a statement twice; it need not be told twice
                pass
            elif entries and entries[0][0] < seq:
                break
            else:
                raise Finding("key", "the key was replaced or revoked here, and the pack is not signed accordingly", seq)
            last = statement
        if entries:
            raise Finding("key", "it does not say what the pack says of its key", entries[0][0])


def chain_from(statement):
    """The chain that begins with the key which a first statement replaces."""
    first = ROTATION.fullmatch(statement[:statement.rfind("\n\n") + 1])
    if not first or first[2] != "1":
        raise Finding("key", "it does not begin with the rotation of the first key")
    return Chain(first[1], keys_of_statement(first[3], first[1]))


def chain_of(root, origin, own, in_own_log=True):
    """The keys of a log as its pack tells them: they have to lead to the one in log.vkey."""
    text = text_of(read(root, "keys.jsonl", 1 << 24), "key", "keys.jsonl")
    lines = text.split("\n")
    if lines.pop() != "" or not lines or len(lines) > 2 * STATEMENTS:
        raise Finding("key", "keys.jsonl has no whole line, or too many")

    entries = []
    for line in lines:
        try:
            value = strict(line)
            if type(value) is not dict or set(value) != {"leaf", "statement"} or type(value["leaf"]) is not int:
                refuse("another form")
            value["statement"].encode()
        except (ValueError, AttributeError, RecursionError) as error:
            raise Finding("key", f"keys.jsonl: {error}")
        entries.append((value["leaf"], value["statement"]))
    chain = chain_from(entries[0][1])
    for leaf, statement in entries:
        chain.push(leaf if in_own_log else -1, statement)
    if chain.origin != origin or chain.keys[-1] != own:
        raise Finding("key", "keys.jsonl does not lead to the key in the pack")
    chain.entries = entries
    return chain
