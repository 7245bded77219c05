"""Interventions: frozen values that say what to do to an activation, and where."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.interventions import _steps
from mlx_patch.interventions._ablate import Ablate as Ablate
from mlx_patch.interventions._add import Add as Add
from mlx_patch.interventions._apply import Apply as Apply
from mlx_patch.interventions._base import Chain as Chain
from mlx_patch.interventions._base import Intervention as Intervention
from mlx_patch.interventions._clamp import Clamp as Clamp
from mlx_patch.interventions._edit import Edit as Edit
from mlx_patch.interventions._edit import PositionChoice as PositionChoice
from mlx_patch.interventions._edit import Transformation as Transformation
from mlx_patch.interventions._edit import as_positions as as_positions
from mlx_patch.interventions._edit import refuse_steps as refuse_steps
from mlx_patch.interventions._edits import Edits as Edits
from mlx_patch.interventions._elementwise import Elementwise as Elementwise
from mlx_patch.interventions._hook_point import call_hook as call_hook
from mlx_patch.interventions._interpolate import Interpolate as Interpolate
from mlx_patch.interventions._knockout import Knockout as Knockout
from mlx_patch.interventions._masked import BY_KEY as BY_KEY
from mlx_patch.interventions._moment import Moment as Moment
from mlx_patch.interventions._of_rows import PromptEdits as PromptEdits
from mlx_patch.interventions._of_rows import RowEdits as RowEdits
from mlx_patch.interventions._of_rows import prompt_edits as prompt_edits
from mlx_patch.interventions._of_rows import row_edits as row_edits
from mlx_patch.interventions._replace import Replace as Replace
from mlx_patch.interventions._scale import Scale as Scale
from mlx_patch.interventions._span import Span as Span
from mlx_patch.interventions._steps import Steps as Steps
from mlx_patch.interventions._where import ActivationChange as ActivationChange
from mlx_patch.interventions._where import Pick as Pick
from mlx_patch.interventions._where import Where as Where
from mlx_patch.interventions._where import axis_of as axis_of
from mlx_patch.interventions._where import index_of as index_of
from mlx_patch.interventions._where import pos_axis as pos_axis
from mlx_patch.interventions.receivers import CellEdit as CellEdit
from mlx_patch.interventions.receivers import Path as Path
from mlx_patch.interventions.receivers import Receiver as Receiver
from mlx_patch.interventions.receivers import ReceiverKind as ReceiverKind
from mlx_patch.interventions.receivers import receivers_of as receivers_of
from mlx_patch.interventions.sources import ActivationSource as ActivationSource
from mlx_patch.interventions.sources import Aligned as Aligned
from mlx_patch.interventions.sources import Notes as Notes
from mlx_patch.interventions.sources import norms_noted as norms_noted
from mlx_patch.interventions.sources import warn_of as warn_of
from mlx_patch.interventions.subspaces import Project as Project
from mlx_patch.interventions.subspaces import Swap as Swap
from mlx_patch.interventions.subspaces import orthonormal as orthonormal

steps = _steps


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals(), modules=("steps",))
