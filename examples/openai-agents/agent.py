"""An agent on the OpenAI Agents SDK with its tools from MCP. It reads only the run contract's variables."""

import asyncio
import json
import os
import sys

from agents import Agent, ModelSettings, Runner
from agents.mcp import MCPServerStreamableHttp


async def main() -> None:
    task = json.load(sys.stdin)
    async with MCPServerStreamableHttp(params={"url": os.environ["MCP_SERVER_URL"]}, name="files") as files:
        agent = Agent(
            name="claims clerk",
            instructions="You decide small insurance claims.",
            model=os.environ["OPENAI_MODEL"],
            model_settings=ModelSettings(max_tokens=200),
            mcp_servers=[files],
        )
        result = await Runner.run(agent, f"Decide the claim in {task['claim']}")
    print(json.dumps({"decision": result.final_output}))


asyncio.run(main())
