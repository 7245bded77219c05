"""What another process knows a value by: fingerprints, identities made of them, and how two identities differ."""

from mlx_patch.fingerprints._differences import Identity as Identity
from mlx_patch.fingerprints._differences import differences as differences
from mlx_patch.fingerprints._fingerprint import Fingerprints as Fingerprints
from mlx_patch.fingerprints._fingerprint import fingerprint as fingerprint
