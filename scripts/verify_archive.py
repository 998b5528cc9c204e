#!/usr/bin/env python3
"""Verifies the archive of a plane: verify_archive.py DIR [--key VKEY|FILE] [--against FILE] [--json]

The chain of manifests, every byte of every segment, every leaf of all logs, and that they lead to the signed
checkpoints. --against is a checkpoint of any of its logs, or a manifest, that was kept elsewhere. The chains of runs
are not looked at here: for those export a log. What a leaf, a key and a checkpoint are is in verify.py, which stands
beside it. Exit code: 0 it holds, 9 it does not, 2 the command is wrong.
"""
import json, os, re, sys

sys.dont_write_bytecode = True
from verify import (
    MLDSA44PublicKey, Finding, is_time, open_checkpoint, parse_key, read, read_leaf, refuse, say, sha, unsigned_checkpoint, url64,
)
from verify_keys import Chain, chain_from, strict
from verify_part import signed_text
from verify_plane import LEAF, hash_of

DOMAIN = "cogward.dev/archive/manifest/v1\n"
MANIFEST_BYTES, FRAME_BYTES, OBJECTS = 1 << 26, 1 << 25, 4_000_000
# What is white space to everybody; Python's own list has four more.
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
SEALED = {"index": int, "sha256": str, "bytes": int, "from": int, "to": int}
PART = {"log": str, "keys": str, "first": int, "end": int, "root": str, "last": str, "edge": list, "checkpoint": str, "proof": list}
MANIFEST = {"form": int, "plane": str, "keys": str, "number": int, "segment": dict, "logs": list}


def table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC = list(table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def unhex(text):
    return bytes.fromhex(text) if isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) else refuse("not a hash")


def of_form(value, form):
    if type(value) is not dict or set(value) != set(form) or any(type(value[key]) is not form[key] for key in form):
        refuse("another form")


def manifest_of(data):
    """The note, the line below it, and what the line says."""
    text = data.decode()
    at = text.find("\n{")
    note, line = text[:at + 1], text[at + 1:]
    if at < 0 or len(data) > MANIFEST_BYTES or not line.endswith("\n") or "\n" in line[:-1]:
        refuse("not a note and one line")
    said = strict(line)
    previous, statements = said.pop("previous", None), said.pop("statements", [])
    of_form(said, MANIFEST)
    of_form(said["segment"], SEALED)
    said["segment"]["sha256"] = unhex(said["segment"]["sha256"])
    for part in said["logs"]:
        of_form(part, PART)
        for name in ("root", "last"):
            part[name] = unhex(part[name])
        for name in ("edge", "proof"):
            part[name] = [unhex(text) for text in part[name]]
    if said["form"] != 1 or type(statements) is not list or any(type(one) is not str for one in statements):
        refuse("another form")
    return note, line, {**said, "previous": None if previous is None else unhex(previous), "statements": statements}


def opened_by(chain, data):
    """A manifest and the keys by then: the present one has to have signed it."""
    try:
        note, line, said = manifest_of(data)
        if chain is None and said["statements"]:
            chain = chain_from(said["statements"][0])
        elif chain is None:
            chain = Chain(*parse_key(said["keys"].rstrip(WHITE)))
        for statement in said["statements"]:
            chain.push(-1, statement)
        text = signed_text(note, chain.origin, chain.keys[-1], "signature")
        expected = f"{DOMAIN}{said['plane']}\n{said['number']}\n{sha(line.encode()).hex()}\n"
        if said["plane"] != chain.origin or text != expected:
            refuse("the signed note is about another manifest")
    except (ValueError, RecursionError, AttributeError) as error:
        raise Finding("signature", str(error))
    except Finding as finding:
        raise Finding("signature", finding.detail)
    return said, chain


class Log:
    """One log so far: its size, the complete subtrees, the last leaf."""

    def __init__(self):
        self.size, self.edge, self.last, self.time, self.first = 0, [], None, "", None

    def push(self, digest):
        self.first = self.size if self.first is None else self.first
        node, size = digest, self.size
        while size & 1:
            node, size = sha(b"\x01" + self.edge.pop() + node), size >> 1
        self.edge.append(node)
        self.size, self.last = self.size + 1, digest

    def root(self):
        root = self.edge[-1] if self.edge else sha(b"")
        for left in reversed(self.edge[:-1]):
            root = sha(b"\x01" + left + root)
        return root


def grown(old, old_root, size, root, path):
    """RFC 9162, 2.1.4.2: the tree of `old` leaves is a beginning of the one of `size`."""
    if old == size:
        return not path and old_root == root
    path = ([old_root] if old & old - 1 == 0 else []) + path
    if not 0 < old < size or not path:
        return False
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    left = right = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            left, right = sha(b"\x01" + step + left), sha(b"\x01" + step + right)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            right = sha(b"\x01" + right + step)
        node, last = node >> 1, last >> 1
    return last == 0 and left == old_root and right == root


class Archive:
    def __init__(self, root):
        self.root, self.logs, self.sought, self.found, self.leaves = root, {}, None, None, 0

    def name(self, tenant):
        return f"{self.plane}/{tenant}" if tenant else self.plane

    def log(self, tenant):
        return self.logs.setdefault(self.name(tenant), Log())

    def take(self, kind, payload):
        if kind not in (1, 16):
            return  # what is sealed stays sealed, and a later plane may write other kinds
        tenant = tenant_in(payload)
        leaf = payload[1 + payload[0]:] if tenant is not None else b""
        if kind == 1 and (not tenant or "/" in tenant):
            raise Finding("form", "a leaf without a tenant")
        log = self.log(tenant if kind == 1 else "")
        if kind == 1:
            body, chain = read_leaf(log.size, leaf)
            if body["tenant"] != tenant:
                raise Finding("tenant", "it says that it is another tenant's", log.size)
            seq, time = chain["seq"], chain["time"]
        else:
            match = LEAF.fullmatch(leaf.decode("latin-1")) if tenant == "" and len(leaf) <= 1024 else None
            if not match or not is_time(match[6]) or not all(hash_of(match[n]) for n in (1, 2, 3)) or int(match[5]) >= 1 << 64:
                raise Finding("form", "not a leaf of the plane log", log.size)
            seq, time = int(match[4]), match[6]
        if seq != log.size:
            raise Finding("seq", f"it says that it is leaf {seq}", log.size)
        if kind == 1 and chain["prev"] != (log.last and url64(log.last)):
            raise Finding("prev", "it does not name the leaf before", log.size)
        if not is_time(time) or time < log.time:
            raise Finding("time", f"{time} is no time, or before {log.time}", log.size)
        log.time = time
        log.push(sha(b"\x00" + leaf))
        self.leaves += 1
        if self.sought and self.sought[0] == self.name(tenant) and self.sought[1] == log.size:
            self.found = self.sought[2] == log.root()

    def segment(self, sealed, name):
        if sealed["bytes"] >= 1 << 40:
            raise Finding("bytes", f"{name} is longer than any segment")
        path = os.path.join(self.root, name)
        data = b""
        if os.path.isfile(path):
            with open(path, "rb") as file:
                data = file.read(sealed["bytes"] + 1)
        else:
            raise Finding("missing", f"{name} is not a file")
        header = b"cogwal01" + sealed["index"].to_bytes(8, "little") + sealed["bytes"].to_bytes(8, "little") + bytes(4)
        if data[:32] != header + crc32c(header).to_bytes(4, "little"):
            raise Finding("bytes", f"{name} does not begin as this segment")
        at, first, size = 32, None, sealed["bytes"]
        while size - at >= 20 and data[at:at + 20] != bytes(20):
            head = data[at:at + 20]
            length, kind = int.from_bytes(head[:4], "little"), head[4] if len(head) > 4 else 0
            payload = data[at + 20:at + 20 + length]
            damaged = length > FRAME_BYTES or 20 + length > size - at
            if not damaged and (len(head) < 20 or len(payload) < length):
                raise Finding("bytes", f"{name} ends too early")
            if damaged or kind == 0 or crc32c(head[:16] + payload) != int.from_bytes(head[16:], "little"):
                tenant = tenant_in(payload) if kind in (1, 2, 16) and not damaged else None
                log = self.logs.get(self.name(tenant)) if tenant is not None else None
                raise Finding("bytes", f"the frame at byte {at} is damaged", log and log.size)
            first = at if first is None else first
            self.take(kind, payload)
            at += 20 + length
        if any(data[at:]) or len(data) != size or sha(data) != sealed["sha256"]:
            raise Finding("bytes", f"{name} has something behind its last frame, or not the digest in its name")
        if (at if first is None else first, at) != (sealed["from"], sealed["to"]):
            raise Finding("manifest", f"the frames of {name} are not where the manifest says")

    def compare(self, parts):
        named = {part["log"]: part for part in parts}
        if len(named) != len(parts):
            raise Finding("manifest", "it names a log twice")
        reached = {name: log for name, log in self.logs.items() if log.first is not None}
        for name in sorted(reached, key=str.encode):
            log, part = reached[name], named.get(name)
            if not part or (part["first"], part["end"]) != (log.first, log.size):
                raise Finding("manifest", f"it does not name the leaves of {name}", log.first)
            if (part["root"], part["last"], part["edge"]) != (log.root(), log.last, log.edge):
                raise Finding("root", f"{name}: the leaves up to here do not give the manifest's root", log.size - 1)
        if set(named) - set(reached):
            raise Finding("manifest", "it names leaves that the segment does not have")

    def covered(self, part, chain):
        """Whether the signed checkpoint covers the log up to the end of the segment; and the log's keys."""
        name, keys = parse_key(part["keys"].rstrip(WHITE))
        present = chain.keys[-1]
        if name != part["log"] or name == chain.origin and any(keys.get(kind) != key for kind, key in present.items()):
            raise Finding("key", f"the keys of {part['log']} are of another log")
        keys = present if name == chain.origin else keys
        size, root = open_checkpoint(part["checkpoint"], name, keys)
        if size < part["end"] or not grown(part["end"], part["root"], size, root, part["proof"]):
            raise Finding("root", f"{name}: {part['end']} leaves are not the beginning of the {size} that are signed")
        return keys


def tenant_in(payload):
    """The text behind its length; None when there is none."""
    try:
        return payload[1:1 + payload[0]].decode() if payload and len(payload) > payload[0] else None
    except UnicodeDecodeError:
        return None


def inventory(root):
    manifests, segments, unnamed = {}, set(), []
    for folder in ("manifests", "segments"):
        where = os.path.join(root, folder)
        for name in sorted(os.listdir(where)) if os.path.isdir(where) else ():
            match = re.fullmatch("([0-9a-f]{16})-([0-9a-f]{64})\\.(manifest|seg)", name)
            if not match or match[3] != ("manifest" if folder == "manifests" else "seg"):
                unnamed.append(f"{folder}/{name}")
            elif folder == "segments":
                segments.add((int(match[1], 16), bytes.fromhex(match[2]), f"{folder}/{name}"))
            elif int(match[1], 16) in manifests:
                raise Finding("manifest", f"there are two manifests of number {int(match[1], 16)}")
            else:
                manifests[int(match[1], 16)] = (bytes.fromhex(match[2]), f"{folder}/{name}")
            if len(manifests) + len(segments) + len(unnamed) > OBJECTS:
                raise Finding("missing", "the archive has too many objects")
    if not manifests or sorted(manifests) != list(range(len(manifests))):
        raise Finding("missing", "a manifest is not there, or there is none at all")
    return [manifests[number] for number in range(len(manifests))], segments, unnamed


def verify_archive(root, key, against=None):
    manifests, segments, unnamed = inventory(root)
    archive, chain, previous, met, signed, stored, wrong = Archive(root), None, None, False, False, 0, ""
    kept = sha(against.encode()) if against is not None and against.startswith(DOMAIN) else None
    for number, (digest, name) in enumerate(manifests):
        data = read(root, name, MANIFEST_BYTES)
        if sha(data) != digest:
            raise Finding("bytes", f"{name} has not the digest in its name")
        said, chain = opened_by(chain, data)
        archive.plane = chain.origin
        if number == 0 and against is not None and kept is None:
            try:
                archive.sought = unsigned_checkpoint(against)
            except Finding as finding:
                raise Finding("against", finding.detail)
            if archive.sought[0] != chain.origin and not archive.sought[0].startswith(chain.origin + "/"):
                raise Finding("against", f"it is of {archive.sought[0]}")
            archive.found = True if archive.sought[1] == 0 else None
        sealed = said["segment"]
        if said["number"] != number or said["previous"] != previous or sealed["index"] != number:
            raise Finding("manifest", f"{name} does not follow the one before")
        segment = (sealed["index"], sealed["sha256"], f"segments/{sealed['index']:016x}-{sealed['sha256'].hex()}.seg")
        if segment not in segments:
            raise Finding("missing", f"{segment[2]} is not there")
        segments.remove(segment)
        for log in archive.logs.values():
            log.first = None
        archive.segment(sealed, segment[2])
        archive.compare(said["logs"])
        for part in said["logs"]:
            keys = archive.covered(part, chain)
            if archive.sought and archive.sought[0] == part["log"] != chain.origin:
                # Of its time: by the keys that one of the manifests names.
                try:
                    signed = bool(open_checkpoint(against, part["log"], keys, older=True))
                except Finding as finding:
                    wrong = finding.detail
        previous, stored, met = digest, stored + sealed["bytes"], met or digest == kept
    known = len(chain.keys) - 1 if key is None else chain.number_of(*parse_key(key))
    if known is None:
        raise Finding("signature", f"the key that was given is none of those of {chain.origin}")
    if archive.sought and archive.sought[0] == chain.origin:
        try:
            signed = bool(chain.open_kept(against))
        except Finding as finding:
            wrong = finding.detail
    if kept is not None and not met or archive.sought and not (archive.found and (signed or archive.sought[0] not in archive.logs)):
        raise Finding("against", f"the archive does not contain what was kept {wrong}")
    return {
        "plane": chain.origin, "segments": len(manifests), "bytes": stored, "leaves": archive.leaves,
        "logs": {name: archive.logs[name].size for name in sorted(archive.logs)}, "newest": previous.hex(),
        "unnamed": unnamed + sorted(one[2] for one in segments), "key_pinned": key is not None,
        "key_revoked": known in chain.revoked, "compared": against is not None,
    }


def main(arguments):
    as_json, key, against, dirs = False, None, None, []
    try:
        while arguments:
            argument = arguments.pop(0)
            if argument == "--json":
                as_json = True
            elif argument == "--key" and arguments:
                key = arguments.pop(0)
                if os.path.exists(key):
                    with open(key) as file:
                        key = file.read().rstrip()
                parse_key(key)
            elif argument == "--against" and arguments:
                with open(arguments.pop(0), newline="") as file:
                    against = file.read(MANIFEST_BYTES + 1)
            else:
                dirs.append(argument)
    except (OSError, UnicodeDecodeError, Finding) as error:
        print(f"verify_archive.py: {getattr(error, 'detail', error)}", file=sys.stderr)
        return 2
    if len(dirs) != 1 or dirs[0].startswith("-") or not os.path.isdir(dirs[0]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found = verify_archive(dirs[0], key, against)
    except Finding as finding:
        report = {"leaf": finding.leaf, "what": finding.what, "detail": finding.detail}
        where = "" if finding.leaf is None else f"leaf {finding.leaf}: "
        say(json.dumps({"verdict": "failed", "finding": report}) if as_json else f"FAILED  {where}{finding.what}: {finding.detail}")
        return 9
    if as_json:
        say(json.dumps({"verdict": "ok", "archive": found} | ({} if MLDSA44PublicKey else {"ml_dsa_checked": False})))
        return 0
    say(f"OK  {found['segments']} segments, {found['bytes']} bytes, {found['leaves']} leaves of {len(found['logs'])} logs")
    say(f"    plane    {found['plane']}\n    newest   manifest {found['newest']}")
    say("NOTE: the chains of runs were not looked at. For those export a log and use verify.py.")
    if MLDSA44PublicKey is None:
        say("NOTE: ML-DSA-44 signatures were not checked: that needs the package `cryptography` in version 48 or later")
    if not found["compared"]:
        say("NOTE: an archive cannot show by itself that its newest part is there. Keep a checkpoint or its newest manifest (--against).")
    if found["key_revoked"]:
        say("WARNING: the key that you gave was revoked. Whoever has it can lead you to another archive.")
    if not found["key_pinned"]:
        say("WARNING: the key came with the archive. Compare it with the one that the operator published, or give it with --key.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
