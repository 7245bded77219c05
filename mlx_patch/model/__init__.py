"""`HookedModel`: an mlx_lm model whose activations can be read and edited."""

from mlx_patch.model._each import checked_count as checked_count
from mlx_patch.model._each import prompts_of as prompts_of
from mlx_patch.model._each import run_rows as run_rows
from mlx_patch.model._hooked import HookedModel as HookedModel
from mlx_patch.model._hooks import SiteChoice as SiteChoice
from mlx_patch.model._hooks import action_hooks as action_hooks
from mlx_patch.model._hooks import as_edits as as_edits
from mlx_patch.model._hooks import capture_hooks as capture_hooks
from mlx_patch.model._hooks import chosen_sites as chosen_sites
from mlx_patch.model._hooks import edit_hooks as edit_hooks
from mlx_patch.model._hooks import refuse_unused as refuse_unused
from mlx_patch.model._hooks import slice_hook as slice_hook
from mlx_patch.model._hooks import whole_prompt as whole_prompt
from mlx_patch.model._room import refuse_unlearned as refuse_unlearned
from mlx_patch.model._running import RunResult as RunResult
from mlx_patch.model._running import run as run
from mlx_patch.model._running import trace as trace
from mlx_patch.model._selector_resolver import SelectorResolver as SelectorResolver
from mlx_patch.model._twin import twin as twin
from mlx_patch.model._unembedding import Head as Head
from mlx_patch.model._unembedding import find_head as find_head
from mlx_patch.model._unembedding import ids_of_answers as ids_of_answers
from mlx_patch.model._unembedding import read_out as read_out
from mlx_patch.model._unembedding import refuse_read_out as refuse_read_out
from mlx_patch.model._unknown import learned_positions as learned_positions
from mlx_patch.model._wrapped import require_hooked as require_hooked
