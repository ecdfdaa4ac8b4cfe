"""Several devices that pull work, each as soon as it is free."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

import jax

Job = TypeVar("Job")
Done = TypeVar("Done")


def pull(
    devices: list[jax.Device], jobs: Iterable[Job], work: Callable[[jax.Device, Job], Done]
) -> Iterator[tuple[Job, Done]]:
    """Let every device pull jobs until none is left; each job with its result, as they come.

    One thread per device: a program that spans devices would wait, at every step of its loop, for all of them.
    """
    waiting = iter(jobs)
    if len(devices) == 1:
        yield from ((job, work(devices[0], job)) for job in waiting)
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        begin = lambda device, job: (pool.submit(work, device, job), (device, job))
        running = dict(begin(device, job) for device, job in zip(devices, waiting, strict=False))
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                device, job = running.pop(future)
                result = future.result()
                following = next(waiting, None)
                if following is not None:
                    running |= [begin(device, following)]
                yield job, result
