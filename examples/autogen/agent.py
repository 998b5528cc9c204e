"""An AutoGen agent with its tools from MCP. It reads only the run contract's variables."""

import asyncio
import json
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StreamableHttpServerParams


async def main() -> None:
    task = json.load(sys.stdin)
    model = OpenAIChatCompletionClient(
        model=os.environ["OPENAI_MODEL"],
        max_tokens=200,
        model_info=ModelInfo(
            vision=False, function_calling=True, json_output=False, structured_output=False, family=ModelFamily.UNKNOWN
        ),
    )
    async with McpWorkbench(StreamableHttpServerParams(url=os.environ["MCP_SERVER_URL"])) as files:
        agent = AssistantAgent(
            "claims_clerk", model, workbench=files, system_message="You decide small insurance claims.",
            max_tool_iterations=5,
        )
        result = await agent.run(task=f"Decide the claim in {task['claim']}")
    print(json.dumps({"decision": result.messages[-1].content}))
    await model.close()


asyncio.run(main())
