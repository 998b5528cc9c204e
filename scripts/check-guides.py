"""Does what the guides say, word for word, on a real plane: a guide that is wrong fails the tests.

Taken are the blocks ```console that follow a line `<!-- checked -->` in README.md and docs/*.md. The blocks of
one file are typed into one shell, in a directory of their own that holds copies of what the repository has.
A command must exit with 0, or with the code that a comment at its end names: `# exits 4`.
Three things differ from what a reader types: the plane takes a free port, a command that reads standard input
gets nothing there, and `cogward login` gets the credential that the plane printed.

Usage: python3 scripts/check-guides.py --bin-dir DIR [GUIDE ...]
"""

import argparse
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARK = "<!-- checked -->"
SECONDS = 60
# What a guide may name, below the directory that it runs in.
COPIED = ["examples", "schemas", "scripts", "openapi"]
LINKED = ["tests"]

# `serve` in the background: on a free port, and the next command comes when the plane answers.
PRELUDE = r"""
guide_serve() {
  # Now, and not when the plane has begun: what an earlier one said is no sign of this one.
  rm -f "$GUIDE/serve.out"
  cogward serve "$@" --listen 127.0.0.1:0 > "$GUIDE/serve.out" < /dev/null &
  local plane=$! tries=0
  until grep -qs 'is up at' "$GUIDE/serve.out"; do
    tries=$((tries + 1))
    if ! kill -0 $plane || [ $tries -gt 600 ]; then return 1; fi
    sleep 0.05
  done
  echo $plane >> "$GUIDE/pids"
  export COGWARD_URL=$(sed -n 's/.*is up at //p' "$GUIDE/serve.out")
  sed -n 's/^operator credential: //p' "$GUIDE/serve.out" > "$GUIDE/printed"
  if [ -s "$GUIDE/printed" ]; then
    mv "$GUIDE/printed" "$GUIDE/credential"
  else
    # A plane that is started again is at another port here, for which nothing was kept.
    export COGWARD_TOKEN_FILE="$GUIDE/credential"
  fi
}
guide_said() {
  local code=$?
  echo "$1 $code" >> "$GUIDE/codes"
  if [ $code != "$2" ]; then exit 1; fi
}
set -m
"""


class Command:
    """One command of a guide: its line, its text and the code that it must exit with."""

    def __init__(self, line, text):
        self.line, self.text = line, text
        code = re.search(r"#\s*exits (\d+)\s*$", text)
        self.code = int(code.group(1)) if code else 0

    def script(self, number):
        text, source = self.text, "/dev/null"
        serve = re.fullmatch(r"cogward serve\s+(.*?)\s*&\s*", text)
        if serve:
            text = f"guide_serve {serve.group(1)}"
        elif text.startswith("cogward login") and "--credential-file" not in text:
            source = '"$GUIDE/credential"'
        # The newline ends a comment.
        return f"echo {shlex.quote('$ ' + self.text)}\n{{ {text}\n}} < {source}\nguide_said {number} {self.code}\n"


def commands_of(guide):
    """The commands of the marked blocks of a guide."""
    found, marked, inside, pending = [], False, False, None
    for number, line in enumerate(guide.read_text(encoding="utf-8").splitlines(), 1):
        if inside:
            if line.startswith("```"):
                inside = False
                continue
            pending = (pending[0], f"{pending[1]}\n{line}") if pending else (number, line)
            if not line.endswith("\\"):
                if pending[1].strip():
                    found.append(Command(*pending))
                pending = None
        elif line.strip() == MARK:
            marked = True
        elif line.startswith("```") and marked:
            if line.strip() != "```console":
                raise SystemExit(f"{guide}:{number}: a checked block begins with ```console")
            inside, marked = True, False
        elif line.strip() and marked:
            raise SystemExit(f"{guide}:{number}: `{MARK}` stands directly before a block")
    if inside or marked:
        raise SystemExit(f"{guide}: a checked block does not end")
    return found


def end_planes(work):
    """Ends what the guide left running: its planes in order, then whatever is left of their groups."""
    try:
        pids = [int(pid) for pid in (work / "guide/pids").read_text().split()]
    except FileNotFoundError:
        return
    for pid in pids:
        until = time.monotonic() + 20
        try:
            os.killpg(pid, signal.SIGTERM)
            while time.monotonic() < until:
                os.killpg(pid, 0)
                time.sleep(0.05)
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def check(guide, commands, bin_dir):
    """Runs a guide; returns what was wrong with it, or None."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="cogward-guide-"))
    # The plane refuses nothing here, but agents are none of the host's users and must be able to enter.
    work.chmod(0o755)
    try:
        place = work / "repository"
        place.mkdir()
        (work / "guide").mkdir()
        for name in COPIED:
            shutil.copytree(ROOT / name, place / name)
        for name in LINKED:
            (place / name).symlink_to(ROOT / name)
        (work / "home").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COGWARD_", "XDG_"))}
        env = {**kept, "GUIDE": str(work / "guide"), "HOME": str(work / "home"), "NO_COLOR": "1",
               "PATH": os.pathsep.join([str(bin_dir), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])}
        script = work / "guide.sh"
        script.write_text(PRELUDE + "".join(c.script(number) for number, c in enumerate(commands)), encoding="utf-8")
        with open(work / "said", "w+b") as said:
            shell = subprocess.Popen(["bash", "--noprofile", "--norc", script], cwd=place, env=env, stdout=said,
                                     stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            try:
                shell.wait(SECONDS)
            except subprocess.TimeoutExpired:
                shell.kill()
                shell.wait()
        said = (work / "said").read_text(encoding="utf-8", errors="replace")
        try:
            lines = (work / "guide/codes").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        codes = dict(map(int, line.split()) for line in lines)
        for number, command in enumerate(commands):
            at = f"{guide.relative_to(ROOT)}:{command.line}"
            if number not in codes:
                return f"{at}: did not end within {SECONDS} s: {command.text}\n{said[-4000:]}"
            if codes[number] != command.code:
                return f"{at}: exits {codes[number]} and not {command.code}: {command.text}\n{said[-4000:]}"
        return None
    finally:
        end_planes(work)
        shutil.rmtree(work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Does what the guides say, on a real plane.")
    parser.add_argument("--bin-dir", type=pathlib.Path, required=True, help="where cogward and cogward-verify are")
    parser.add_argument("guides", nargs="*", type=pathlib.Path, help="README.md and docs/*.md unless said")
    asked = parser.parse_args()
    for name in ["cogward", "cogward-verify"]:
        if not (asked.bin_dir / name).is_file():
            raise SystemExit(f"{asked.bin_dir / name} is not there: build it first")
    for tool in ["bash", "curl", "node", "jq", "openssl", "basenc"]:
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: the guides use it")
    guides = [g.resolve() for g in asked.guides] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    checked, wrong = 0, 0
    for guide in guides:
        commands = commands_of(guide)
        if not commands:
            continue
        began = time.monotonic()
        fault = check(guide, commands, asked.bin_dir.resolve())
        checked += len(commands)
        if fault:
            wrong += 1
            print(f"FAILED {fault}", file=sys.stderr)
        else:
            print(f"guide {guide.relative_to(ROOT)}: {len(commands)} commands, {time.monotonic() - began:.1f} s")
    # Marks that are gone would otherwise pass for guides that are right.
    if checked == 0:
        raise SystemExit("no guide has a checked block")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
