#!/usr/bin/env python3
"""Verifies an exported cogward ledger: verify.py DIR [--key VKEY|FILE] [--against FILE] [--json]

Needs Python 3.9 and the package `cryptography`; no cogward, no network. Written apart from
cogward-verify, from the same rules: the two must always agree. Exit code: 0 it holds, 9 it does
not (the first thing that is wrong is named), 2 the command is wrong or it cannot be judged.

This script knows the log itself: its key, its signed checkpoint, its leaves, the chains of its runs, the tree. What
else a pack can show is in scripts beside it: keys that were replaced (verify_keys.py), the place in the plane log and
time stamps (verify_plane.py), parts of a log (verify_part.py). Without them such a pack is refused, never passed over.
"""
import base64, datetime, hashlib, importlib, json, os, re, sys

sys.dont_write_bytecode = True  # nothing is written into a pack
if __name__ == "__main__":
    sys.modules["verify"] = sys.modules["__main__"]  # the scripts beside it speak of this one

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
KEY_LEAVES = 4096  # most leaves about keys that one log can have


class Beyond(Exception):
    """Something that this script cannot judge by itself, and the one that could is not there."""


def beside(name, why):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Beyond(f"{why}. To judge that, {name}.py has to stand beside verify.py: nothing was verified")


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


def parse_note(note, what):
    """What is signed, with its last line feed, and the signatures: of each the name, the key's hash, the bytes (C2SP signed-note)."""
    at = note.rfind("\n\n")
    lines, signatures = note[at + 2:].split("\n"), []
    if at < 0 or lines.pop() != "" or not 1 <= len(lines) <= 64 or len(note.encode()) > 65536:
        raise Finding(what, "not a signed note")
    for line in lines:
        match = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        data = b64(match[2], what, "a signature is not base64") if match else b""
        if len(data) < 4:
            raise Finding(what, "a line is not a signature")
        signatures.append((match[1], data[:4], data[4:]))
    return note[:at + 1], signatures


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
    except (InvalidSignature, ValueError):
        return False


def unsigned_checkpoint(note):
    """What a note says of a log (C2SP tlog-checkpoint): its origin, size and root. Who signed it is another question."""
    lines = parse_note(note, "signature")[0].split("\n")
    if len(lines) != 4 or not re.fullmatch(r"0|[1-9][0-9]{0,19}", lines[1], re.ASCII) or int(lines[1]) >= 1 << 64:
        raise Finding("signature", "not a signed checkpoint")
    root = b64(lines[2], "signature", "the root is not base64")
    if len(root) != 32:
        raise Finding("signature", "the root is not a hash")
    return lines[0], int(lines[1]), root


def open_checkpoint(note, origin, keys, older=False):
    """Its size and root: every key that is known must have signed, others are ignored."""
    text, signatures = parse_note(note, "signature")
    name, size, root = unsigned_checkpoint(note)
    if name != origin:
        raise Finding("signature", f"the checkpoint is not of {origin}")
    holds = set()
    for name, short, data in signatures:
        for kind, key in keys.items():
            if name == origin and short == key_id(origin, key):
                if signed_by(origin, kind, key, data, text.encode(), size, root) is False:
                    raise Finding("signature", "the signature does not belong to this checkpoint and this key")
                holds.add(kind)
    # One of before the second key is believed without it, but not one that somebody took it off.
    if holds != set(keys) and not (older and holds == {1} and len(signatures) == 1):
        raise Finding("signature", f"the checkpoint has no signature of the key of {origin}")
    return size, root


def key_file(root, name):
    text = text_of(read(root, name, 16384), "key", name)
    if not text.endswith("\n"):
        raise Finding("key", f"{name} has no whole line")
    return text[:-1], *parse_key(text[:-1])


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


def read_leaf(seq, leaf):
    """The two halves of a leaf, whose form is the one that there is."""
    try:
        value = READ(leaf.decode())
        deep = leaf.count(b"[") + leaf.count(b"{") > 66 and depth(value) > 67
        if WRITE(value).encode() != leaf or deep:
            refuse("another form than canonical JSON")
        body, chain = value["body"], value["chain"]
        form = (
            set(value) == {"body", "chain"} and set(chain) == {"prev", "seq", "time"} and natural(body["v"]) and body["v"] == 1
            and plain(body["id"]) and plain(body["type"]) and plain(body["tenant"]) and plain(body.get("run"), True)
            and plain(body.get("run_prev"), True) and natural(body.get("run_seq"), True)
            and plain(chain["prev"], True) and natural(chain["seq"]) and plain(chain["time"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Finding("form", str(error), seq)
    if not form:
        raise Finding("form", "not a leaf of version 1", seq)
    return body, chain


def check_leaf(seq, leaf, digest, state):
    def bad(what, detail):
        raise Finding(what, detail, seq)

    body, chain = read_leaf(seq, leaf)
    kind, tenant = body["type"], body["tenant"]
    if chain["seq"] != seq:
        bad("seq", f"it says that it is leaf {chain['seq']}")
    if chain["prev"] != state["prev"]:
        bad("prev", "chain.prev is not the hash of the leaf before")
    if not is_time(chain["time"]):
        bad("time", "chain.time is not a time")
    if chain["time"] < (state["last"] or ""):
        bad("time", "it is earlier than the leaf before")
    if tenant != state["tenant"]:
        bad("tenant", "it belongs to another tenant than the log")
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


class OneKey:
    """The keys of a log that has had one. verify_keys.Chain is the same for a log whose key was replaced."""

    def __init__(self, origin, keys):
        self.origin, self.keys, self.alone, self.revoked, self.entries = origin, [keys], [], set(), []

    def number_of(self, origin, keys):
        return 0 if origin == self.origin and all(self.keys[0].get(kind) == key for kind, key in keys.items()) else None

    def open_kept(self, note):
        return open_checkpoint(note, self.origin, self.keys[0], older=True)

    def compare(self, leaves):
        for seq, body in leaves:
            if body.get("log") == self.origin:
                raise Finding("key", "the key was replaced or revoked here, and the pack is not signed accordingly", seq)


def head(root, pinned):
    """The log, its keys, the signed note and what it says: keys that were given have to be among those of the pack."""
    own, own_origin, own_keys = key_file(root, "log.vkey")
    chain = OneKey(own_origin, own_keys)
    if os.path.lexists(os.path.join(root, "keys.jsonl")):
        chain = beside("verify_keys", "The key of this log was replaced").chain_of(root, own_origin, own_keys)
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
        chain = OneKey(origin, keys)
    return origin, keys, (pinned or own).split("\n")[0], note, size, signed_root, chain, known


def verify(root, pinned, against=None):
    origin, keys, key_text, note, size, signed_root, chain, known = head(root, pinned)
    anchored = stamped = None
    if os.path.lexists(os.path.join(root, "plane")):
        plane = beside("verify_plane", "This pack shows its place in the plane log")
        anchored, stamped = plane.check_anchor(root, note, origin, size, signed_root)
    try:
        older = against is not None and chain.open_kept(against)
    except Finding as finding:
        raise Finding("against", f"the older checkpoint: {finding.detail}")
    state = {"prev": None, "last": None, "first": None, "runs": {}, "keys": [], "tenant": origin.rsplit("/", 1)[-1]}
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
        if len(state["keys"]) > KEY_LEAVES:
            raise Finding("key", "there are more leaves about keys than a log can have", state["keys"][KEY_LEAVES][0])
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


def say(text):
    """Prints what may have come with a pack: it moves no cursor. A reader who went away does not change the verdict."""
    try:
        print("".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        try:
            return beside("verify_part", "This is a part of a log").main(given)
        except Beyond as why:
            print(f"verify.py: {why}", file=sys.stderr)
            return 2
    if key is not None:
        try:
            parse_key(key)
        except Finding as finding:
            print(f"verify.py: --key: {finding.detail}", file=sys.stderr)
            return 2
    try:
        log = verify(dirs[0], key, against)
    except Beyond as why:
        print(f"verify.py: {why}", file=sys.stderr)
        return 2
    except Finding as finding:
        report = {"leaf": finding.leaf, "what": finding.what, "detail": finding.detail}
        where = "" if finding.leaf is None else f"leaf {finding.leaf}: "
        say(json.dumps({"verdict": "failed", "finding": report}) if as_json else f"FAILED  {where}{finding.what}: {finding.detail}")
        if finding.what == "against" and not as_json:
            # Two signed notes that cannot both be true are the proof, whoever reads them.
            say(f"--- the checkpoint that was kept\n{against}\n--- the checkpoint of this log")
            say(text_of(read(dirs[0], "checkpoint", 65536), "signature", "checkpoint"))
        return 9
    if as_json:
        say(json.dumps({"verdict": "ok", "log": log} | ({} if MLDSA44PublicKey else {"ml_dsa_checked": False})))
        return 0
    say(f"OK  {log['leaves']} leaves, {log['runs']} runs ({log['closed_runs']} closed)")
    say(f"    log   {log['origin']}\n    root  {log['root']}\n    key   {log['key']}")
    if log["pinned_generation"] is not None:
        say(f"    the key that you gave is number {log['pinned_generation']}, this is number {log['generation']}: "
              "each was replaced by a statement that it signed itself. Keep the present one.")
    if log["pinned_revoked"]:
        say("WARNING: the key that you gave was revoked. Whoever has it can lead you to another log: compare the present one "
              "with the one that the operator published.")
    if log["anchored"]:
        say(f"    plane key {log['anchored']['key']}")
        say("WARNING: the key of the plane log came with the pack as well: compare it with the one that the operator published.")
        say(f"    plane {log['anchored']['origin']}: among its first {log['anchored']['size']} checkpoints, there since {log['anchored']['time']}")
    if log["stamped"]:
        say(f"    stamp {log['stamped']['leaves']} leaves since {log['stamped']['time']}, says a time stamp authority")
        say("NOTE: the authority's signature was not checked here. In plane/timestamp: openssl ts -verify -in checkpoint.tsr -data checkpoint -CAfile CA.pem")
    if MLDSA44PublicKey is None:
        say("NOTE: ML-DSA-44 signatures were not checked: that needs the package `cryptography` in version 48 or later")
    if log["against"] is None:
        say("NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`.")
    else:
        say(f"    contains the {log['against']} leaves of the older checkpoint")
    if not key:
        say("WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
