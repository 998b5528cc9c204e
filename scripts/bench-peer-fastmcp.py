"""FastMCP's proxy as a peer for the bench `calls`: `BENCH_PEER="FastMCP|PYTHON scripts/bench-peer-fastmcp.py"`.

    bench-peer-fastmcp.py UPSTREAM

It serves what the upstream offers, over one client that stays connected, prints its address and ends with its standard
input. PYTHON is any that has `fastmcp` (PyPI) and, for its best, `uvloop`.
"""

import asyncio
import os
import socket
import sys
import threading

import fastmcp
import uvicorn


async def main(upstream):
    client = fastmcp.Client(upstream)
    async with client:
        make = getattr(fastmcp.server, "create_proxy", None) or fastmcp.FastMCP.as_proxy
        app = make(client).http_app(path="/mcp", json_response=True)
        listener = socket.create_server(("127.0.0.1", 0))
        print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).serve([listener])


# A bench that is gone has closed the pipe.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
asyncio.run(main(sys.argv[1]))
