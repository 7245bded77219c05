"""The tiny configurations: every module here has some, as `SPECIES`. One more module needs no word anywhere else."""

from mlx_patch._presence import import_modules
from mlx_patch.testing.zoo.species._common import Species as Species


def every_species() -> Species:
    """The configurations of all modules, in the order of the modules' names."""
    found: Species = {}
    for module in import_modules(__name__, __path__):
        found |= getattr(module, "SPECIES", {})
    return found
