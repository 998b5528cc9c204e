"""A claims clerk: a plain loop around a model and the tools of an MCP server.

Standard library only, and nothing in it knows cogward: it reads the variables that the OpenAI and
MCP clients read, takes its task from standard input and prints its answer as the last line.
"""

import json
import os
import sys
import urllib.request


class Mcp:
    """The smallest MCP client over streamable HTTP (2025-11-25)."""

    def __init__(self, url):
        self.url, self.session, self.last = url, None, 0
        self.request("initialize", {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "claims-clerk", "version": "1"},
        })
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def post(self, message):
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream",
                   "mcp-protocol-version": "2025-11-25"}
        if self.session:
            headers["mcp-session-id"] = self.session
        request = urllib.request.Request(self.url, json.dumps(message).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            self.session = answer.headers.get("mcp-session-id") or self.session
            body = answer.read().decode()
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                body = "".join(line[5:] for line in body.splitlines() if line.startswith("data:"))
            return json.loads(body) if body.strip() else None

    def request(self, method, params):
        self.last += 1
        answer = self.post({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params})
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        return answer["result"]

    def tools(self):
        return self.request("tools/list", {})["tools"]

    def call(self, name, arguments):
        result = self.request("tools/call", {"name": name, "arguments": arguments})
        return "\n".join(part.get("text", "") for part in result["content"])


def complete(messages, tools):
    """One chat completion."""
    body = {"model": os.environ["OPENAI_MODEL"], "messages": messages, "max_tokens": 200,
            "tools": [{"type": "function", "function": {"name": t["name"], "description": t.get("description", ""),
                                                        "parameters": t["inputSchema"]}} for t in tools]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)["choices"][0]["message"]


def main():
    task = json.load(sys.stdin)
    mcp = Mcp(os.environ["MCP_SERVER_URL"])
    tools = mcp.tools()
    print("tools offered:", ", ".join(sorted(t["name"] for t in tools)), flush=True)
    messages = [{"role": "system", "content": open("prompts/clerk.md", encoding="utf-8").read()},
                {"role": "user", "content": f"Decide the claim in {task['claim']}"}]
    for _ in range(8):
        message = complete(messages, tools)
        messages.append(message)
        if not message.get("tool_calls"):
            print(json.dumps({"decision": message["content"]}), flush=True)
            return
        for call in message["tool_calls"]:
            function = call["function"]
            print("tool call:", function["name"], function["arguments"], flush=True)
            result = mcp.call(function["name"], json.loads(function["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    sys.exit("no decision after eight turns")


main()
