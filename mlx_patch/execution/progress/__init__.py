"""What has been measured so far: on disk, on screen, for other ranks."""

from mlx_patch.execution.progress._bar import PassProgress as PassProgress
from mlx_patch.execution.progress._bar import Progress as Progress
from mlx_patch.execution.progress._bar import ProgressChoice as ProgressChoice
from mlx_patch.execution.progress._checkpoint import Checkpoint as Checkpoint
from mlx_patch.execution.progress._checkpoint import checked_path as checked_path
from mlx_patch.execution.progress._checkpoint import refuse_unwritable as refuse_unwritable
from mlx_patch.execution.progress._identity import described as described
from mlx_patch.execution.progress._identity import sweep_identity as sweep_identity
from mlx_patch.execution.progress._numbers import Numbers as Numbers
from mlx_patch.execution.progress._numbers import merge as merge
from mlx_patch.execution.progress._numbers import no_numbers as no_numbers
from mlx_patch.execution.progress._numbers import packed as packed
from mlx_patch.execution.progress._numbers import take_fewest as take_fewest
