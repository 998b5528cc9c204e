"""A first agent. It reads its input, and would call models and tools through the variables that
their usual clients read by themselves: OPENAI_BASE_URL, ANTHROPIC_BASE_URL, MCP_SERVER_URL.

Its last line of output is its result; exit code 0 says that it ended well."""

import json
import sys

task = sys.stdin.read()
print(f"got {len(task)} characters", file=sys.stderr)
print(json.dumps({"done": True}))
