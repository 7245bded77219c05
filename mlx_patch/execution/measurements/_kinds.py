"""Which measurement a metric needs."""

from collections.abc import Iterable

from mlx_patch.execution.measurements._measurement import Measurement
from mlx_patch.metrics import Metric


def measurements() -> list[Measurement]:
    """All kinds, in the order of their sweeps."""
    kinds = [kind() for kind in Measurement.__subclasses__()]
    return sorted(kinds, key=lambda kind: kind.order)


def measurement_of(metric: Metric) -> Measurement:
    """The kind of a metric."""
    return next(kind for kind in reversed(measurements()) if kind.serves(metric))


def metrics_by_measurement(metrics: Iterable[Metric]) -> list[tuple[Measurement, list[Metric]]]:
    """The kinds of some metrics, in the order of their sweeps, each with its metrics."""
    by_order: dict[int, tuple[Measurement, list[Metric]]] = {}
    for metric in metrics:
        kind = measurement_of(metric)
        _, kind_metrics = by_order.setdefault(kind.order, (kind, []))
        kind_metrics.append(metric)
    return [by_order[order] for order in sorted(by_order)]
