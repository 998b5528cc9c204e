#!/usr/bin/env python3
"""Verifies an exported cogward ledger, or a part of one: verify.py DIR [--key VKEY|FILE] [--against FILE] [--json]

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
    signed_text(note, origin, key, "signature")
    if len(root) != 32:
        raise Finding("signature", "the root is not 32 bytes")
    return int(lines[1]), root


def signed_text(note, origin, key, what):
    """The text of a note that the key has signed."""
    text, gap, signatures = note.partition("\n\n")
    if not gap or not signatures.endswith("\n"):
        raise Finding(what, "not a signed note")
    holds = False
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        if not match:
            raise Finding(what, "a line is not a signature")
        data = b64(match[2], what, "a signature is not base64")
        if match[1] == origin and data[:4] == sha(origin.encode() + b"\n" + key)[:4]:
            try:
                Ed25519PublicKey.from_public_bytes(key[1:]).verify(data[4:], (text + "\n").encode())
            except InvalidSignature:
                raise Finding(what, "the signature does not belong to this checkpoint and this key")
            holds = True
    if not holds:
        raise Finding(what, f"there is no signature of the key of {origin}")
    return text + "\n"


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
    state["prev"], state["last"] = url64(digest), chain["time"]
    state["first"] = state["first"] or chain["time"]


def head(root, pinned):
    """The key and the signed checkpoint."""
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
    return origin, key, own, size, signed_root


def verify(root, pinned, against=None):
    origin, key, own, size, signed_root = head(root, pinned)
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


# A part of a log: a run, a window, all leaves with a key, or a sample, each leaf with its way to the root.

KINDS = ("agent", "run", "tool", "tool_server", "approval", "type", "subject")
RANGE = 65536


def pairs_once(pairs):
    return dict(pairs) if len(dict(pairs)) == len(pairs) else refuse("a key that stands twice")


def line_of(data, keys, name, what="form"):
    """An object with exactly these keys, each of the type that stands for it."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs_once, parse_constant=refuse)
        if type(value) is not dict or set(value) != set(keys) or any(type(value[key]) is not keys[key] for key in keys):
            raise ValueError("another form")
    except (ValueError, RecursionError) as error:
        raise Finding(what, f"{name}: {error}")
    return value


def lines_of(root, name, keys):
    data = read(root, name, 1 << 32)
    if data and not data.endswith(b"\n"):
        raise Finding("form", f"{name}: the last line has no end")
    for line in data.split(b"\n")[:-1]:
        yield line_of(line, keys, name)


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


def hashes_of(texts):
    found = [b64(text, "form", "a hash is not base64") if type(text) is str else b"" for text in texts]
    return found if all(len(one) == 32 for one in found) else None


def open_line(line, size, root):
    leaf, path = b64(line["leaf"], "form", "its bytes are not base64"), hashes_of(line["proof"])
    digest = sha(b"\x00" + leaf)
    if path is None or not included(digest, line["index"], size, path, root):
        raise Finding("bytes", "its proof does not lead from its bytes to the signed root", line["index"])
    return leaf, digest


def values_of(body):
    """What a leaf has keys for in the verifiable index."""
    text = lambda value: value if isinstance(value, str) else None
    found, act, tool = {("type", body["type"])}, text(body.get("act")) or "", text(body.get("tool"))
    if act.startswith("agent:") and "@" in act:
        found.add(("agent", act[6:].split("@", 1)[0]))
    server = text(body.get("tool_server")) or text(body.get("server"))
    if tool is not None and "/" in tool:
        server = tool.split("/", 1)[0]
        found.add(("tool", tool))
    elif tool is not None and server is not None:
        found.add(("tool", f"{server}/{tool}"))
    approvals = body.get("approval") if isinstance(body.get("approval"), list) else [body.get("approval")]
    found |= {("approval", one) for one in approvals if isinstance(one, str)}
    return found | {(kind, value) for kind, value in (("run", text(body.get("run"))), ("tool_server", server)) if value is not None}


def unurl(text):
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if isinstance(text, str) else b""
    return data if len(data) == 32 and url64(data) == text else refuse("not a digest")


def check_map(proof, key, root, entries):
    """Whether these are all leaves of the key in the map with this root."""
    at = []
    for entry in proof["at"]:
        name, listed, path = unurl(entry["key"]), unurl(entry["leaves"]), hashes_of(entry["path"])
        if path is None or not included(sha(b"\x00" + name + listed), entry["position"], entries, path, root):
            refuse("an entry is not in the map")
        at.append((entry["position"], name, listed))
    leaves = proof["leaves"]
    if leaves:
        listed = sha(b"".join(leaf.to_bytes(8, "big") for leaf in leaves))
        good = len(at) == 1 and at[0][1:] == (key, listed)
    elif len(at) == 2:
        good = at[0][0] + 1 == at[1][0] and at[0][1] < key < at[1][1]
    elif len(at) == 1:
        good = at[0][0] == 0 and at[0][1] > key or at[0][0] + 1 == entries and at[0][1] < key
    else:
        good = not at and entries == 0 and root == sha(b"")
    return leaves if good else refuse("the map does not say that of the key")


def check_range(line, scope, covered, size, root):
    claim = line["claim"]
    leaf, _ = open_line(claim, size, root)
    try:
        body = READ(leaf.decode())["body"]
        first, until = body["from"], body["to"]
        if not isinstance(body["first_time"], str) or not isinstance(body["last_time"], str):
            refuse("it is not a `ledger.index` of a known form")
        if body["type"] != "ledger.index" or body["map"] != 1 or first % RANGE or not first < until <= first + RANGE:
            refuse("it is not a `ledger.index` of a known form")
        if until > claim["index"] or first != covered or until > scope["to"]:
            refuse("it is not the range that comes next")
        prefix = "subject_" if scope["of"] == "subject" else ""
        key = sha(f"cogward index v1\0{scope['of']}\0{scope['value']}".encode())
        leaves = check_map(line["map"], key, unurl(body[prefix + "root"]), body[prefix + "entries"])
        if leaves != sorted(set(leaves)) or not all(first <= one < until for one in leaves):
            refuse("its leaves are not in the range, in rising order")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Finding("index", str(error), claim["index"])
    return leaves, until, [body["first_time"], body["last_time"]]


def drawn(root, nonce, size, count):
    seed, found, number = sha(b"cogward sample v1\0" + root + b"\0" + nonce.encode()), set(), 0
    count = min(count, size, 10000)
    while count < size and len(found) < count:
        found.add(int.from_bytes(sha(seed + number.to_bytes(8, "big"))[:8], "big") % size)
        number += 1
    return found if count < size else set(range(size))


FIELDS = {
    "run": {"run": str}, "window": {"since": str, "until": str}, "sample": {"nonce": str, "count": int, "of": int},
    "key": {"of": str, "value": str, "from": int, "to": int, "since": str, "until": str},
}
BOUNDS = {"since", "until"}
LEAF_LINE = {"index": int, "leaf": str, "proof": list}


def manifest_of(root, origin, key, size):
    data = read(root, "pack.json", 1 << 22)
    note = text_of(read(root, "pack.note", 65536), "manifest", "pack.note")
    digest = base64.b64encode(sha(data)).decode()
    if signed_text(note, origin, key, "manifest") != f"cogward.dev/pack@v1\n{origin}\n{digest}\n":
        raise Finding("manifest", "pack.note is not the signature of pack.json")
    said = line_of(data, {"form": int, "origin": str, "scope": dict, "size": int, "leaves": int, "by": str, "time": str,
                          "disclosed": bool, "files": dict}, "pack.json", "manifest")
    scope = said["scope"]
    fields = FIELDS.get(scope.get("kind"), {})
    whole = {"kind", *fields} - BOUNDS <= set(scope) <= {"kind", *fields}
    if (said["form"], said["origin"], said["size"]) != (1, origin, size):
        raise Finding("manifest", "pack.json is of another form, log or checkpoint")
    if not fields or not whole or any(type(scope[name]) is not fields[name] for name in scope if name != "kind"):
        raise Finding("manifest", "pack.json: another form")
    if scope["kind"] == "key" and scope["of"] not in KINDS:
        raise Finding("manifest", "pack.json: another form")
    if not all(is_time(scope[name]) for name in BOUNDS & set(scope)):
        raise Finding("manifest", "pack.json: a bound of the window is not a time")
    plain_files = {"pack.json", "pack.note", "log.vkey", "checkpoint", "verify.py", "README.txt"}
    extra = set(os.listdir(root)) - plain_files - set(said["files"])
    if extra:
        raise Finding("manifest", f"{sorted(extra)[0]} is not in pack.json")
    for name, digest in said["files"].items():
        if "/" in name or name in plain_files:
            raise Finding("missing", f"{name} is in pack.json and not in the pack")
        if sha(read(root, name, 1 << 32)).hex() != digest:
            raise Finding("manifest", f"{name} is not the file that pack.json names")
    return said


def verify_part(root, pinned):
    origin, key, own, size, signed_root = head(root, pinned)
    said = manifest_of(root, origin, key, size)
    scope, files = said["scope"], said["files"]
    kind, state = scope["kind"], {"prev": None, "last": None, "first": None, "runs": {}}
    indexes, outside, hidden, last, first_time, last_time = [], set(), {}, None, None, None
    before = behind = closed = False
    for line in lines_of(root, "leaves.jsonl", LEAF_LINE):
        leaf, digest = open_line(line, size, signed_root)
        index, bad = line["index"], lambda what, detail: Finding(what, detail, line["index"])
        if last is not None and index <= last:
            raise bad("seq", "it does not come behind the leaf before")
        try:
            value = READ(leaf.decode())
            body, chain = value["body"], value["chain"]
            if last is None or index != last + 1:
                state["prev"] = chain["prev"]  # the leaf before is not here
            if kind != "run" and body.get("run") is not None:
                state["runs"] = {body["run"]: (body["run_seq"] - 1, body.get("run_prev"), False)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            body, chain = {}, {}
        check_leaf(index, leaf, digest, state)
        mine, early = True, chain["time"] < scope.get("since", "")
        late = "until" in scope and chain["time"] >= scope["until"]
        if kind == "run":
            if body.get("run") != scope["run"]:
                raise bad("scope", "it is not of the run")
            closed = closed or body["type"] == "run.closed"
        elif kind == "window":
            if last is not None and index != last + 1 or behind:
                raise bad("scope", "the leaves of a window have no gap and end with it")
            if early and last is not None:
                raise bad("scope", "it is before the window")
            before, behind, mine = before or early or index == 0, late and not early, not early and not late
        elif kind == "key":
            if not scope["from"] <= index < scope["to"]:
                raise bad("scope", "it is outside of what the index covers")
            if scope["of"] != "subject" and (scope["of"], scope["value"]) not in values_of(body):
                raise bad("scope", "it does not have the key")
            mine = not early and not late
            outside |= set() if mine else {index}
        last = index
        if mine:
            indexes.append(index)
            hidden[index] = {name: one["$c"] for name, one in body.items() if isinstance(one, dict) and isinstance(one.get("$c"), str)}
            first_time, last_time = first_time or chain["time"], chain["time"]
    if kind == "run" and not indexes:
        raise Finding("scope", "there is no leaf of the run")
    if kind == "window" and not ((before or size == 0) and (behind or (0 if last is None else last + 1) == size)):
        raise Finding("scope", "the leaves around the window are not there: some of it may be missing")
    if kind == "sample" and (scope["of"] != size or drawn(signed_root, scope["nonce"], size, scope["count"]) != set(indexes)):
        raise Finding("scope", "the leaves are not those that the number draws")
    if kind == "key":
        covered, listed, times = scope["from"], [], []
        for line in lines_of(root, "index.jsonl", {"claim": dict, "map": dict}):
            line_of(json.dumps(line["claim"]).encode(), LEAF_LINE, "index.jsonl")
            line_of(json.dumps(line["map"]).encode(), {"at": list, "leaves": list}, "index.jsonl")
            found, covered, claimed = check_range(line, scope, covered, size, signed_root)
            listed, times = listed + found, times + claimed
        if covered != scope["to"] or listed != sorted({*indexes, *outside}):
            raise Finding("index", "the leaves are not those that the index lists")
        if scope["from"] and not ("since" in scope and times and times[0] < scope["since"]):
            raise Finding("index", "the window begins before what the index covers")
        closed = "until" not in scope or bool(times) and times[-1] >= scope["until"]
    if "policies.jsonl" in files:
        for line in lines_of(root, "policies.jsonl", {"level": str, "digest": str, "text": str}):
            if "sha256:" + sha(f"cogward.policy.v1\n{line['level']}\n{line['text']}".encode()).hex() != line["digest"]:
                raise Finding("manifest", f"the text of the policy {line['digest']} is another one")
    disclosures = 0
    for line in lines_of(root, "disclosures.jsonl", {"leaf": int, "disclosure": str}) if "disclosures.jsonl" in files else ():
        try:
            field = json.loads(base64.urlsafe_b64decode(line["disclosure"] + "=" * (-len(line["disclosure"]) % 4)))[1]
            opens = hidden.get(line["leaf"], {}).get(field) == url64(sha(line["disclosure"].encode()))
        except (ValueError, TypeError, LookupError):
            opens = False
        if not opens:
            raise Finding("disclosure", "it opens nothing in this leaf", line["leaf"])
        disclosures += 1
    if len(indexes) != said["leaves"]:
        raise Finding("manifest", "pack.json names another number of leaves")
    return {
        "origin": origin, "size": size, "root": signed_root.hex(), "scope": scope, "leaves": len(indexes),
        "complete": closed or kind not in ("run", "key"), "first_time": first_time, "last_time": last_time, "disclosures": disclosures,
        "key": pinned or own, "key_pinned": bool(pinned),
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
    part = os.path.lexists(os.path.join(dirs[0], "pack.json"))
    if part and against is not None:
        print("verify.py: --against compares whole logs", file=sys.stderr)
        return 2
    try:
        log = verify_part(dirs[0], key) if part else verify(dirs[0], key, against)
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
        print(json.dumps({"verdict": "ok", "pack" if part else "log": log}))
        return 0
    if part:
        print(f"OK  {log['leaves']} leaves: {json.dumps(log['scope'])}")
        if not log["complete"]:
            print("    the run, or the window, may go on behind this checkpoint")
    else:
        print(f"OK  {log['leaves']} leaves, {log['runs']} runs ({log['closed_runs']} closed)")
    print(f"    log   {log['origin']}\n    root  {log['root']}\n    key   {log['key']}")
    if part:
        print(f"    {log['disclosures']} disclosures")
    elif log["against"] is None:
        print("NOTE: no older checkpoint was given (--against). If the holder of the key wrote the log anew, this cannot show it. Keep `checkpoint`.")
    else:
        print(f"    contains the {log['against']} leaves of the older checkpoint")
    if not key:
        print("WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
