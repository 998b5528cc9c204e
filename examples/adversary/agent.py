"""An agent that tries what it was never given. Each attempt prints one line of JSON: what, and how it ended.

Standard library only. `make demo` and the enforcement tests run it; nothing here should ever say "reached".
"""

import json
import os
import socket
import sys
import urllib.error
import urllib.request


def say(attempt, outcome, detail):
    print(json.dumps({"attempt": attempt, "outcome": outcome, "detail": str(detail)[:400]}), flush=True)


def direct_connect():
    try:
        with socket.create_connection(("93.184.216.34", 443), timeout=3):
            say("direct connect to an undeclared host", "reached", "connected")
    except OSError as error:
        say("direct connect to an undeclared host", "refused", error)


def proxy_connect():
    try:
        proxy = os.environ["HTTPS_PROXY"].removeprefix("http://").rstrip("/")
        host, port = proxy.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(b"CONNECT exfiltrate.example:443 HTTP/1.1\r\nHost: exfiltrate.example:443\r\n\r\n")
            answer = stream.recv(4096).decode(errors="replace")
        status = int(answer.split(" ", 2)[1])
        body = answer.split("\r\n\r\n", 1)[-1]
        say("connect through the proxy to an undeclared host", "reached" if status == 200 else "refused", f"{status} {body}")
    except OSError as error:
        say("connect through the proxy to an undeclared host", "refused", error)


def host_secret(paths):
    for path in paths:
        try:
            with open(path, "rb") as secret:
                say("read a secret of the host", "reached", f"{path}: {len(secret.read())} bytes")
                return
        except OSError as error:
            last = error
    say("read a secret of the host", "refused", last)


def rpc(method, params, headers=None):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(os.environ["MCP_SERVER_URL"], body, {
        "content-type": "application/json", "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25", **(headers or {})})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            text = "".join(line[5:] for line in text.splitlines() if line.startswith("data:"))
        return json.loads(text), answer.headers.get("mcp-session-id")


def undeclared_tool():
    _, session = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                                    "clientInfo": {"name": "adversary", "version": "1"}})
    answer, _ = rpc("tools/call", {"name": "write_file", "arguments": {"path": "owned.txt", "content": "owned"}},
                    {"mcp-session-id": session})
    result = answer.get("result", {})
    text = " ".join(part.get("text", "") for part in result.get("content", []))
    say("call a tool that is not declared", "refused" if result.get("isError") else "reached", text or answer)


def overspend():
    last = "never refused"
    for _ in range(50):
        body = json.dumps({"model": os.environ["OPENAI_MODEL"], "max_tokens": 200,
                           "messages": [{"role": "user", "content": "spend " * 50}]}).encode()
        request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
                                         {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            last = json.load(error)["error"]["message"]
            say("spend more than the budget", "refused" if error.code == 402 else "unexpected", f"{error.code} {last}")
            return
    say("spend more than the budget", "reached", last)


def main():
    task = json.load(sys.stdin)
    direct_connect()
    proxy_connect()
    host_secret(task.get("secrets", []) + ["/etc/shadow", "/proc/1/environ"])
    undeclared_tool()
    overspend()
    print(json.dumps({"done": True}), flush=True)


main()
