"""`ViaAxis`: the receivers that a cell's edit is sent to."""

from typing import Any, final

from typing_extensions import override

from mlx_patch.errors import KindError, shown
from mlx_patch.interventions import Receiver
from mlx_patch.results import Coordinate
from mlx_patch.sweeps.axes._axis import SweepAxis, SweepScope
from mlx_patch.sweeps.axes._choices import is_group


@final
class ViaAxis(SweepAxis):
    """Receivers, and groups of them that receive together."""

    name = "via"
    keyword = "via"
    order = 7
    ordered = False
    label = "receiver"
    if_missing = 'Write [mp.Receiver("q", layer=11, head=3), mp.Receiver("logits")], say.'

    @override
    def where(self, choice: Any) -> dict[str, Any]:
        return {"via": _as_group(choice)}

    @override
    def parse_choice(self, value: Any) -> Any:
        if is_group(value):
            return tuple(map(_require_receiver, value))
        return _require_receiver(value)

    @override
    def coordinate(self, choice: Any) -> Coordinate:
        return " and ".join(map(str, _as_group(choice)))

    @override
    def fixed(self, scope: SweepScope) -> dict[str, Any]:
        del scope
        if self.choices is None:
            return {}
        receivers = [receiver for choice in self.choices for receiver in _as_group(choice)]
        return {"via": tuple(dict.fromkeys(receivers))}


def _as_group(choice: Any) -> tuple[Receiver, ...]:
    if isinstance(choice, tuple):
        return choice
    return (choice,)


def _require_receiver(value: Any) -> Receiver:
    if not isinstance(value, Receiver):
        raise KindError(f"`via` must hold Receivers. Got {shown(value)}. Write mp.Receiver('logits'), say.")
    return value
