"""Several devices that pull work, each as soon as it is free."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from layerflow.engine._machine import Device

Job = TypeVar("Job")
Done = TypeVar("Done")
Ask = Callable[[Callable[[], Any]], Any]  # have something done in the calling thread


def pull(
    devices: list[Device],
    jobs: Iterable[Job],
    prepare: Callable[[Device], Any],
    work: Callable[[Device, Job, Ask], Done],
) -> Iterator[tuple[Job, Done]]:
    """Let every device pull jobs until none is left; each job with its result, as they come.

    One thread per device: a program that spans devices would wait, at every step of its loop, for all
    of them. Devices are prepared one after the other in the calling thread, while those that are
    ready work already: JAX was seen to crash when it wrote to its compile cache from other threads. What else
    has to be compiled on the way, the work asks the calling thread for.

    Args:
        devices: What works.
        jobs: What there is to do; asked for one by one, when a device is free.
        prepare: Called once for each device, before its first job.
        work: Does one job on one device.
    """
    prepare(devices[0])
    if len(devices) == 1:
        yield from ((job, work(devices[0], job, lambda call: call())) for job in jobs)
        return
    todo, results = _Shared(jobs, 2 * len(devices)), SimpleQueue()

    def ask(call: Callable[[], Any]) -> Any:
        request = _Request(call)
        results.put(request)
        return request.answer.result()

    def serve(device: Device) -> None:
        try:
            for job in todo:
                results.put((job, work(device, job, ask)))
        except BaseException as error:  # told where the results are read
            results.put(error)
        results.put(None)

    try:
        serving = 0
        for number, device in enumerate(devices):
            if number > 0 and todo.ended:
                break
            if number > 0:
                prepare(device)
            threading.Thread(target=serve, args=(device,), daemon=True).start()
            serving += 1
        while serving:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, _Request):
                result.serve()
            elif result is None:
                serving -= 1
            else:
                yield result
                todo.room.release()
    finally:
        todo.end(len(devices))
        while not results.empty():
            if isinstance(left := results.get(), _Request):
                left.answer.cancel()


class _Request:
    """Something that a thread asks the calling one to do."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.answer = call, concurrent.futures.Future[Any]()

    def serve(self) -> None:
        """Do it; an error is raised where it was asked for."""
        try:
            self.answer.set_result(self.call())
        except Exception as error:
            self.answer.set_exception(error)


class _Shared(Iterator[Job]):
    """An iterator that several threads take from, as long as there is room for what comes of it.

    Without a bound, results of devices that are faster than whoever takes them would fill the memory.
    """

    def __init__(self, jobs: Iterable[Job], room: int) -> None:
        self.jobs, self.ended = iter(jobs), False
        self.turn, self.room = threading.Lock(), threading.Semaphore(room)

    def end(self, threads: int) -> None:
        """Hand out no more, and let go of threads that wait."""
        self.ended = True
        self.room.release(threads)

    def __next__(self) -> Job:
        self.room.acquire()
        with self.turn:
            if not self.ended:
                for job in self.jobs:
                    return job
            self.ended = True
            raise StopIteration
