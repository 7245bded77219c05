"""Sources that interventions read: activations of another run, aligned ones, means, and their outliers."""

from mlx_patch.interventions.sources._aligned import Aligned as Aligned
from mlx_patch.interventions.sources._aligned import aligned as aligned
from mlx_patch.interventions.sources._aligned import covered as covered
from mlx_patch.interventions.sources._means import batch_mean as batch_mean
from mlx_patch.interventions.sources._means import deviation as deviation
from mlx_patch.interventions.sources._means import mean_over as mean_over
from mlx_patch.interventions.sources._means import overall_mean as overall_mean
from mlx_patch.interventions.sources._means import own_positions as own_positions
from mlx_patch.interventions.sources._means import positions_of as positions_of
from mlx_patch.interventions.sources._means import without_first as without_first
from mlx_patch.interventions.sources._outliers import Norms as Norms
from mlx_patch.interventions.sources._outliers import Notes as Notes
from mlx_patch.interventions.sources._outliers import norms_noted as norms_noted
from mlx_patch.interventions.sources._outliers import norms_of as norms_of
from mlx_patch.interventions.sources._outliers import note as note
from mlx_patch.interventions.sources._outliers import warn_of as warn_of
from mlx_patch.interventions.sources._outliers import warn_once as warn_once
from mlx_patch.interventions.sources._source import ActivationSource as ActivationSource
from mlx_patch.interventions.sources._source import Source as Source
from mlx_patch.interventions.sources._source import SourceLike as SourceLike
from mlx_patch.interventions.sources._source import as_source as as_source
from mlx_patch.interventions.sources._source import check_source as check_source
from mlx_patch.interventions.sources._source import describe as describe
from mlx_patch.interventions.sources._source import serves_every_row as serves_every_row
from mlx_patch.interventions.sources._source import source_rows as source_rows
from mlx_patch.interventions.sources._source import values_of as values_of
