"""`Features`: edit features of an activation, and keep all of it that the dictionary does not explain."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import mlx.core as mx
from typing_extensions import override

from mlx_patch.dictionaries._dictionary import Dictionary, checked_features
from mlx_patch.dictionaries._encoded import with_encoded
from mlx_patch.dictionaries._linear import combination
from mlx_patch.dictionaries._places import same_activation
from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, shown
from mlx_patch.interventions import Chain, Intervention, Knockout, Pick, Where
from mlx_patch.positions import Alignment
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Features(Intervention):
    """Encode, edit features, and add to the activation what the edit changes of its decoded value.

    What the dictionary does not explain of the activation stays as it is, and where the edit changes no feature, the
    activation stays bit for bit. Only the rows of edited features are read. Arithmetic is done in float32 and rounded
    once.

    Args:
        dictionary: The dictionary, of the site where the edit acts.
        intervention: What to do to the features. It is given their values, shape `(batch, pos, feature)`, in the order
            of `features`. The caches that it reads are encoded first: `Replace(cache)` puts in the features of another
            run. Arrays hold values of features.
        features: Which ones; None is all.
    Raises:
        KindError: It is no dictionary or no intervention, or one that means nothing for features; or the dictionary is
            a transcoder, whose features are not those of the activation that it writes.
        SelectionError: A feature that is not there; in runs: part of the heads or of the last axis was chosen.
        ValueRefusedError: The dictionary is large and `features` is None; in runs: it was made for another site.
        ShapeError: In runs: the activation has another width.
    Source:
        Cunningham et al. 2023, https://arxiv.org/abs/2309.08600; Marks et al. 2024, https://arxiv.org/abs/2403.19647,
        section 2, for the error that is kept.
    """

    dictionary: Dictionary
    intervention: Intervention
    features: tuple[int, ...] | None
    _rows: "_Rows" = field(compare=False)
    _inner: Intervention = field(compare=False)

    def __init__(
        self, dictionary: Dictionary, intervention: Intervention, features: int | Iterable[int] | None = None
    ) -> None:
        _refuse_dictionary(dictionary)
        _refuse_intervention(intervention)
        numbers: tuple[int, ...] | None = None
        if features is not None:
            numbers = checked_features(features, dictionary.n_features)
        elif dictionary.is_large:
            raise ValueRefusedError(
                f"`features` must be given for a dictionary that stays on disk. Got None, for {dictionary!r}. Choose "
                "some with `dictionary.top`."
            )
        object.__setattr__(self, "dictionary", dictionary)
        object.__setattr__(self, "intervention", intervention)
        object.__setattr__(self, "features", numbers)
        object.__setattr__(self, "_rows", _Rows.of(dictionary, numbers))
        object.__setattr__(self, "_inner", Chain((with_encoded(intervention, self._encode),)))  # which checks shapes

    @override
    def with_features(self, features: int | Iterable[int]) -> "Features":
        return Features(self.dictionary, self.intervention, features)

    @property
    @override
    def by_position(self) -> bool:
        return self.intervention.by_position

    @property
    @override
    def by_row(self) -> bool:
        return self.intervention.by_row

    @property
    @override
    def in_pieces(self) -> bool:
        return self.intervention.in_pieces

    @property
    @override
    def chosen_features(self) -> tuple[int, ...] | None:
        return self.features

    @override
    def with_strength(self, alpha: float) -> "Features":
        return Features(self.dictionary, self.intervention.with_strength(alpha), self.features)

    @property
    @override
    def draws(self) -> bool:
        return self.intervention.draws

    @override
    def with_seed(self, seed: int) -> "Features":
        return Features(self.dictionary, self.intervention.with_seed(seed), self.features)

    @property
    @override
    def covers(self) -> tuple[int, ...] | None:
        return self.intervention.covers

    @override
    def aligned(self, alignment: Alignment) -> "Features":
        return Features(self.dictionary, self.intervention.aligned(alignment), self.features)

    @override
    def check(self, sites: Iterable[Site]) -> None:
        sites = tuple(sites)
        for site in sites:
            _refuse_site(self.dictionary, site)
        self._inner.check(sites)

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        _refuse_part(where)
        flat = self.dictionary.flat(_by_position(own, where.site))
        values = self._rows.encode(flat)
        picks: tuple[Pick, ...] = (*where.picks[:2], None)
        inner_where = replace(where, whole=self._encode(_by_position(where.whole, where.site)), picks=picks)
        edited = self._inner(values, inner_where)
        change = combination(values - edited, self._rows.decoder) * self.dictionary.scale_of(flat)
        # The change is subtracted, with 0 added to it first, because -0 - 0 is -0, and -0 + 0 is not.
        return (flat - (change + 0.0)).reshape(own.shape)

    def _encode(self, activation: mx.array) -> mx.array:
        """The edited features of an activation of the site, with all its axes."""
        return self._rows.encode(self.dictionary.flat(_heads_together(activation)))

    @override
    def __repr__(self) -> str:
        if self.features is None:
            return f"Features({self.dictionary!r}, {self.intervention!r})"
        return f"Features({self.dictionary!r}, {self.intervention!r}, features={list(self.features)})"


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a dictionary that an edit needs, in memory.

    Attributes:
        dictionary: The dictionary.
        features: The edited features.
        encoder: Their rows of the encoder. Shape `(feature, d_model)`.
        decoder: Their rows of the decoder, in the units of features. Shape `(feature, d_model)`.
    """

    dictionary: Dictionary
    features: tuple[int, ...]
    encoder: mx.array
    decoder: mx.array

    @classmethod
    def of(cls, dictionary: Dictionary, features: tuple[int, ...] | None) -> "_Rows":
        """The rows of some features; None is all."""
        if features is None:
            features = tuple(range(dictionary.n_features))
        encoder, decoder = dictionary.encoder.rows(features), dictionary.decoder_rows(features)
        mx.eval(encoder, decoder)
        return cls(dictionary, features, encoder, decoder)

    def encode(self, flat: mx.array) -> mx.array:
        """The edited features of a flat activation."""
        return self.dictionary.encode_with(flat, self.encoder, self.features)


def _heads_together(activation: mx.array) -> mx.array:
    """An activation with its heads, if there are such, along one axis. Shape `(batch, pos, width)`."""
    return activation.reshape(*activation.shape[:2], -1)


def _by_position(activation: mx.array, site: Site) -> mx.array:
    """An activation of a site as `(batch, pos, width)`.

    Raises:
        SelectionError: The site has no vector for each position.
    """
    by_head = activation.ndim == 4 and not site.is_raw  # nobody knows which axis of a raw one has the heads
    if site.axes[-1:] == ("key_pos",) or not (activation.ndim == 3 or by_head):
        raise _not_by_position(site)
    return _heads_together(activation)


def _not_by_position(site: Site) -> SelectionError:
    return SelectionError(
        f"`site` must have a vector at each position to have features. Got {site}. Choose 'resid_post', say."
    )


def _refuse_dictionary(dictionary: object) -> None:
    if not isinstance(dictionary, Dictionary):
        raise KindError(
            f"`dictionary` must be a Dictionary. Got {type(dictionary).__name__}. Load one with "
            "mp.dictionaries.load(folder)."
        )
    if dictionary.is_transcoder:
        raise KindError(
            f"`dictionary` must be an autoencoder. Got {shown(dictionary)}: its features are of "
            f"{dictionary.hook or 'one'}, "
            "and an edit sees the activation that it edits, not that one. Encode a cache of its input, and add what a "
            "change writes: mp.Add(-values * dictionary.directions(feature)) at its output."
        )


def _refuse_intervention(intervention: object) -> None:
    steps: tuple[object, ...] = (intervention,)
    if isinstance(intervention, Chain):
        steps = intervention.steps
    for step in steps:
        if not isinstance(step, Intervention) or isinstance(step, Features | Knockout):
            raise KindError(
                f"`intervention` must be an Intervention of the values of features. Got {shown(step)}. Write "
                "mp.Features(dictionary, mp.Scale(0.0), features=[7]), say."
            )


def _refuse_site(dictionary: Dictionary, site: Site) -> None:
    """Refuse a site that has no features, or another than the dictionary was made for."""
    if site.axes[-1:] == ("key_pos",):
        raise _not_by_position(site)
    if dictionary.site is not None and not site.is_raw and not same_activation(dictionary.site, site):
        raise ValueRefusedError(
            f"`site` must be the one that the dictionary was made for, {dictionary.site}. Got {site}. If you mean it, "
            "use dictionary.at_any_site()."
        )


def _refuse_part(where: Where) -> None:
    """Refuse an edit of some heads or of some entries: features are of all of them."""
    if any(pick is not None for pick in where.picks[2:]):
        raise SelectionError(
            f"`head` and `neuron` must be None for Features, which are of the whole activation at {where.site}. Choose "
            "with `features`."
        )
