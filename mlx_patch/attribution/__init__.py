"""Attribution: what a sweep would return, from gradients, and how far to trust it."""

from mlx_patch.attribution._attribute import attribute as attribute
from mlx_patch.attribution._gradients import GradientRun as GradientRun
from mlx_patch.attribution._gradients import SiteGradient as SiteGradient
from mlx_patch.attribution._gradients import noting as noting
from mlx_patch.attribution._gradients import putting as putting
from mlx_patch.attribution._gradients import run_with_gradients as run_with_gradients
from mlx_patch.attribution._prompt_run import PromptRun as PromptRun
