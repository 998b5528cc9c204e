"""The place of a checkpoint in the plane log, and a time stamp (RFC 3161) over that log: the directory `plane` of a pack.

A part of verify.py, which asks for it when a pack has that directory. What is read of a time stamp: that it was granted,
what it is over, and its time. The authority's own signature is NOT checked here: `openssl ts -verify` does that.
"""
import base64, json, os, re

from verify import (
    Finding, b64, beside, depth, is_time, key_file, open_checkpoint, parse_note, read, refuse, sha, text_of, url64,
)


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


def hash_of(text):
    """The hash that a text of 43 letters says; None when it is not the one text of it."""
    data = base64.urlsafe_b64decode(text + "=")
    return data if url64(data) == text else None


def opened(text):
    """The salt, the field and the value in a disclosure (RFC 9901); None when it is none."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        value = json.loads(data.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no half characters, no numbers without end
        good = url64(data) == text and type(value) is list and len(value) == 3 and depth(value) <= 127
    except (ValueError, RecursionError):
        return None
    return value if good and type(value[0]) is type(value[1]) is str else None


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
    if not is_time(leaf[6]) or not all(hash_of(leaf[n]) for n in (1, 2, 3)):
        raise Finding("anchor", "the leaf of the plane log has not the form of one")
    if url64(sha(opens.encode())) != leaf[2] or (opened(opens) or [])[1:] != ["log", origin]:
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
    keys_text, plane, keys = key_file(where, "log.vkey")
    if os.path.lexists(os.path.join(where, "keys.jsonl")):
        beside("verify_keys", "The key of the plane log was replaced").chain_of(where, plane, keys, in_own_log=False)
    expected = (url64(sha(note.encode())), url64(log_root), size)
    leaf, plane_size, plane_note = placed(where, origin, plane, keys, expected)
    others = sum(name != plane for name, _, _ in parse_note(plane_note, "anchor")[1])
    stamped = check_stamp(os.path.join(where, "timestamp"), origin, size, plane, keys)
    # A key of the plane log and names of witnesses cannot be given here: cogward-verify judges those.
    return {"origin": plane, "size": plane_size, "time": leaf[6], "key": keys_text.split("\n")[0], "key_pinned": False,
            "cosignatures": others, "seen": None}, stamped


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
    return said, hash_of(leaf[3])


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
