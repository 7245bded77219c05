"""Where long prompts are cut, to run piece after piece over a prompt cache."""

from mlx_patch.architectures import Layout
from mlx_patch.sweeps._cells import can_be_split
from mlx_patch.sweeps._reading import Reading


def cuts(layout: Layout, reading: Reading, start: int, length: int, piece: int) -> tuple[int, ...]:
    """The positions at which a run from `start` to the end is cut: every so many, and before the first that is read.

    None where the run is short, where a metric reads all positions, or where the prompt may not be split.
    """
    if reading.at is None or length - start <= piece or reading.first <= start or not can_be_split(layout):
        return ()
    return (*range(start + piece, reading.first, piece), reading.first)
