"""A LangGraph agent with its tools from MCP. Framework code; it reads only the run contract's variables."""

import asyncio
import json
import os
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI


async def main() -> None:
    task = json.load(sys.stdin)
    client = MultiServerMCPClient(
        {"files": {"transport": "streamable_http", "url": os.environ["MCP_SERVER_URL"]}}
    )
    tools = await client.get_tools()
    model = ChatOpenAI(model=os.environ["OPENAI_MODEL"], max_tokens=200)
    agent = create_agent(model, tools, system_prompt="You decide small insurance claims.")
    state = await agent.ainvoke({"messages": [("user", f"Decide the claim in {task['claim']}")]})
    print(json.dumps({"decision": state["messages"][-1].content}))


asyncio.run(main())
