"""What the command printed and wrote, taken apart."""

import re
from itertools import takewhile


def table(out, first="optimizer"):
    """The rows of a printed table, as dicts; columns are two or more spaces apart."""
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == first)
    rows = takewhile(lambda line: len(line) == len(lines[start]), lines[start + 1 :])
    return [dict(zip(lines[start], row, strict=True)) for row in rows]


def without_times(runs):
    for one in runs:
        for history in one["histories"]:
            for epoch in history["epochs"]:
                del epoch["seconds"], epoch["parts"]
    return runs
