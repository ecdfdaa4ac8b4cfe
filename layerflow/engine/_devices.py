"""Several devices that pull work, each as soon as it is free."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from layerflow.engine._machine import Device

Job = TypeVar("Job")
Done = TypeVar("Done")


def pull(
    devices: list[Device],
    jobs: Iterable[Job],
    prepare: Callable[[Device], Any],
    work: Callable[[Device, Job], Done],
) -> Iterator[tuple[Job, Done]]:
    """Let every device pull jobs until none is left; each job with its result, as they come.

    One thread per device: a program that spans devices would wait, at every step of its loop, for all
    of them. Devices are prepared one after the other in the calling thread, while those that are
    ready work already: JAX was seen to crash when it wrote to its compile cache from other threads.

    Args:
        devices: What works.
        jobs: What there is to do.
        prepare: Called once for each device, before its first job.
        work: Does one job on one device.
    """
    waiting, results = deque(jobs), SimpleQueue()
    left = len(waiting)
    prepare(devices[0])
    if len(devices) == 1:
        yield from ((job, work(devices[0], job)) for job in waiting)
        return

    def serve(device: Device) -> None:
        for job in iter(lambda: waiting.popleft() if waiting else None, None):
            try:
                results.put((job, work(device, job), None))
            except BaseException as error:  # told where the results are read
                results.put((job, None, error))

    try:
        for number, device in enumerate(devices):
            if number > 0 and waiting:
                prepare(device)
            threading.Thread(target=serve, args=(device,), daemon=True).start()
        for _ in range(left):
            job, result, error = results.get()
            if error is not None:
                raise error
            yield job, result
    finally:
        waiting.clear()
