"""Writes a statement of account. Standard library only; all that it knows of cogward are four folders.

/inputs and /skills can be read, /work is its own and begins with what is in template/, and what the manifest declares
as outputs is kept when it has ended.
"""

import csv
import os
import pathlib
import sys
from collections import defaultdict

inputs = pathlib.Path(os.environ["COGWARD_INPUTS_DIR"])
skills = pathlib.Path(os.environ["COGWARD_SKILLS_DIR"])
work = pathlib.Path("/work")


def euro(cents):
    """As the skill says."""
    pattern = (skills / "euro" / "SKILL.md").read_text(encoding="utf-8").splitlines()[-1]
    return pattern.replace("AMOUNT", f"{cents / 100:.2f}")


totals = defaultdict(int)
with open(inputs / "bookings.csv", newline="", encoding="utf-8") as table:
    for row in csv.DictReader(table):
        totals[row["account"]] += int(row["cents"])
if not totals:
    sys.exit("there are no bookings")

(work / "accounts").mkdir()
for account, cents in sorted(totals.items()):
    (work / "accounts" / f"{account}.txt").write_text(euro(cents) + "\n", encoding="utf-8")

notes = inputs / "notes"
lines = [f"{account}: {euro(cents)}" for account, cents in sorted(totals.items())]
lines += [path.read_text(encoding="utf-8").strip() for path in sorted(notes.iterdir())] if notes.exists() else []
letter = work / "statement.txt"
letter.write_text(letter.read_text(encoding="utf-8").replace("BOOKINGS", "\n".join(lines)), encoding="utf-8")
print(f"{len(totals)} accounts")
