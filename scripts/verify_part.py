#!/usr/bin/env python3
"""Verifies a part of an exported cogward ledger: verify_part.py DIR [--key VKEY|FILE] [--json]

A run, a window, all leaves with a key, or a sample: each leaf with its way to the signed root. What a
leaf and a checkpoint are is in verify.py, which stands beside it and calls it for a directory with
a `pack.json`. Exit code: 0 it holds, 9 it does not, 2 the command is wrong.
"""
import base64, json, os, re, sys

sys.dont_write_bytecode = True  # nothing is written into a pack
from verify import (
    MLDSA44PublicKey, READ, Beyond, Finding, b64, check_leaf, head, is_time, key_id, parse_key, parse_note, read, refuse, say, sha,
    signed_by, text_of, url64,
)
from verify_plane import included, opened


def signed_text(note, origin, keys, what):
    """The text of a note that the Ed25519 key has signed: the form has no other signature of texts."""
    text, signatures = parse_note(note, what)
    mine = [data for name, short, data in signatures if (name, short) == (origin, key_id(origin, keys[1]))]
    if not mine or not all(signed_by(origin, 1, keys[1], data, text.encode(), 0, b"") for data in mine):
        raise Finding(what, f"there is no signature of the key of {origin}, or one that does not hold")
    return text


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
    on = text(body.get("tool_server"))
    server = text(body.get("server")) if on is None else on
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


def manifest_of(root, origin, keys, size):
    data = read(root, "pack.json", 1 << 22)
    note = text_of(read(root, "pack.note", 65536), "manifest", "pack.note")
    digest = base64.b64encode(sha(data)).decode()
    if signed_text(note, origin, keys, "manifest") != f"cogward.dev/pack@v1\n{origin}\n{digest}\n":
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
    plain_files = {"pack.json", "pack.note", "log.vkey", "checkpoint", "verify.py", "verify_part.py", "README.txt"}
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
    origin, keys, key_text, _, size, signed_root, _, known = head(root, pinned)
    said = manifest_of(root, origin, keys, size)
    scope, files = said["scope"], said["files"]
    kind, state = scope["kind"], {"prev": None, "last": None, "first": None, "runs": {}, "tenant": origin.rsplit("/", 1)[-1]}
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
        said_of = opened(line["disclosure"])
        if not said_of or hidden.get(line["leaf"], {}).get(said_of[1]) != url64(sha(line["disclosure"].encode())):
            raise Finding("disclosure", "it opens nothing in this leaf", line["leaf"])
        disclosures += 1
    if len(indexes) != said["leaves"]:
        raise Finding("manifest", "pack.json names another number of leaves")
    return {
        "origin": origin, "size": size, "root": signed_root.hex(), "scope": scope, "leaves": len(indexes),
        "complete": closed or kind not in ("run", "key"), "first_time": first_time, "last_time": last_time, "disclosures": disclosures,
        "key": key_text, "key_pinned": bool(pinned), "pinned_generation": known,
    }


def main(arguments):
    as_json, key, dirs = False, None, []
    while arguments:
        argument = arguments.pop(0)
        if argument == "--json":
            as_json = True
        elif argument == "--key" and arguments:
            key = arguments.pop(0)
            if os.path.exists(key):
                with open(key) as file:
                    key = file.read().rstrip()
        else:
            dirs.append(argument)
    if len(dirs) != 1 or dirs[0].startswith("-") or not os.path.isdir(dirs[0]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if key is not None:
            parse_key(key)
    except Finding as finding:
        print(f"verify_part.py: --key: {finding.detail}", file=sys.stderr)
        return 2
    try:
        pack = verify_part(dirs[0], key)
    except Beyond as why:
        print(f"verify_part.py: {why}", file=sys.stderr)
        return 2
    except Finding as finding:
        report = {"leaf": finding.leaf, "what": finding.what, "detail": finding.detail}
        where = "" if finding.leaf is None else f"leaf {finding.leaf}: "
        say(json.dumps({"verdict": "failed", "finding": report}) if as_json else f"FAILED  {where}{finding.what}: {finding.detail}")
        return 9
    if as_json:
        say(json.dumps({"verdict": "ok", "pack": pack} | ({} if MLDSA44PublicKey else {"ml_dsa_checked": False})))
        return 0
    say(f"OK  {pack['leaves']} leaves: {json.dumps(pack['scope'])}")
    if not pack["complete"]:
        say("    the run, or the window, may go on behind this checkpoint")
    scope = pack["scope"]
    if "until" not in scope and scope.get("to", pack["size"]) < pack["size"]:
        say(f"NOTE: of leaves {scope['to']} to {pack['size'] - 1} nothing is said: they came behind what the index of this pack covers.")
    say(f"    log   {pack['origin']}, {pack['size']} leaves\n    root  {pack['root']}\n    key   {pack['key']}")
    say(f"    disclosures  {pack['disclosures']}")
    if MLDSA44PublicKey is None:
        say("NOTE: ML-DSA-44 signatures were not checked: that needs the package `cryptography` in version 48 or later")
    if not key:
        say("WARNING: the key came with the pack. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
