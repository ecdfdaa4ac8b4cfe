"""What a step of a sweep's program launches and moves, and what comes between its bursts of steps."""

from typing import NamedTuple

from benchmarks.accelerators.hlo import Load, Module


class Counts(NamedTuple):
    """Of a program whose cells step side by side: a step of all lanes, and what comes between `steps` of them."""

    step: Load
    between: Load
    steps: int
    host_syncs: float


def of_bursts(text: str, steps: int) -> Counts:
    """Of lanes, refilled after so many steps: a loop in a loop."""
    module = Module(text)
    inner = {loop.name: _steps_in(module, loop.called("body")[0], steps) for loop in module.loops(module.entry)}
    outer = [loop for loop in module.loops(module.entry) if module.rounds(loop) is None]
    # First those in which steps are found, then whatever launches most.
    best = lambda loop: (inner[loop.name] is not None, module.load(loop.called("body")[0]))
    if not (found := max(outer, key=best, default=None)) or (step := inner[found.name]) is None:
        raise ValueError("No loop of this program holds bursts of steps.")
    once = module.load(found.called("body")[0]).plus(module.load(found.called("condition")[0]))
    return Counts(step, once.plus(step, -steps), steps, once.syncs + 1)


def of_one_kernel(text: str, steps: int) -> Counts | None:
    """Of lanes that a kernel lets travel to their end, if there is one: of so many steps each at least."""
    module = Module(text)
    kernels = module.kernels(module.entry)
    return Counts(Load().plus(kernels, 1 / steps), Load(), steps, 0) if kernels.launches else None


def _steps_in(module: Module, body: str, steps: int) -> Load | None:
    """One step of a burst, if a loop's body holds one."""
    bursts = [loop for loop in module.loops(body) if module.rounds(loop) == steps]
    return max((module.load(loop.called("body")[0]) for loop in bursts), default=None)


def of_loop(text: str) -> Counts:
    """Of cells that take equal steps: a round of the loop that launches most; how many, the program alone knows."""
    module = Module(text)
    loops = [(module.load(body), loop) for loop in module.loops(module.entry) for body in loop.called("body")]
    if not loops:
        raise ValueError("This program has no loop.")
    body, loop = max(loops, key=lambda found: found[0])
    unknown = module.rounds(loop) is None
    step = body.plus(module.load(loop.called("condition")[0])) if unknown else body
    return Counts(step, Load(), 1, step.syncs + unknown)


def of_whole(text: str) -> Counts:
    """Of a program without steps: all of it."""
    module = Module(text)
    whole = module.load(module.entry)
    return Counts(whole, Load(), 1, whole.syncs)
