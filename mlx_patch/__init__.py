"""Activation patching for mlx_lm models, on Apple's MLX.

`HookedModel` wraps a model of mlx_lm, an `Intervention` says what to do to an activation, a `Metric` says what changed.
"""

from typing import NoReturn as _NoReturn

from mlx_patch import circuits as circuits
from mlx_patch import cross as cross
from mlx_patch import dictionaries as dictionaries
from mlx_patch import errors as errors
from mlx_patch import interventions as interventions
from mlx_patch import lens as lens
from mlx_patch import metrics as metrics
from mlx_patch import paths as paths
from mlx_patch import recipes as recipes
from mlx_patch._presence import shown_names as _shown_names
from mlx_patch._version import __version__ as __version__
from mlx_patch.attribution import attribute as attribute
from mlx_patch.cache import ActivationCache as ActivationCache
from mlx_patch.cross import Compatibility as Compatibility
from mlx_patch.cross import LayerMap as LayerMap
from mlx_patch.cross import LinearMap as LinearMap
from mlx_patch.cross import TwoByTwo as TwoByTwo
from mlx_patch.cross import compatibility as compatibility
from mlx_patch.cross import cross_patch as cross_patch
from mlx_patch.cross import two_by_two as two_by_two
from mlx_patch.dictionaries import Features as Features
from mlx_patch.errors import PatchError as PatchError
from mlx_patch.files import written_whole as written_whole
from mlx_patch.idioms import MODULE_HINTS as _MODULE_HINTS
from mlx_patch.idioms import refuse_attribute as _refuse_attribute
from mlx_patch.interventions import Ablate as Ablate
from mlx_patch.interventions import Add as Add
from mlx_patch.interventions import Apply as Apply
from mlx_patch.interventions import Clamp as Clamp
from mlx_patch.interventions import Edit as Edit
from mlx_patch.interventions import Interpolate as Interpolate
from mlx_patch.interventions import Intervention as Intervention
from mlx_patch.interventions import Knockout as Knockout
from mlx_patch.interventions import Path as Path
from mlx_patch.interventions import Project as Project
from mlx_patch.interventions import Receiver as Receiver
from mlx_patch.interventions import Replace as Replace
from mlx_patch.interventions import Scale as Scale
from mlx_patch.interventions import Swap as Swap
from mlx_patch.interventions import orthonormal as orthonormal
from mlx_patch.interventions import steps as steps
from mlx_patch.metrics import metric as metric
from mlx_patch.model import HookedModel as HookedModel
from mlx_patch.pairs import PairReport as PairReport
from mlx_patch.pairs import PromptPair as PromptPair
from mlx_patch.pairs import PromptPairs as PromptPairs
from mlx_patch.pairs import tasks as tasks
from mlx_patch.positions import Alignment as Alignment
from mlx_patch.positions import align as align
from mlx_patch.positions import pos as pos
from mlx_patch.results import Estimate as Estimate
from mlx_patch.sites import SITES as SITES
from mlx_patch.sites import Site as Site
from mlx_patch.store import ActivationStore as ActivationStore
from mlx_patch.sweeps import SweepResult as SweepResult
from mlx_patch.sweeps import measure as measure
from mlx_patch.sweeps import plan as plan
from mlx_patch.sweeps import sweep as sweep
from mlx_patch.sweeps import sweep_pair as sweep_pair

_MODULES = frozenset(
    "circuits cross dictionaries errors interventions lens metrics paths pos recipes steps tasks".split()
)


def __getattr__(name: str) -> _NoReturn:
    """Names that there are not: what to write for those of other libraries."""
    _refuse_attribute("mlx_patch", name, _MODULE_HINTS, globals())


def __dir__() -> list[str]:
    """What `import mlx_patch as mp` is for; other modules of the library are imported by their full names."""
    return [*_shown_names(globals(), _MODULES), "__version__"]
