#!/usr/bin/env python3
"""Checks the receipt of an erasure without the plane, with hashlib and the package `cryptography`.

Usage: python3 verify-receipt.py DIRECTORY [--key VKEY|FILE]

The directory holds receipt.txt (what was erased, signed by the log) and receipt.json (the same text, the leaves that
say so, the proofs that they are in the log, the signed checkpoint). Take the key from elsewhere than the receipt.
Exit code 0: it holds. 9: it does not, and one line says what is wrong. 2: the command itself was wrong.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORM = "cogward erasure receipt v1"


class Wrong(Exception):
    """What is wrong with the receipt."""


def need(holds, what):
    if not holds:
        raise Wrong(what)


def read_key(text):
    """NAME+HASH+BASE64 (C2SP signed-note) to the name, the four bytes of the hash and the key."""
    name, shown, encoded = text.strip().split("+", 2)
    key = base64.b64decode(encoded, validate=True)
    need(key[0] == 1 and len(key) == 33, "key: not an Ed25519 key")
    need(hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == shown, "key: its hash is another one")
    return name, bytes.fromhex(shown), Ed25519PublicKey.from_public_bytes(key[1:])


def open_note(note, key, what):
    """The text of a note that the key has signed."""
    name, shown, public = key
    text, separator, signatures = note.partition("\n\n")
    need(separator, f"{what}: it is not signed")
    text += "\n"
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.rpartition(" ")
        if dash == "\u2014" and signer == name:
            signature = base64.b64decode(encoded, validate=True)
            if signature[:4] == shown:
                try:
                    public.verify(signature[4:], text.encode())
                except InvalidSignature:
                    raise Wrong(f"{what}: the signature does not hold") from None
                return text
    raise Wrong(f"{what}: it has no signature of {name}")


def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def root_from(leaf_hash, index, size, path):
    """RFC 9162, 2.1.3.2."""
    need(index < size, "proof: the leaf is not in the checkpoint")
    number, last, value = index, size - 1, leaf_hash
    for step in path:
        need(last > 0, "proof: it is too long")
        if number & 1 or number == last:
            value = node(step, value)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            value = node(value, step)
        number, last = number >> 1, last >> 1
    need(last == 0, "proof: it is too short")
    return value


def lines_of(text):
    """The lines `what: value` behind the first one."""
    pairs = [line.split(": ", 1) for line in text.splitlines()[1:] if ": " in line]
    return [pair for pair in pairs if len(pair) == 2]


def check(directory, given):
    receipt = json.loads((directory / "receipt.json").read_text(encoding="utf-8"))
    key_text = given or receipt["key"]
    if given and pathlib.Path(given).is_file():
        # A file as `log.vkey`: a key a line, Ed25519 first.
        key_text = pathlib.Path(given).read_text(encoding="utf-8").split("\n", 1)[0]
    key = read_key(key_text)
    need((directory / "receipt.txt").read_text(encoding="utf-8") == receipt["text"], "text: the two files differ")
    text = open_note(receipt["text"], key, "text")
    need(text.splitlines()[0] == FORM == receipt["form"], "text: not a receipt of this form")
    said = lines_of(text)
    one = dict(said)
    need(one["log"] == key[0], "text: it is of another log")
    need(one["redaction"] == receipt["redaction"], "text: it is of another redaction")
    checkpoint = open_note(receipt["checkpoint"], key, "checkpoint").splitlines()
    need(len(checkpoint) == 3 and checkpoint[0] == key[0], "checkpoint: it is of another log")
    size, root = int(checkpoint[1]), base64.b64decode(checkpoint[2], validate=True)
    executed = []
    for proven in receipt["leaves"]:
        leaf = base64.b64decode(proven["leaf"], validate=True)
        leaf_hash = hashlib.sha256(b"\0" + leaf).digest()
        path = [base64.b64decode(step, validate=True) for step in proven["proof"]]
        index = proven["index"]
        need(root_from(leaf_hash, index, size, path) == root, f"leaf {index}: it is not in the log")
        body = json.loads(leaf)["body"]
        need(body["tenant"] == key[0].rsplit("/", 1)[-1], f"leaf {index}: it is another tenant's")
        need(body["redaction"] == receipt["redaction"], f"leaf {index}: it is of another redaction")
        if body["type"] in ("redaction.executed", "retention.executed"):
            named = base64.urlsafe_b64encode(leaf_hash).decode().rstrip("=")
            need([f"recorded in leaf {index}", named] in said, f"leaf {index}: the text does not name it")
            executed.append(body)
    need(executed, "leaves: none says that it was carried out")
    left = re.fullmatch(r"([1-9][0-9]*) leaves with ([0-9]+) values, [0-9]+ to [0-9]+", one.get("left out", ""))
    need(left or "left out" not in one, "text: what is left out is not counted")
    parts, values = (int(left[1]), int(left[2])) if left else (0, 0)
    here = list(range(1, executed[0]["parts"] + 1 - parts))
    need([body["part"] for body in executed] == here, "leaves: a part is missing")
    commitments = sum(len(body["commitments"]) for body in executed)
    need(commitments + values == executed[0]["values"], "leaves: the commitments are not all there")
    need(one["values erased"] == str(commitments + values), "text: it counts other values than the leaves")
    need(one["ground"].split(":")[0] == executed[0]["ground"], "text: it names another ground than the leaves")
    return one, bool(given)


def main():
    parser = argparse.ArgumentParser(description="Checks the receipt of an erasure.")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--key", help="the log's public key or a file with it, from elsewhere than the receipt")
    arguments = parser.parse_args()
    try:
        said, known = check(arguments.directory, arguments.key)
    except Wrong as wrong:
        print(f"NOT VERIFIED: {wrong}")
        return 9
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        print(f"NOT VERIFIED: not a receipt: {type(error).__name__}: {error}")
        return 9
    print(f"OK: {said['values erased']} values erased at {said['executed']} by {said['redaction']}")
    if "left out" in said:
        print(f"note: not in this receipt, and in the log: {said['left out']}", file=sys.stderr)
    if not known:
        print("warning: the key is the receipt's own; that shows that it is whole, not whose it is", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
