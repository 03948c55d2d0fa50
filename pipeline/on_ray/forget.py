"""Keeps the driver's memory flat over a long execution of Ray Data.

Ray 2.60 holds about 2 kB of statistics for every block that an operator put out, until the execution ends: with one
block a micro-batch that is gigabytes over millions of them. Nothing reads them before the end, and the report that Ray
would make of them is not shown; our own figures come from the rows.
"""

from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

KEPT = 256
EVERY = 256  # steps of the scheduler


class ForgetBlockStatistics(ExecutionCallback):
    """Called by Ray Data at every step of its scheduling loop; drops all but the last statistics now and then."""

    def __init__(self) -> None:
        self._steps = 0

    def on_execution_step(self, executor: Any) -> None:
        """`executor`: Ray's; its topology maps operators to their states."""
        self._steps += 1
        if self._steps % EVERY:
            return
        for operator in getattr(executor, "_topology", None) or ():
            kept = getattr(operator, "_output_blocks_stats", None)
            if isinstance(kept, list) and len(kept) > KEPT:
                del kept[:-KEPT]


def forget_block_statistics(context: DataContext) -> None:
    """Register the callback for executions under this context, once."""
    if ForgetBlockStatistics not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(ForgetBlockStatistics)
