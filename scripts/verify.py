#!/usr/bin/env python3
"""Verifies an exported cogward ledger: verify.py DIR [--key VKEY|FILE] [--against FILE] [--json]

Needs Python 3.9 and the package `cryptography`; no cogward, no network. Written apart from
cogward-verify, from the same rules: the two must always agree. Exit code: 0 it holds, 9 it does
not (the first thing that is wrong is named), 2 the command is wrong.
"""
import base64, datetime, hashlib, json, os, re, sys

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    sys.exit("verify.py needs the Python package `cryptography`")
try:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
except ImportError:
    MLDSA44PublicKey = None  # older than version 48: said in the report, the Ed25519 signatures are checked

WIDTH = 256


class Finding(Exception):
    def __init__(self, what, detail, leaf=None):
        self.what, self.detail, self.leaf = what, detail, leaf


def sha(data):
    return hashlib.sha256(data).digest()


def b64(text, what, detail):
    """Strict base64: the one text that its bytes have."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise Finding(what, detail)
    return data


def url64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def read(root, name, limit):
    try:
        path = os.path.join(root, name)
        os.stat(path)
        # Whoever made the pack may want its verifier to wait for ever at a pipe.
        if not os.path.isfile(path):
            raise Finding("missing", f"{name} is not a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Finding("missing", f"{name}: {error.strerror}")
    if len(data) > limit:
        raise Finding("form", f"{name} is longer than {limit} bytes")
    return data


def text_of(data, what, name):
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Finding(what, f"{name} is not text")


def parse_vkey(text):
    """NAME+HASH+BASE64(kind, key) (C2SP signed-note)."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not re.fullmatch(r"[!-*,-~]{1,255}", parts[0]):
        raise Finding("key", "not a key in the form NAME+HASH+BASE64")
    key = b64(parts[2], "key", "the key is not base64")
    if len(key) < 2 or key_id(parts[0], key).hex() != parts[1]:
        raise Finding("key", "the hash of the key is not its own")
    return parts[0], key


def key_id(name, key):
    return sha(name.encode() + b"\n" + key)[:4]


def parse_key(text):
    """The keys of a log, a line each: Ed25519 first, then ML-DSA-44 if there is one; other kinds are ignored."""
    (origin, first), *further = map(parse_vkey, text.split("\n"))
    if len(text) > 16384 or len(first) != 33 or first[0] != 1:
        raise Finding("key", "the first key is not Ed25519")
    keys = {1: first}
    for name, key in further:
        if name != origin or key[0] in keys or key[0] == 6 and len(key) != 1313:
            raise Finding("key", "a further key of another log, a second one of a kind, or none")
        if key[0] == 6:
            keys[6] = key
    return origin, keys


def signed_by(origin, kind, key, data, text, size, root):
    """Whether `data` is what the key makes of a checkpoint; None when this Python cannot say."""
    try:
        if kind == 1:
            return Ed25519PublicKey.from_public_bytes(key[1:]).verify(data, text) is None
        if len(data) < 8 or data[0] > 127:
            return False
        if MLDSA44PublicKey is None:
            return None
        name = bytes([len(origin)]) + origin.encode()
        message = b"subtree/v1\n\0" + name + data[:8] + name + bytes(8) + size.to_bytes(8, "big") + root
        return MLDSA44PublicKey.from_public_bytes(key[1:]).verify(data[8:], message) is None
    except InvalidSignature:
        return False


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


def signed_statement(note, origin, keys, text):
    """Whether every kind of a key has signed a statement (C2SP signed-note; ML-DSA over a message of its own)."""
    holds = set()
    for line in note[len(text) + 1:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        data = b64(match[2], "key", "a signature is not base64") if match else b""
        if len(data) < 4:
            raise Finding("key", "a line is not a signature")
        for kind, key in keys.items():
            if match[1] == origin and data[:4] == key_id(origin, key):
                try:
                    if kind == 1:
                        Ed25519PublicKey.from_public_bytes(key[1:]).verify(data[4:], text.encode())
                    elif MLDSA44PublicKey is not None:
                        message = b"cogward.dev/key-statement@v1\n\0" + text.encode()
                        MLDSA44PublicKey.from_public_bytes(key[1:]).verify(data[4:], message)
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
        at = note.rfind("\n\n")
        text = note[:at + 1]
        lines = note.count("\n", at + 2)
        if at < 0 or not note.endswith("\n") or lines > 64 or len(note.encode()) > 65536 or self.count >= STATEMENTS:
            raise Finding("key", "not a signed statement, or too many")
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
            signed_statement(note, self.origin, old, text)
            signed_statement(note, self.origin, new, text)
            self.keys.append(new)
            self.alone.append(size)
            self.least = (size, leaf)
        else:
            key = keys_of_statement(match[3], self.origin)
            if number >= len(self.alone) or key != self.keys[number] or size > self.alone[number]:
                raise Finding("key", "it revokes a key that is not a past one, or makes it count for more")
            signed_statement(note, self.origin, self.keys[-1], text)
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


def chain_of(root, origin, own, in_own_log=True):
    """The keys of a log as its pack tells them: they have to lead to the one in log.vkey."""
    if not os.path.lexists(os.path.join(root, "keys.jsonl")):
        return Chain(origin, own)
    text = text_of(read(root, "keys.jsonl", 1 << 24), "key", "keys.jsonl")
    lines = text.split("\n")
    if lines.pop() != "" or not lines or len(lines) > 2 * STATEMENTS:
        raise Finding("key", "keys.jsonl has no whole line, or too many")

    def whole(number):
        return int(number) if len(number) < 21 and number[0] != "-" and int(number) < 1 << 64 else refuse(number)

    entries = []
    for line in lines:
        try:
            value = json.loads(line, object_pairs_hook=unique, parse_int=whole, parse_float=refuse, parse_constant=refuse)
            if type(value) is not dict or set(value) != {"leaf", "statement"} or type(value["leaf"]) is not int:
                refuse("another form")
            value["statement"].encode()
        except (ValueError, AttributeError, RecursionError) as error:
            raise Finding("key", f"keys.jsonl: {error}")
        entries.append((value["leaf"], value["statement"]))
    first = ROTATION.fullmatch(entries[0][1][:entries[0][1].rfind("\n\n") + 1])
    if not first or first[2] != "1":
        raise Finding("key", "keys.jsonl does not begin with the rotation of the first key")
    chain = Chain(first[1], keys_of_statement(first[3], first[1]))
    for leaf, statement in entries:
        chain.push(leaf if in_own_log else -1, statement)
    if chain.origin != origin or chain.keys[-1] != own:
        raise Finding("key", "keys.jsonl does not lead to the key in the pack")
    chain.entries = entries
    return chain


def open_checkpoint(note, origin, keys, older=False):
    """C2SP tlog-checkpoint; every key that is known must have signed, others are ignored."""
    at = note.rfind("\n\n")
    text, signatures = note[:max(at, 0)], note[at + 2:]
    lines = text.split("\n")
    if at < 0 or len(lines) != 3 or not signatures.endswith("\n") or signatures.count("\n") > 64 or len(note.encode()) > 65536:
        raise Finding("signature", "not a signed checkpoint")
    if not re.fullmatch(r"0|[1-9][0-9]{0,19}", lines[1], re.ASCII) or int(lines[1]) >= 1 << 64:
        raise Finding("signature", "the size is not a number")
    root = b64(lines[2], "signature", "the root is not base64")
    if lines[0] != origin or len(root) != 32:
        raise Finding("signature", f"the checkpoint is not of {origin}")
    size, holds = int(lines[1]), set()
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        if not match:
            raise Finding("signature", "a line is not a signature")
        data = b64(match[2], "signature", "a signature is not base64")
        if len(data) < 4:
            raise Finding("signature", "a signature is too short")
        for kind, key in keys.items():
            if match[1] == origin and data[:4] == key_id(origin, key):
                if signed_by(origin, kind, key, data[4:], (text + "\n").encode(), size, root) is False:
                    raise Finding("signature", "the signature does not belong to this checkpoint and this key")
                holds.add(kind)
    # One of before the second key is believed without it, but not one that somebody took it off.
    if holds != set(keys) and not (older and holds == {1} and signatures.count("\n") == 1):
        raise Finding("signature", f"the checkpoint has no signature of the key of {origin}")
    return size, root


def key_file(root, name):
    text = text_of(read(root, name, 16384), "key", name)
    if not text.endswith("\n"):
        raise Finding("key", f"{name} has no whole line")
    return text[:-1], *parse_key(text[:-1])


def included(digest, index, size, path, root):
    """RFC 9162, 2.1.3.2."""
    node, last = index, size - 1
    if not 0 <= index < size:
        return False
    for step in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            digest = sha(b"\x01" + step + digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = sha(b"\x01" + digest + step)
        node, last = node >> 1, last >> 1
    return last == 0 and digest == root


LEAF = re.compile(
    r'\{"checkpoint":"([\w-]{43})","log":\{"\$c":"([\w-]{43})"\},"root":"([\w-]{43})","seq":(0|[1-9]\d*),'
    r'"size":(0|[1-9]\d*),"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","v":1\}', re.ASCII)


def placed(where, origin, plane, keys, expected=None):
    """The leaf of the plane log that a proof shows, the size of the plane log, and the plane's note."""
    data = read(where, "leaf.json", 1024)
    opens = text_of(read(where, "disclosure", 1024), "anchor", "disclosure")
    proof = text_of(read(where, "checkpoint.tlog-proof", 65536 + 8192), "anchor", "checkpoint.tlog-proof")
    head, gap, plane_note = proof.partition("\n\n")
    lines = head.split("\n")
    if not gap or lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 2 or len(lines) > 66:
        raise Finding("anchor", "not a proof")
    index = re.fullmatch(r"index (0|[1-9][0-9]{0,19})", lines[1], re.ASCII)
    path = [b64(line, "anchor", "not a hash") for line in lines[2:]]
    leaf = LEAF.fullmatch(data.decode("latin-1"))
    if not index or not leaf or any(len(step) != 32 for step in path):
        raise Finding("anchor", "not a proof and its leaf")
    if expected is not None and (leaf[1], leaf[3], int(leaf[5])) != expected:
        raise Finding("anchor", "the leaf of the plane log is not one of this checkpoint")
    try:
        disclosed = json.loads(base64.urlsafe_b64decode(opens + "=" * (-len(opens) % 4)))
    except ValueError:
        disclosed = None
    if url64(sha(opens.encode())) != leaf[2] or not isinstance(disclosed, list) or disclosed[1:] != ["log", origin]:
        raise Finding("anchor", "the disclosure does not open the leaf to this log")
    try:
        plane_size, plane_root = open_checkpoint(plane_note, plane, keys)
    except Finding as finding:
        raise Finding("anchor", finding.detail)
    inside = int(index[1]) == int(leaf[4]) and included(sha(b"\x00" + data), int(index[1]), plane_size, path, plane_root)
    if not inside:
        raise Finding("anchor", "the leaf is not in the plane log at its place")
    return leaf, plane_size, plane_note


def check_anchor(root, note, origin, size, log_root):
    """Where the checkpoint is in the plane log, and which leaves are stamped, for a pack that has a directory `plane`."""
    where = os.path.join(root, "plane")
    if not os.path.lexists(where):
        return None, None
    keys_text, plane, keys = key_file(where, "log.vkey")
    chain_of(where, plane, keys, in_own_log=False)
    expected = (url64(sha(note.encode())), url64(log_root), size)
    leaf, plane_size, _ = placed(where, origin, plane, keys, expected)
    stamped = check_stamp(os.path.join(where, "timestamp"), origin, size, plane, keys)
    return {"origin": plane, "size": plane_size, "time": leaf[6], "key": keys_text.split("\n")[0]}, stamped


def check_stamp(where, origin, size, plane, keys):
    """Which leaves of the log a time stamp (RFC 3161) is over. The authority's signature is for `openssl ts -verify`."""
    if not os.path.lexists(where):
        return None
    leaf, plane_size, plane_note = placed(where, origin, plane, keys)
    if not 1 <= int(leaf[5]) <= size:
        raise Finding("anchor", "what is stamped is not a beginning of this log")
    note = read(where, "checkpoint", 65536)
    if note != plane_note.encode():
        raise Finding("timestamp", "the stamped checkpoint is not the one of the proof")
    answer = read(where, "checkpoint.tsr", 65536)
    try:
        imprint, time, policy, serial = stamp_of(answer)
    except ValueError as error:
        raise Finding("timestamp", f"checkpoint.tsr: {error}")
    if imprint != sha(note):
        raise Finding("timestamp", "checkpoint.tsr: it is not over the checkpoint beside it")
    said = {"leaves": int(leaf[5]), "size": plane_size, "time": time, "policy": policy, "serial": serial}
    return said, base64.urlsafe_b64decode(leaf[3] + "=")


class Der:
    """A strict reader of DER: short definite lengths, tags of one byte, forward only."""

    def __init__(self, data):
        self.data = data

    def any(self):
        data, at = self.data, 2
        if len(data) < 2 or data[0] & 31 == 31:
            raise ValueError("not DER")
        length = data[1]
        if length > 127:
            at += length - 128
            length = int.from_bytes(data[2:at], "big")
            if not 3 <= at <= 5 or len(data) < at or length < 128 or data[2] == 0:
                raise ValueError("not DER")
        if len(data) < at + length:
            raise ValueError("not DER")
        self.data = data[at + length:]
        return data[0], data[at:at + length]

    def of(self, wanted):
        tag, content = self.any()
        if tag != wanted:
            raise ValueError("not the form of RFC 3161")
        return content

    def maybe(self, wanted):
        return self.of(wanted) if self.data[:1] == bytes([wanted]) else None

    def within(self, wanted):
        return Der(self.of(wanted))

    def end(self):
        if self.data:
            raise ValueError("there is something behind it")


def whole_number(content):
    if not content or content[0] == 0 and content[1:] and content[1] < 128 or content[0] == 255 and content[1:] and content[1] > 127:
        raise ValueError("not an integer")
    return content


def dotted(content):
    arcs, arc, begins = [], 0, True
    if not content or len(content) > 64 or content[-1] & 128:
        raise ValueError("not an object identifier")
    for byte in content:
        if begins and byte == 128 or arc >> 57:
            raise ValueError("not an object identifier")
        arc, begins = arc << 7 | byte & 127, not byte & 128
        if begins:
            arcs += [arc] if arcs else [min(arc // 40, 2), arc - 40 * min(arc // 40, 2)]
            arc = 0
    return ".".join(map(str, arcs))


def small(content, limit):
    number = 0 if content is None else int.from_bytes(whole_number(content), "big", signed=True)
    if content is not None and len(content) > 4 or not 0 <= number <= limit:
        raise ValueError("not an accuracy")


SHA256, SIGNED_DATA, TST_INFO = map(bytes.fromhex, ("608648016503040201", "2a864886f70d010702", "2a864886f70d0109100104"))


def stamp_of(answer):
    """Imprint, time, policy and number of a granted answer of RFC 3161."""
    outer = Der(answer)
    response = outer.within(0x30)
    outer.end()
    status = response.within(0x30)
    number = whole_number(status.of(2))
    status.maybe(0x30), status.maybe(3)
    status.end()
    if number not in (b"\0", b"\1"):
        raise ValueError("it was refused")
    content = response.within(0x30)
    response.end()
    if content.of(6) != SIGNED_DATA:
        raise ValueError("not a signed message")
    explicit = content.within(0xA0)
    content.end()
    signed = explicit.within(0x30)
    explicit.end()
    whole_number(signed.of(2))
    signed.of(0x31)
    inner = signed.within(0x30)
    signed.maybe(0xA0), signed.maybe(0xA1)
    signed.within(0x31).of(0x30)
    signed.end()
    if inner.of(6) != TST_INFO:
        raise ValueError("not a time stamp")
    explicit = inner.within(0xA0)
    inner.end()
    info = explicit.within(4)
    explicit.end()
    fields = info.within(0x30)
    info.end()
    if whole_number(fields.of(2)) != b"\1":
        raise ValueError("another version")
    policy = dotted(fields.of(6))
    over = fields.within(0x30)
    algorithm = over.within(0x30)
    if algorithm.of(6) != SHA256 or algorithm.maybe(5):
        raise ValueError("another algorithm")
    algorithm.end()
    imprint = over.of(4)
    over.end()
    serial = whole_number(fields.of(2))
    time = re.fullmatch(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{0,8}[1-9]))?Z", fields.of(0x18))
    if len(imprint) != 32 or len(serial) > 21 or not time:
        raise ValueError("not a time stamp")
    part = [(digits or b"").decode() for digits in time.groups()]
    time = "{}-{}-{}T{}:{}:{}.{}Z".format(*part[:6], (part[6] + "000000")[:6])
    if not is_time(time):
        raise ValueError("not a time")
    accuracy = fields.maybe(0x30)
    if accuracy is not None:
        accuracy = Der(accuracy)
        small(accuracy.maybe(2), 0xFFFFFFFF), small(accuracy.maybe(0x80), 999), small(accuracy.maybe(0x81), 999)
        accuracy.end()
    if fields.maybe(1) not in (None, b"\0", b"\xff"):
        raise ValueError("not a truth value")
    nonce = fields.maybe(2)
    if nonce is not None and len(whole_number(nonce)) > 64:
        raise ValueError("not a nonce")
    fields.maybe(0xA0), fields.maybe(0xA1)
    fields.end()
    return imprint, time, policy, serial.hex()


def tile_path(level, index, width):
    path = "%03d" % (index % 1000)
    while index >= 1000:
        index //= 1000
        path = "x%03d/%s" % (index % 1000, path)
    return f"tile/{level}/{path}" + (f".p/{width}" if width < WIDTH else "")


def merkle(hashes):
    """Root of RFC 6962 over leaf or subtree hashes."""
    if not hashes:
        return sha(b"")
    while len(hashes) > 1:
        odd = [hashes[-1]] if len(hashes) % 2 else []
        hashes = [sha(b"\x01" + a + b) for a, b in zip(hashes[::2], hashes[1::2])] + odd
    return hashes[0]


def refuse(text):
    raise ValueError(f"{text} is not allowed")


def integer(text):
    return int(text) if len(text) < 18 and abs(int(text)) <= 1 << 53 else refuse("an integer beyond 2^53")


def unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs) or not all(re.fullmatch(r'[ !#-\[\]-~]*', key) for key in found):
        refuse("a key that stands twice or is not plain ASCII")
    return found


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


# Canonical: these bytes and no others are the writing of this value.
READ = json.JSONDecoder(object_pairs_hook=unique, parse_int=integer, parse_float=refuse, parse_constant=refuse).decode
WRITE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def plain(value, or_null=False):
    return or_null and value is None or isinstance(value, str) and not re.search(r'[\x00-\x1f"\\]', value)


def natural(value, or_null=False):
    return or_null and value is None or type(value) is int and value >= 0


def is_time(text):
    try:
        form = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text, re.ASCII)
        return bool(form) and datetime.datetime.fromisoformat(text[:-1]).year >= 1970
    except ValueError:
        return False


def check_leaf(seq, leaf, digest, state):
    def bad(what, detail):
        raise Finding(what, detail, seq)

    try:
        value = READ(leaf.decode())
        deep = leaf.count(b"[") + leaf.count(b"{") > 66 and depth(value) > 67
        if WRITE(value).encode() != leaf or deep:
            refuse("another form than canonical JSON")
        body, chain = value["body"], value["chain"]
        kind, tenant = body["type"], body["tenant"]
        form = (
            set(value) == {"body", "chain"} and set(chain) == {"prev", "seq", "time"} and natural(body["v"]) and body["v"] == 1
            and plain(body["id"]) and plain(kind) and plain(tenant) and plain(body.get("run"), True)
            and plain(body.get("run_prev"), True) and natural(body.get("run_seq"), True)
            and plain(chain["prev"], True) and natural(chain["seq"]) and plain(chain["time"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        bad("form", str(error))
    if not form:
        bad("form", "not a leaf of version 1")
    if chain["seq"] != seq:
        bad("seq", f"it says that it is leaf {chain['seq']}")
    if chain["prev"] != state["prev"]:
        bad("prev", "chain.prev is not the hash of the leaf before")
    if not is_time(chain["time"]):
        bad("time", "chain.time is not a time")
    if chain["time"] < (state["last"] or ""):
        bad("time", "it is earlier than the leaf before")
    if state.setdefault("tenant", tenant) != tenant:
        bad("tenant", "it belongs to another tenant than the leaves before")
    run = body.get("run")
    if run is not None:
        count, last, closed = state["runs"].get(run, (0, None, False))
        if body.get("run_seq") != count + 1 or body.get("run_prev") != last:
            bad("run_chain", f"{run}: it does not follow the run's leaf before")
        state["runs"][run] = (count + 1, url64(digest), closed or kind == "run.closed")
    elif body.get("run_prev") is not None or body.get("run_seq") is not None:
        bad("run_chain", "it has a place in a run and names none")
    if kind in ("ledger.key.rotated", "ledger.key.revoked"):
        state.setdefault("keys", []).append((seq, body))
    state["prev"], state["last"] = url64(digest), chain["time"]
    state["first"] = state["first"] or chain["time"]


def head(root, pinned):
    """The log, its keys, the signed note and what it says: keys that were given have to be among those of the pack."""
    own, own_origin, own_keys = key_file(root, "log.vkey")
    chain = chain_of(root, own_origin, own_keys)
    origin, keys = parse_key(pinned) if pinned else (own_origin, own_keys)
    known = chain.number_of(origin, keys) if pinned else None
    if known is None or known == len(chain.alone):
        known = None
    else:  # a past key, from which the statements led on
        keys, pinned = own_keys, None
    note = text_of(read(root, "checkpoint", 65536), "signature", "checkpoint")
    size, signed_root = open_checkpoint(note, origin, keys)
    if origin != own_origin or any(own_keys.get(kind) != key for kind, key in keys.items()):
        raise Finding("key", "log.vkey in the pack is not the key that was given")
    open_checkpoint(note, origin, own_keys)
    if not chain.entries:
        chain = Chain(origin, keys)
    return origin, keys, (pinned or own).split("\n")[0], note, size, signed_root, chain, known


def verify(root, pinned, against=None):
    origin, keys, key_text, note, size, signed_root, chain, known = head(root, pinned)
    anchored, stamped = check_anchor(root, note, origin, size, signed_root)
    try:
        older = against is not None and chain.open_kept(against)
    except Finding as finding:
        raise Finding("against", f"the older checkpoint: {finding.detail}")
    state = {"prev": None, "last": None, "first": None, "runs": {}, "keys": []}
    roots = []  # of the full bundles, and of the first leaves of the last one and of the one where the older checkpoint ends
    edge, older_edge = [], []
    for index in range((size + WIDTH - 1) // WIDTH):
        width = min(WIDTH, size - index * WIDTH)
        name, tile_name = tile_path("entries", index, width), tile_path("0", index, width)
        data, tile = read(root, name, WIDTH * 65537), read(root, tile_name, WIDTH * 32)
        if len(tile) != width * 32:
            raise Finding("tile", f"{tile_name} does not hold {width} hashes")
        at, hashes = 0, []
        for n in range(width):
            seq, length = index * WIDTH + n, int.from_bytes(data[at:at + 2], "big")
            leaf = data[at + 2:at + 2 + length]
            if at + 2 + length > len(data):
                raise Finding("bytes", f"{name} ends within this leaf", seq)
            digest = sha(b"\x00" + leaf)
            if digest != tile[n * 32:n * 32 + 32]:
                raise Finding("bytes", f"its bytes do not have the hash that {tile_name} holds for it", seq)
            check_leaf(seq, leaf, digest, state)
            hashes.append(digest)
            at += 2 + length
        if at != len(data):
            raise Finding("bytes", f"{name} has bytes behind its last leaf")
        if len(state["keys"]) > 4 * STATEMENTS:
            raise Finding("key", "there are more leaves about keys than a log can have", state["keys"][4 * STATEMENTS][0])
        (roots if width == WIDTH else edge).append(merkle(hashes))
        if older and index * WIDTH < older[0] < index * WIDTH + width:
            older_edge = [merkle(hashes[:older[0] - index * WIDTH])]
    number, level = 1, roots
    while level:
        full = len(level) // WIDTH
        parts = [level[n * WIDTH:(n + 1) * WIDTH] for n in range(full)] + ([level[full * WIDTH:]] if len(level) % WIDTH else [])
        for index, part in enumerate(parts):
            name = tile_path(number, index, len(part))
            if read(root, name, WIDTH * 32) != b"".join(part):
                raise Finding("tile", f"{name} is not what the leaves give")
        level, number = [merkle(part) for part in parts[:full]], number + 1
    if close(roots, edge) != signed_root:
        raise Finding("root", "the root over all leaves is not the one in the signed checkpoint")
    chain.compare(state["keys"])
    if older and older[0] > size:
        raise Finding("against", f"this log has {size} leaves, the older checkpoint covers {older[0]}")
    if older and (signed_root if older[0] == size else close(roots[:older[0] // WIDTH], older_edge)) != older[1]:
        raise Finding("against", f"the first {older[0]} leaves of this log are not those of the older checkpoint")
    if stamped:
        count, cut = stamped[0]["leaves"] // WIDTH, stamped[0]["leaves"] % WIDTH
        tile = read(root, tile_path("0", count, min(WIDTH, size - count * WIDTH)), WIDTH * 32) if cut else b""
        part = [merkle([tile[n * 32:n * 32 + 32] for n in range(cut)])] if cut else []
        if close(roots[:count], part) != stamped[1]:
            raise Finding("anchor", f"the first {stamped[0]['leaves']} leaves are not those that were stamped")
    return {
        "origin": origin, "leaves": size, "root": signed_root.hex(), "runs": len(state["runs"]),
        "closed_runs": sum(run[2] for run in state["runs"].values()), "first_time": state["first"],
        "last_time": state["last"], "key": key_text, "key_pinned": bool(pinned), "generation": len(chain.alone),
        "pinned_generation": known, "pinned_revoked": known in chain.revoked, "against": older[0] if older else None, "anchored": anchored,
        "stamped": stamped and stamped[0],
    }


def close(roots, edge):
    """The root over full bundles and what stands right of them: from the right, the smallest subtree first."""
    found, at = [], 0
    while at < len(roots):
        width = 1 << ((len(roots) - at).bit_length() - 1)
        found.append(merkle(roots[at:at + width]))
        at += width
    found += edge
    right = found.pop() if found else sha(b"")
    while found:
        right = sha(b"\x01" + found.pop() + right)
    return right


def main(arguments):
    as_json, key, against, dirs, given = False, None, None, [], list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--json":
            as_json = True
        elif argument == "--key" and arguments:
            key = arguments.pop(0)
            if os.path.exists(key):
                with open(key) as file:
                    key = file.read().rstrip()
        elif argument == "--against" and arguments:
            try:
                with open(arguments.pop(0), newline="") as file:
                    against = file.read(65537)
            except (OSError, UnicodeDecodeError) as error:
                print(f"verify.py: --against: {error}", file=sys.stderr)
                return 2
        else:
            dirs.append(argument)
    if len(dirs) != 1 or dirs[0].startswith("-") or not os.path.isdir(dirs[0]):
        print(__doc__, file=sys.stderr)
        return 2
    if os.path.lexists(os.path.join(dirs[0], "pack.json")):
        part = os.path.join(os.path.dirname(os.path.abspath(__file__)), "verify_part.py")
        os.execv(sys.executable, [sys.executable, part, *given])
    if key is not None:
        try:
            parse_key(key)
        except Finding as finding:
            print(f"verify.py: --key: {finding.detail}", file=sys.stderr)
            return 2
    try:
        log = verify(dirs[0], key, against)
    except Finding as finding:
        report = {"leaf": finding.leaf, "what": finding.what, "detail": finding.detail}
        where = "" if finding.leaf is None else f"leaf {finding.leaf}: "
        print(json.dumps({"verdict": "failed", "finding": report}) if as_json else f"FAILED  {where}{finding.what}: {finding.detail}")
        if finding.what == "against" and not as_json:
            # Two signed notes that cannot both be true are the proof, whoever reads them.
            print(f"--- the checkpoint that was kept\n{against}\n--- the checkpoint of this log")
            print(text_of(read(dirs[0], "checkpoint", 65536), "signature", "checkpoint"))
        return 9
    if as_json:
        print(json.dumps({"verdict": "ok", "log": log}))
        return 0
    print(f"OK  {log['leaves']} leaves, {log['runs']} runs ({log['closed_runs']} closed)")
    print(f"    log   {log['origin']}\n    root  {log['root']}\n    key   {log['key']}")
    if log["pinned_generation"] is not None:
        print(f"    the key that you gave is number {log['pinned_generation']}, this is number {log['generation']}: "
              "each was replaced by a statement that it signed itself. Keep the present one.")
    if log["pinned_revoked"]:
        print("WARNING: the key that you gave was revoked. Whoever has it can lead you to another log: compare the present one "
              "with the one that the operator published.")
    if log["anchored"]:
        print(f"    plane {log['anchored']['origin']}: among its first {log['anchored']['size']} checkpoints, there since {log['anchored']['time']}")
    if log["stamped"]:
        print(f"    stamp {log['stamped']['leaves']} leaves since {log['stamped']['time']}, says a time stamp authority")
        print("NOTE: the authority's signature was not checked here. In plane/timestamp: openssl ts -verify -in checkpoint.tsr -data checkpoint -CAfile CA.pem")
    if MLDSA44PublicKey is None:
        print("NOTE: ML-DSA-44 signatures were not checked: that needs the package `cryptography` in version 48 or later")
    if log["against"] is None:
        print("NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`.")
    else:
        print(f"    contains the {log['against']} leaves of the older checkpoint")
    if not key:
        print("WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
