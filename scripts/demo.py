#!/usr/bin/env python3
"""The story of one governed agent on one screen, each line a real check of the real binary.

Called by `make demo`. Standard library only; ends with a non-zero status at the first line that does
not hold. KEEP=1 leaves the plane running.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def title(text):
    print("\n" + paint("1", text), flush=True)


def holds(text, detail=""):
    print(paint("32", "  ✓ ") + text + (paint("2", f"  {detail}") if detail else ""), flush=True)


def shows(text):
    for line in text.strip().splitlines():
        print(paint("2", "      " + line), flush=True)


class Failed(Exception):
    pass


def check(condition, what, evidence=""):
    if not condition:
        raise Failed(f"{what}\n{evidence}")


class Plane:
    def __init__(self, bin_dir, data):
        self.exe, self.verifier = bin_dir / "cogward", bin_dir / "cogward-verify"
        self.log = open(data.parent / "plane.log", "ab")
        self.process = subprocess.Popen([self.exe, "serve", "--data-dir", data, "--listen", "127.0.0.1:0"],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.token = self.url = None
        for line in self.process.stdout:
            if "cwo_" in line:
                self.token = line[line.index("cwo_"):].split()[0]
            if "http://127.0.0.1:" in line:
                self.url = line[line.index("http://127.0.0.1:"):].split()[0].rstrip("/")
                break
        check(self.url and self.token, "the plane did not come up", (data.parent / "plane.log").read_text()[-2000:])
        self.env = {**os.environ, "COGWARD_URL": self.url, "COGWARD_TOKEN": self.token, "NO_COLOR": "1"}

    def cli(self, *args):
        return subprocess.run([self.exe, *map(str, args)], env=self.env, capture_output=True, text=True, timeout=120)

    def ok(self, *args):
        done = self.cli(*args)
        check(done.returncode == 0, f"`cogward {' '.join(map(str, args))}` ended with {done.returncode}",
              done.stdout + done.stderr)
        return done.stdout

    def json(self, *args):
        return json.loads(self.ok(*args, "-o", "json"))

    def logs(self, run):
        return self.cli("run", "logs", run).stdout

    def wait_for(self, run, what, holds_for):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if holds_for():
                return
            time.sleep(0.05)
        raise Failed(f"{run}: waited in vain until {what}\n{self.logs(run)}")


def last_number(text):
    return max((int(line) for line in text.splitlines() if line.isdigit()), default=0)


def story(plane, work, node, server, python):
    title("1  The host can enforce what profile `standard` promises")
    report = plane.json("doctor")
    check(any(p.get("profile") == "standard" and p.get("enforceable") for p in report["profiles"]), "doctor", report)
    kernel = report.get("kernel", "")
    holds("doctor: profile standard is enforceable here", f"kernel {kernel}")
    holds("the plane is up on embedded defaults, and knows one operator and one tenant", plane.url)

    title("2  A real MCP server and a model provider, connected by the operator")
    claims = work / "claims"
    shutil.copytree(ROOT / "examples/quickstart/claims", claims)
    packages = next(path for path in pathlib.Path(server).parents if path.name == "node_modules")
    plane.ok("tool-server", "add", "files", "--approve-tools", "--reason", "demo", "--mount", packages, "--mount", claims,
             "--stdio", "--", node, server, claims)
    holds("tool server `files`", "@modelcontextprotocol/server-filesystem over stdio")
    plane.ok("provider", "add", "scripted", "--script", ROOT / "examples/quickstart/script.json",
             "--price", "demo-model=0.15,0.60", "--reason", "demo")
    holds("provider `scripted`", "deterministic, offline")

    title("3  Registration: nothing undeclared")
    wrong = work / "wrong"
    shutil.copytree(ROOT / "examples/quickstart", wrong)
    text = (wrong / "agent.yaml").read_text()
    (wrong / "agent.yaml").write_text(text.replace("tools: [files/read_text_file,", "tools: [files/write_file,"))
    refused = plane.cli("agent", "register", "-f", wrong / "agent.yaml")
    said = refused.stdout + refused.stderr
    check(refused.returncode != 0 and "write_file" in said, "an undeclared tool is refused", said)
    holds("an agent that expects a tool it does not declare is refused, by file, line, rule and fix")
    shows("\n".join(line for line in said.splitlines() if "write_file" in line or "fix" in line)[:600])
    registered = plane.json("agent", "register", "-f", ROOT / "examples/quickstart/agent.yaml")
    digest = json.dumps(registered).split("sha256:")[1][:12]
    holds("the clerk is registered", f"one digest over code, prompts, model, tools: sha256:{digest}…")
    for name in ("adversary", "steady"):
        plane.ok("agent", "register", "-f", ROOT / f"examples/{name}/agent.yaml")

    title("4  An unmodified Python agent does its work, under governance")
    task = work / "task.json"
    task.write_text(json.dumps({"claim": "claim-17.txt"}))
    run = plane.json("run", "start", "claims-clerk", "--as", "bo.lind@bank.example", "--input", task,
                     "--reason", "claim 17", "--wait")
    check(run["state"] == "succeeded", "the clerk succeeds", json.dumps(run, indent=1) + plane.logs(run["id"]))
    shows(plane.logs(run["id"]))
    usage = run["usage"]
    holds("the clerk read the claim by its tool, asked its model, and decided",
          f"{usage['tokens']} tokens, ${usage['cost_usd']}, {usage['tool_calls']} tool call")

    title("5  What was not declared cannot be done, and each refusal names its rule and the next step")
    secret = pathlib.Path(plane.data) / "state.db"
    task.write_text(json.dumps({"secrets": [str(secret), "/etc/ssh/ssh_host_ed25519_key"]}))
    attack = plane.json("run", "start", "adversary", "--input", task, "--reason", "demo", "--wait")
    attempts = [json.loads(line) for line in plane.logs(attack["id"]).splitlines() if line.startswith('{"attempt"')]
    check(len(attempts) == 5, "five attempts", plane.logs(attack["id"]))
    for attempt in attempts:
        check(attempt["outcome"] == "refused", attempt["attempt"], attempt)
        holds(attempt["attempt"] + ": refused")
        shows(attempt["detail"][:330])

    title("6  Stop is physical, and measured")
    steady = plane.json("run", "start", "steady", "--reason", "demo")["id"]
    plane.wait_for(steady, "it counts", lambda: last_number(plane.logs(steady)) > 5)
    plane.ok("run", "suspend", steady, "--reason", "look at it")
    before = last_number(plane.logs(steady))
    time.sleep(0.6)
    check(last_number(plane.logs(steady)) == before, "a suspended agent stands still")
    holds("suspended: the agent stands still", f"it had counted to {before}, and still has")
    plane.ok("run", "resume", steady, "--reason", "go on")
    plane.wait_for(steady, "it goes on", lambda: last_number(plane.logs(steady)) > before + 2)
    holds("resumed: it goes on", f"{last_number(plane.logs(steady))} by now")
    receipt = plane.json("run", "kill", steady, "--reason", "enough")
    shows(plane.ok("operation", "show", receipt["id"]) if "id" in receipt else json.dumps(receipt))
    check(plane.json("run", "show", steady)["state"] == "killed", "killed")
    holds("killed: fence closed, calls cut, last process dead; the receipt has the time of each step")

    title("7  Evidence that verifies without us")
    pack = work / "pack"
    plane.ok("evidence", "export", pack)
    ours = subprocess.run([plane.verifier, pack], capture_output=True, text=True)
    check(ours.returncode == 0, "cogward-verify", ours.stdout + ours.stderr)
    holds("cogward-verify: " + ours.stdout.strip().splitlines()[0])
    script = [python, ROOT / "scripts/verify.py", pack]
    theirs = subprocess.run(script, capture_output=True, text=True)
    check(theirs.returncode == 0, "verify.py", theirs.stdout + theirs.stderr)
    holds("verify.py, in another language: " + theirs.stdout.strip().splitlines()[0])
    entries = sorted(p for p in pack.rglob("*") if p.is_file() and "entries" in str(p))[0]
    data = bytearray(entries.read_bytes())
    data[len(data) // 2] ^= 1
    entries.write_bytes(data)
    for name, command in (("cogward-verify", [plane.verifier, pack]), ("verify.py", script)):
        done = subprocess.run(command, capture_output=True, text=True)
        check(done.returncode == 9, f"{name} finds the flipped byte", done.stdout + done.stderr)
        holds(f"one byte flipped: {name} names it")
        shows((done.stdout + done.stderr).strip().splitlines()[-1][:200])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", type=pathlib.Path, required=True)
    parser.add_argument("--python", default=sys.executable, help="a Python that has the `cryptography` package")
    options = parser.parse_args()
    node = shutil.which("node")
    server = ROOT / "tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
    if not node or not server.exists():
        sys.exit("the MCP server is missing: run `make demo`, which installs it")
    work = pathlib.Path(tempfile.mkdtemp(prefix="cogward-demo-"))
    plane, keep = None, os.environ.get("KEEP") == "1"
    started = time.monotonic()
    try:
        plane = Plane(options.bin_dir.resolve(), work / "data")
        plane.data = work / "data"
        story(plane, work, os.path.realpath(node), server, options.python)
        title(f"All of it held, in {time.monotonic() - started:.1f} s.")
        if keep:
            print(f"\nThe plane is still running (process {plane.process.pid}, data in {work}).\n"
                  f"  export COGWARD_URL={plane.url}\n  export COGWARD_TOKEN={plane.token}\n"
                  f"  {plane.exe} run list\nEnd it with: kill {plane.process.pid}")
    except Failed as failure:
        print(paint("31", "  ✗ ") + str(failure), file=sys.stderr)
        keep = False
        sys.exit(1)
    finally:
        if plane and not keep:
            plane.process.send_signal(signal.SIGTERM)
            plane.process.wait(timeout=30)
            shutil.rmtree(work, ignore_errors=True)


main()
