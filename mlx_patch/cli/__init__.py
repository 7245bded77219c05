"""The command line: `mlx_patch VERB`, which is `python -m mlx_patch VERB` too. One file a verb."""

from mlx_patch.cli._main import VERBS as VERBS
from mlx_patch.cli._main import main as main
