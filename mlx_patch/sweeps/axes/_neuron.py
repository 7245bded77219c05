"""`NeuronAxis`: the neurons that cells act at."""

from typing import final

from mlx_patch.sweeps.axes._unit import UnitAxis


@final
class NeuronAxis(UnitAxis):
    """Entries of the last axis of a site."""

    name = "neuron"
    keyword = "neurons"
    order = 4
    counted = True
