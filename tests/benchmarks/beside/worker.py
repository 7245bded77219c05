"""The half of a worker that all libraries share: it answers a line of JSON with a line of JSON, until there is none.

A request has `task` and `cells`: which of the task's cells to run, as lists of indices. An answer has the seconds on
the clock, those that the process kept a processor busy, the values in the order of the cells, and the peak of the
process's memory so far, in MiB.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Cells = Sequence[Sequence[int]]
Tasks = dict[str, Callable[[Cells], Sequence[float]]]


def serve(prepare: Callable[[dict[str, Any]], Tasks]) -> None:
    """Prepare the tasks of `sys.argv[1]`, say so, and run those that are named on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not come between the answers
    tasks = prepare(json.loads(sys.argv[1]))
    print(json.dumps({"tasks": list(tasks)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start, busy = time.perf_counter(), time.process_time()
        values = list(map(float, tasks[request["task"]](request["cells"])))
        taken = {"seconds": time.perf_counter() - start, "busy": time.process_time() - busy}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(json.dumps({**taken, "values": values, "peak": peak}), file=answers, flush=True)
