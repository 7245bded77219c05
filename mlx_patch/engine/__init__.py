"""The engine: taps on a model's modules, and one forward pass with the taps in force."""

from mlx_patch.engine._attention import attend as attend
from mlx_patch.engine._attention import dequantized as dequantized
from mlx_patch.engine._box import Box as Box
from mlx_patch.engine._differentiable import differentiable as differentiable
from mlx_patch.engine._fitness import refuse_random as refuse_random
from mlx_patch.engine._fitting import refuse_misfit as refuse_misfit
from mlx_patch.engine._frame import Frame as Frame
from mlx_patch.engine._hook import Action as Action
from mlx_patch.engine._hook import ForwardPass as ForwardPass
from mlx_patch.engine._hook import Hook as Hook
from mlx_patch.engine._hook import Phase as Phase
from mlx_patch.engine._prompt_cache import Restored as Restored
from mlx_patch.engine._prompt_cache import cached_arrays as cached_arrays
from mlx_patch.engine._prompt_cache import note_offset as note_offset
from mlx_patch.engine._prompt_cache import offset_of as offset_of
from mlx_patch.engine._snapshot import RestoredPast as RestoredPast
from mlx_patch.engine._snapshot import Shared as Shared
from mlx_patch.engine._snapshot import Snapshot as Snapshot
from mlx_patch.engine._snapshot import can_truncate as can_truncate
from mlx_patch.engine._snapshot import keeps_all_keys as keeps_all_keys
from mlx_patch.engine._snapshot import repeated as repeated
from mlx_patch.engine._snapshot import snapshot as snapshot
from mlx_patch.engine._tapped_classes import plain_class as plain_class
