"""Many Dask workers of one thread each in one process: slots of a large cluster, to sleep in.

`python -m experiments.benchmark.worker_slots ADDRESS COUNT` joins the scheduler at that address
with COUNT workers, and ends with it.
"""

import asyncio
import logging
import sys
import tempfile

import dask
import distributed

SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.system-monitor.interval": "10s",
}


async def join(address: str, count: int) -> None:
    """Run so many workers until the scheduler has gone."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(SETTINGS):
        workers = [
            distributed.Worker(
                address, nthreads=1, dashboard=False, memory_limit=0, local_directory=folder,
                death_timeout=60,
            )
            for _ in range(count)
        ]  # fmt: skip
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(join(sys.argv[1], int(sys.argv[2])))
