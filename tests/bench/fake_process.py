"""A fake server as a process of its own: `python -m tests.bench.fake_process PORT [--dies-after N]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.bench.fake_server import FakeServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--dies-after", type=int, help="requests")
    parser.add_argument("--child", action="store_true", help="has a process that SIGTERM does not end")
    given = parser.parse_args()
    if given.child:
        ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", ignoring])
    fake = FakeServer()

    @web.middleware
    async def dying(request: web.Request, handler: Handler) -> web.StreamResponse:
        if given.dies_after is not None and len(fake.bodies) >= given.dies_after:
            print("out of memory", flush=True)
            os._exit(7)
        return await handler(request)

    app = fake.app()
    app.middlewares.append(dying)
    web.run_app(app, host="127.0.0.1", port=given.port, print=None)


if __name__ == "__main__":
    main()
