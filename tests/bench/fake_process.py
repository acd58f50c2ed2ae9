"""`bench.upstream` with faults: `python -m tests.bench.fake_process PORT [--dies-after N] [--child]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys

from bench.upstream import Connection, Pace


class Mortal(Connection):
    """All connections together die at one request more than `dies_after`."""

    dies_after: int | None = None
    n_asked = 0

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /v1/"):
            Mortal.n_asked += 1
        if self.dies_after is not None and Mortal.n_asked > self.dies_after:
            print("out of memory", flush=True)
            os._exit(7)
        super().data_received(data)


async def serve(port: int) -> None:
    pace = Pace()
    server = await asyncio.get_running_loop().create_server(lambda: Mortal(pace), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--dies-after", type=int, metavar="REQUESTS")
    parser.add_argument("--child", action="store_true", help="has a process that SIGTERM does not end")
    given = parser.parse_args()
    if given.child:
        ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", ignoring])
    Mortal.dies_after = given.dies_after
    asyncio.run(serve(given.port))


if __name__ == "__main__":
    main()
