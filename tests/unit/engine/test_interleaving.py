"""Blocks of edits that are open at the same time: in tasks, generators, threads and stacks, closing in any order."""

import asyncio
import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from contextvars import copy_context

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Ablate, HookedModel, Scale
from mlx_patch.errors import EditNotUsedError, KindError
from mlx_patch.testing import tiny_model

ZERO = Ablate("zero").at("mlp_out", layer=0)
DOUBLE = Scale(2.0).at("mlp_out", layer=1)
HALF = Scale(0.5).at("z", layer=2)


class Runs:
    """Runs of one model's own code, told apart by the edits that were in force."""

    def __init__(self, model, tokens):
        self.model, self.tokens = model, tokens
        known = {"plain": [], "zero": [ZERO], "double": [DOUBLE], "half": [HALF], "both": [ZERO, DOUBLE]}
        self.known = {name: model.run(tokens, edits) for name, edits in known.items()}
        self.classes = [type(module) for module in model.model.modules()]

    def now(self):
        """What is in force, by name."""
        logits = self.model.model(self.tokens)
        return next((name for name, known in self.known.items() if mx.array_equal(logits, known).item()), "mixed")

    def restored(self):
        """Whether the model is as it was."""
        return self.now() == "plain" and self.classes == [type(module) for module in self.model.model.modules()]


@pytest.fixture
def runs(tiny, tokens):
    runs = Runs(tiny(), tokens)
    yield runs
    assert runs.restored()


async def job(runs, edit, rounds):
    """What is in force in each round of a task that is suspended inside its block."""
    with runs.model.editing(edit):
        seen = []
        for _ in range(rounds):
            await asyncio.sleep(0)
            seen.append(runs.now())
    return seen, runs.now()


def test_each_task_has_its_own_edits(runs):
    async def main():
        return await asyncio.gather(job(runs, ZERO, 2), job(runs, DOUBLE, 4), job(runs, HALF, 3), unpatched())

    async def unpatched():
        await asyncio.sleep(0)
        return runs.now()

    zero, double, half, plain = asyncio.run(main())
    assert zero == (["zero"] * 2, "plain")
    assert double == (["double"] * 4, "plain")
    assert half == (["half"] * 3, "plain")
    assert plain == "plain"


def test_a_block_edits_what_it_awaits_and_no_task_it_starts(runs):
    async def now():
        await asyncio.sleep(0)
        return runs.now()

    async def main():
        with runs.model.editing(ZERO):
            return await now(), await asyncio.create_task(now()), await asyncio.to_thread(runs.now), await now()

    assert asyncio.run(main()) == ("zero", "plain", "plain", "zero")


def test_a_block_around_the_event_loop_holds_in_all_its_tasks(runs):
    async def both():
        return await asyncio.gather(job(runs, DOUBLE, 2), job(runs, DOUBLE, 1))

    with runs.model.editing(ZERO):
        assert asyncio.run(both()) == [(["both"] * 2, "zero"), (["both"], "zero")]


def test_a_cancelled_task_takes_its_edits_with_it(runs):
    async def waits():
        with runs.model.editing(ZERO):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        before = runs.now()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return before

    assert asyncio.run(main()) == "plain"


def pieces(runs, edit):
    """A generator that says what is in force inside its block."""
    with runs.model.editing(edit):
        for _ in range(3):
            yield runs.now()


def test_each_generator_has_its_own_edits_and_its_caller_none(runs):
    seen = []
    for a, b in zip(pieces(runs, ZERO), pieces(runs, DOUBLE), strict=True):
        seen.append((a, runs.now(), b, runs.now()))
    assert seen == [("zero", "plain", "double", "plain")] * 3


def test_a_generator_inside_a_block_is_edited_by_both(runs):
    generator = pieces(runs, DOUBLE)
    assert next(generator) == "double"
    with runs.model.editing(ZERO):
        assert next(generator) == "both"
        assert runs.now() == "zero"
    assert next(generator) == "double"
    generator.close()


def test_a_generator_that_is_dropped_takes_its_edits_with_it(runs):
    generator = pieces(runs, ZERO)
    next(generator)
    del generator
    assert runs.restored()


def test_an_async_generator_has_its_own_edits(runs):
    async def pieces_of(edit):
        with runs.model.editing(edit):
            for _ in range(2):
                await asyncio.sleep(0)
                yield runs.now()

    async def main():
        seen = []
        async for a in pieces_of(ZERO):
            async for b in pieces_of(DOUBLE):
                seen.append((a, b, runs.now()))
        return seen

    assert asyncio.run(main()) == [("zero", "double", "plain")] * 4


def test_blocks_of_an_exit_stack_close_in_any_order(runs):
    zero, double = ExitStack(), ExitStack()
    zero.enter_context(runs.model.editing(ZERO))
    double.enter_context(runs.model.editing(DOUBLE))
    assert runs.now() == "both"
    zero.close()
    assert runs.now() == "double"
    double.close()


def test_blocks_entered_for_a_caller_are_in_force_there(runs):
    @contextmanager
    def both():
        with runs.model.editing(ZERO), runs.model.editing(DOUBLE):
            yield

    class Both:
        def __enter__(self):
            self.stack = ExitStack()
            for edit in (ZERO, DOUBLE):
                self.stack.enter_context(runs.model.editing(edit))

        def __exit__(self, *exc):
            return self.stack.__exit__(*exc)

    with both():
        assert runs.now() == "both"
    with Both():
        assert runs.now() == "both"
    with ExitStack() as stack:
        assert any(stack.enter_context(runs.model.editing(edit)) is None for edit in (ZERO, DOUBLE)) is False
        assert runs.now() == "both"


def test_async_contexts_entered_for_a_task_are_its_own(runs):
    @asynccontextmanager
    async def zero():
        with runs.model.editing(ZERO):
            await asyncio.sleep(0)
            yield

    class Double:
        async def __aenter__(self):
            await asyncio.sleep(0)
            self.block = runs.model.editing(DOUBLE)
            self.block.__enter__()

        async def __aexit__(self, *exc):
            self.block.__exit__(*exc)

    async def first():
        async with zero(), AsyncExitStack() as stack:
            await asyncio.sleep(0)
            seen = [runs.now()]
            await stack.enter_async_context(Double())
            await asyncio.sleep(0)
            return [*seen, runs.now()]

    async def main():
        return await asyncio.gather(first(), job(runs, HALF, 4))

    assert asyncio.run(main()) == [["zero", "both"], (["half"] * 4, "plain")]


def test_a_block_may_be_closed_in_another_thread(runs):
    block = runs.model.editing(ZERO)
    block.__enter__()
    assert runs.now() == "zero"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(runs.now).result() == "plain"
        pool.submit(block.__exit__, None, None, None).result()


def test_a_thread_that_ends_in_a_block_leaves_no_edit(runs):
    """The next thread runs unpatched."""
    blocks = []

    def opens():
        blocks.append(runs.model.editing(ZERO))
        blocks[0].__enter__()
        runs.now()

    for target in (opens, lambda: blocks.append(runs.now())):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert blocks.pop() == "plain"
    blocks.pop().__exit__(None, None, None)


def test_a_copied_context_runs_inside_the_block(runs):
    with runs.model.editing(ZERO):
        assert copy_context().run(runs.now) == "zero"


def test_an_edit_and_a_generator_it_advances_do_not_mix(runs):
    """Neither sees the edits of the other."""
    generator = pieces(runs, DOUBLE)
    seen = []

    def advance(activation, site):
        seen.append((runs.now(), next(generator), runs.now()))

    with runs.model.editing(ZERO):
        runs.model.run_with_hooks(runs.tokens, [("blocks.1.hook_resid_pre", advance)])
        assert runs.now() == "zero"
    generator.close()
    assert seen == [("plain", "double", "plain")]


def test_streams_and_blocks_interleave(runs, word_tokenizer):
    model = HookedModel(runs.model.model, word_tokenizer)
    alone = {n: [r.token for r in model.stream(runs.tokens, [edit], 4)] for n, edit in enumerate((ZERO, DOUBLE))}
    streams = [model.stream(runs.tokens, [edit], 4) for edit in (ZERO, DOUBLE)]
    got = {0: [], 1: []}
    for a, b in zip(*streams, strict=True):
        got[0].append(a.token)
        got[1].append(b.token)
        assert runs.now() == "plain"
    assert got == alone


def test_a_block_is_entered_once(runs):
    block = runs.model.editing(ZERO)
    with block:
        assert runs.now() == "zero"
    with pytest.raises(KindError, match=r"`editing` must be entered once\. .*Write `with model\.editing"), block:
        pass
    with pytest.raises(KindError, match="`editing` must be entered before it is left"):
        runs.model.editing(ZERO).__exit__(None, None, None)


def test_a_block_is_a_decorator_too(runs):
    now = runs.model.editing(ZERO)(runs.now)
    assert (now(), now()) == ("zero", "zero")


def test_a_block_whose_edits_a_task_was_to_use_says_so(runs):
    async def main():
        with runs.model.editing(ZERO):
            await asyncio.create_task(asyncio.to_thread(runs.now))

    with pytest.raises(EditNotUsedError, match="must be computed in a run"):
        asyncio.run(main())


def test_a_model_inside_a_models_own_code_is_edited_in_its_pass(runs):
    """A module that calls another model, which is in a run of its own: no hook lies between the two."""
    inner = tiny_model("qwen2")
    wanted = HookedModel(inner).run(runs.tokens, [ZERO])
    got = []

    class Calls(type(runs.model.model.model.norm)):
        def __call__(self, x):
            got.append(HookedModel(inner).run(runs.tokens, [ZERO]))
            return super().__call__(x)

    norm = runs.model.model.model.norm
    norm.__class__, plain = Calls, type(norm)
    try:
        edited = runs.model.run(runs.tokens, [DOUBLE])
    finally:
        norm.__class__ = plain
    assert mx.array_equal(got[0], wanted)
    assert mx.array_equal(edited, runs.known["double"])


def test_a_tapped_model_has_its_own_signature(runs):
    raw = runs.model.model
    before = inspect.signature(raw.__call__)
    embedded = raw.model.embed_tokens(runs.tokens)
    with runs.model.editing(ZERO):
        assert inspect.signature(raw.__call__) == before
        logits = raw(cache=make_prompt_cache(raw), inputs=runs.tokens)
        assert mx.array_equal(logits, runs.known["zero"])
        assert mx.array_equal(raw(None, input_embeddings=embedded), runs.known["zero"])
        first = next(generate_step(runs.tokens[0], raw, max_tokens=1, input_embeddings=embedded[0]))[0]
    assert first == mx.argmax(runs.known["zero"][0, -1]).item()


def test_copies_made_inside_a_block_are_plain(runs):
    with runs.model.editing(ZERO):
        copies = [
            copy.deepcopy(runs.model.model),
            copy.deepcopy(runs.model).model,
            pickle.loads(pickle.dumps(runs.model)).model,
        ]
        assert runs.now() == "zero"
        for other in copies:
            assert type(other) is runs.classes[0]
            assert Runs(HookedModel(other), runs.tokens).known.keys() == runs.known.keys()
            assert mx.array_equal(other(runs.tokens), runs.known["plain"])
            assert HookedModel(other).verify().ok
