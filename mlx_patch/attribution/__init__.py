"""Attribution: what a sweep would return, from gradients, and how far to trust it."""

from mlx_patch.attribution._attribute import attribute as attribute
