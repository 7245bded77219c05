"""Views read what numpy reads, and what they write is found again by reading."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_patch.architectures import ByHead, Fused, HeadsFirst, Interleaved, Times, Whole, attribute_at
from mlx_patch.errors import ArchitectureError


class Attention(nn.Module):
    """What views look up."""

    def __init__(self):
        super().__init__()
        self.n_heads, self.n_kv_heads = 4, 2


class Block(nn.Module):
    """A block of 4 query heads, 2 KV heads and a multiplier."""

    def __init__(self):
        super().__init__()
        self.attn, self.factor, self.list = Attention(), 0.3, [Attention()]


BLOCK = Block()
QKV = ("attn.n_heads", "attn.n_kv_heads", "attn.n_kv_heads")
D = 8
STREAM = (2, 5, 4 * D)


def raw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Each view, the shape of its raw array, and what numpy reads from one.
READS = [
    (Whole(), STREAM, lambda x: x),
    (ByHead("attn.n_heads"), STREAM, lambda x: np.stack([x[..., h * D : (h + 1) * D] for h in range(4)], axis=2)),
    (HeadsFirst(), (2, 4, 5, D), lambda x: np.transpose(x, (0, 2, 1, 3))),
    (Times("factor"), STREAM, lambda x: x * np.float32(0.3)),
]
for part, (first, count) in enumerate([(0, 4), (4, 2), (6, 2)]):
    READS.append(
        (
            Fused(QKV, part),
            (2, 5, 8 * D),
            lambda x, first=first, count=count: np.stack(
                [x[..., h * D : (h + 1) * D] for h in range(first, first + count)], axis=2
            ),
        )
    )
for part in range(3):
    READS.append(
        (
            Interleaved("attn.n_heads", part),
            (2, 5, 12 * D),
            lambda x, part=part: np.stack(
                [x[..., (3 * h + part) * D : (3 * h + part + 1) * D] for h in range(4)], axis=2
            ),
        )
    )
every_view = pytest.mark.parametrize(
    ("view", "shape", "oracle"), READS, ids=lambda value: repr(value).split(" at 0x")[0][:60]
)


@every_view
def test_a_view_reads_what_numpy_reads(view, shape, oracle):
    array = raw(*shape)
    assert (np.array(view.read(mx.array(array), BLOCK)) == oracle(array)).all()


@every_view
def test_what_is_written_is_read_again(view, shape, oracle):
    array = mx.array(raw(*shape))
    new = mx.array(raw(*view.read(array, BLOCK).shape)) + 1.0
    again = np.array(view.read(view.write(array, new, BLOCK), BLOCK))
    # a division and a product, each rounded once, where the view multiplies
    np.testing.assert_allclose(again, np.array(new), rtol=2 * np.finfo(np.float32).eps, atol=0)


@every_view
def test_what_was_read_and_is_written_changes_no_bit(view, shape, oracle):
    array = mx.array(raw(*shape))
    assert mx.array_equal(view.write(array, view.read(array, BLOCK), BLOCK), array).item()


@every_view
def test_one_number_changed_is_one_number_changed(view, shape, oracle):
    array = mx.array(raw(*shape))
    new = mx.array(view.read(array, BLOCK))
    new[1, 2, 1] = 7.0  # a head, or a coordinate of the stream
    changed = np.array(view.write(array, new, BLOCK)) != np.array(array)
    assert changed.sum() == new[1, 2, 1].size


@every_view
def test_a_view_is_a_value(view, shape, oracle):
    again = replace(view)
    assert again == view
    assert hash(again) == hash(view)


def test_times_divides_an_edit_by_its_factor():
    array = mx.array(raw(*STREAM))
    written = Times("factor").write(array, mx.full(STREAM, 6.0), BLOCK)
    np.testing.assert_allclose(np.array(written), 20.0, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@every_view
def test_half_types_stay_half(view, shape, oracle, dtype):
    array = mx.array(raw(*shape)).astype(dtype)
    seen = view.read(array, BLOCK)
    assert seen.dtype == view.write(array, seen, BLOCK).dtype == dtype


def test_heads_that_do_not_divide_a_projection_are_refused():
    with pytest.raises(ArchitectureError, match=r"heads that divides the projection's width, 30\. Got 4"):
        ByHead("attn.n_heads").read(mx.zeros((1, 2, 30)), BLOCK)


def test_a_dotted_path_goes_through_modules_and_lists():
    assert attribute_at(BLOCK, "attn.n_heads") == 4
    assert attribute_at(BLOCK, "list.0") is BLOCK.list[0]
    assert attribute_at(BLOCK, "") is BLOCK


@pytest.mark.parametrize("path", ["none", "attn.none", "list.4"])
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(ArchitectureError, match=f"looks for '{path}', which is not in Block of"):
        attribute_at(BLOCK, path)
