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


def parse_key(text):
    """NAME+HASH+BASE64 (C2SP signed-note), Ed25519."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not re.fullmatch(r"[!-*,-~]{1,255}", parts[0]):
        raise Finding("key", "not a key in the form NAME+HASH+BASE64")
    key = b64(parts[2], "key", "the key is not base64")
    if len(key) != 33 or key[0] != 1 or sha(parts[0].encode() + b"\n" + key)[:4].hex() != parts[1]:
        raise Finding("key", "the key is not Ed25519 or its hash is not its own")
    return parts[0], key


def open_checkpoint(note, origin, key):
    text, gap, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if not gap or len(lines) != 3 or not signatures.endswith("\n"):
        raise Finding("signature", "not a signed checkpoint")
    if lines[0] != origin:
        raise Finding("signature", f"the checkpoint is not of {origin}")
    if not re.fullmatch(r"0|[1-9][0-9]{0,19}", lines[1]):
        raise Finding("signature", "the size is not a number")
    root = b64(lines[2], "signature", "the root is not base64")
    holds = False
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        if not match:
            raise Finding("signature", "a line is not a signature")
        data = b64(match[2], "signature", "a signature is not base64")
        if match[1] == origin and data[:4] == sha(origin.encode() + b"\n" + key)[:4]:
            try:
                Ed25519PublicKey.from_public_bytes(key[1:]).verify(data[4:], (text + "\n").encode())
            except InvalidSignature:
                raise Finding("signature", "the signature does not belong to this checkpoint and this key")
            holds = True
    if not holds or len(root) != 32:
        raise Finding("signature", f"the checkpoint has no signature of the key of {origin}")
    return int(lines[1]), root


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
    try:
        form = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", chain["time"], re.ASCII)
        if not form or datetime.datetime.fromisoformat(chain["time"][:-1]).year < 1970:
            raise ValueError
    except ValueError:
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
    state["prev"], state["last"] = url64(digest), chain["time"]
    state["first"] = state["first"] or chain["time"]


def verify(root, pinned, against=None):
    own = text_of(read(root, "log.vkey", 1024), "key", "log.vkey")
    if not own.endswith("\n"):
        raise Finding("key", "log.vkey is not one line")
    own = own[:-1]
    parse_key(own)
    origin, key = parse_key(pinned or own)
    note = text_of(read(root, "checkpoint", 65536), "signature", "checkpoint")
    size, signed_root = open_checkpoint(note, origin, key)
    if pinned and pinned != own:
        raise Finding("key", "log.vkey in the pack is not the key that was given")
    try:
        older = against is not None and open_checkpoint(against, origin, key)
    except Finding as finding:
        raise Finding("against", f"the older checkpoint: {finding.detail}")
    state = {"prev": None, "last": None, "first": None, "runs": {}}
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
    if older and older[0] > size:
        raise Finding("against", f"this log has {size} leaves, the older checkpoint covers {older[0]}")
    if older and (signed_root if older[0] == size else close(roots[:older[0] // WIDTH], older_edge)) != older[1]:
        raise Finding("against", f"the first {older[0]} leaves of this log are not those of the older checkpoint")
    return {
        "origin": origin, "leaves": size, "root": signed_root.hex(), "runs": len(state["runs"]),
        "closed_runs": sum(run[2] for run in state["runs"].values()), "first_time": state["first"],
        "last_time": state["last"], "key": pinned or own, "key_pinned": bool(pinned), "against": older[0] if older else None,
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
    as_json, key, against, dirs = False, None, None, []
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
    if log["against"] is None:
        print("NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`.")
    else:
        print(f"    contains the {log['against']} leaves of the older checkpoint")
    if not key:
        print("WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
