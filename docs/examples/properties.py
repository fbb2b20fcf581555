"""Two properties for `pasidlab check --property`: functions that return True for what breaks them."""

from pasidlab.explore.action import Result, Step
from pasidlab.explore.state import State


def one_register(state: State) -> bool:
    """The living tasks of a process never have two different numbers in their registers."""
    return any(len({task.register for task in process.tasks if task.register}) > 1 for process in state.processes)


def fits_when_free(before: State, step: Step, after: State) -> bool:
    """A process is not refused for the width of its number while number 1, which every device carries, is nobody's."""
    held = any(process.number == 1 or any(on.bonds & 1 << 1 for on in process.on) for process in before.processes)
    return step.result is Result.EOVERFLOW and not held
