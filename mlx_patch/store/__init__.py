"""`ActivationStore`: the activations of many prompts, in a folder."""

from mlx_patch.store._rows import Rows as Rows
from mlx_patch.store._store import ActivationStore as ActivationStore
