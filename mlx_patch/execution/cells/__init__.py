"""What one patched run changes, and where its rows enter the model."""

from mlx_patch.execution.cells._cell import Cell as Cell
from mlx_patch.execution.cells._cell import block_of as block_of
from mlx_patch.execution.cells._cell import cell_of as cell_of
from mlx_patch.execution.cells._cell import goes_upwards as goes_upwards
from mlx_patch.execution.cells._cell import may_follow_the_norm as may_follow_the_norm
from mlx_patch.execution.cells._cell import places_of as places_of
from mlx_patch.execution.cells._dry_run import check_sources as check_sources
from mlx_patch.execution.cells._dry_run import refuse_misfits as refuse_misfits
from mlx_patch.execution.cells._entry import edits_before_entry as edits_before_entry
from mlx_patch.execution.cells._entry import stream_before as stream_before
from mlx_patch.execution.cells._entry import unpatched_site as unpatched_site
from mlx_patch.execution.cells._entry import unpatched_sites as unpatched_sites
from mlx_patch.execution.cells._known_run import KnownRun as KnownRun
from mlx_patch.execution.cells._shapes import Shapes as Shapes
from mlx_patch.execution.cells._standing import may_be_cut as may_be_cut
from mlx_patch.execution.cells._standing import since as since
from mlx_patch.execution.cells._standing import standing_in_rows as standing_in_rows
from mlx_patch.execution.cells._standing import with_standing as with_standing
from mlx_patch.execution.cells._together import EditsAtSite as EditsAtSite
from mlx_patch.execution.cells._together import Together as Together
from mlx_patch.execution.cells._together import edits_by_site as edits_by_site
from mlx_patch.execution.cells._together import never_picked as never_picked
from mlx_patch.execution.cells._together import take_picked as take_picked
from mlx_patch.execution.cells._together import together_at as together_at
