"""How another process recognises a value: fingerprints, identities built from them, and their differences."""

from mlx_patch.fingerprints._differences import Identity as Identity
from mlx_patch.fingerprints._differences import differences as differences
from mlx_patch.fingerprints._fingerprint import Fingerprints as Fingerprints
from mlx_patch.fingerprints._fingerprint import fingerprint as fingerprint
