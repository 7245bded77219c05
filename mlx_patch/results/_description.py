"""What a file says of a result, checked before anything is made of it."""

from collections.abc import Mapping
from typing import Any

from mlx_patch.files import Malformed

_LABELS = (str, int, float)


def check_description(about: object) -> None:
    """Refuse a description whose values are not of the kinds that results write.

    Args:
        about: Axes, coordinates, provenance and plan, as JSON has them.
    Raises:
        Malformed: One is missing, or of another kind.
    """
    about = _mapping("it", about)
    axes = about.get("axes")
    if not isinstance(axes, list | tuple) or not all(isinstance(axis, str) for axis in axes):
        raise Malformed("its axes are no names")
    for name, labels in _mapping("its coordinates", about.get("coords")).items():
        if not isinstance(labels, list | tuple) or not all(map(_is_label, labels)):
            raise Malformed(f"its coordinates along {name[:40]!r} are no labels")
    metrics = _check_provenance(_mapping("its provenance", about.get("provenance")))
    if "metric" not in axes and len(metrics) > 1:
        raise Malformed("it has several metrics, but no axis of metrics")
    plan = about.get("plan")
    if plan is not None:
        _mapping("its plan", plan)


def _check_provenance(provenance: Mapping[str, Any]) -> list[str]:
    """The metrics that a provenance names.

    Raises:
        Malformed: What results read in it is of another kind.
    """
    for name in ("averaged", "normalised"):
        _mapping(f"its {name!r}", provenance.get(name, {}))
    selected = _mapping("its selection", provenance.get("selected", {}))
    if not all(map(_is_label, selected.values())) or not isinstance(selected.get("metric", ""), str):
        raise Malformed("its selection has no labels")
    metrics = provenance.get("metrics", {})
    if not isinstance(metrics, list | dict) or not all(isinstance(name, str) for name in metrics):
        raise Malformed("its metrics are no names")
    if selected.get("metric"):
        return [selected["metric"]]
    return list(metrics)


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed(f"{name} must map names to values")
    return value


def _is_label(label: object) -> bool:
    """Whether it is a label of one place: a text, a number, or numbers that are patched together."""
    if isinstance(label, list | tuple):
        return all(map(_is_label, label))
    return isinstance(label, _LABELS) and not isinstance(label, bool)
