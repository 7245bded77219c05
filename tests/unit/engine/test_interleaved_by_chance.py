"""Random interleavings of blocks, runs, streams, failures, threads and tasks on one model, by a seed that is printed.

Each sequence drives a few actors, one step at a time in a random order. After every step each actor must see its own
edits and those around it, and no others; at the end the model is as it was. `SEQUENCES=1000 SEED=...` runs more.
"""

import asyncio
import gc
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import mlx.core as mx

from mlx_patch import Ablate, HookedModel, Scale

SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
SEQUENCES = int(os.environ.get("SEQUENCES", "40"))
EDITS = {
    "a": Ablate("zero").at("mlp_out", layer=0),
    "b": Scale(2.0).at("mlp_out", layer=1),
    "c": Scale(0.5).at("z", layer=2),
}


class Planned(Exception):
    """Raised on purpose."""


class Watched:
    """A model whose runs are compared with those that the edits in force must give."""

    def __init__(self, model, tokens, word_tokenizer):
        self.model, self.tokens = HookedModel(model.model, word_tokenizer), tokens
        self.known = {}

    def check(self, names):
        """Run the model's own code: the edits of these names, in any order, and no others must be in force."""
        names = frozenset(names)
        logits = self.model.model(self.tokens)
        mx.eval(logits)
        if names not in self.known:
            self.known[names] = self.alone(names)
        assert mx.array_equal(logits, self.known[names]), f"not as {sorted(names)} alone"

    def alone(self, names):
        """The run in a thread of its own, where nothing else is in force."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.model.run, self.tokens, [EDITS[name] for name in sorted(names)]).result()


def steps(watched, chance, around, depth=0):
    """A generator of steps: it opens blocks, runs, fails and closes, suspended between any two."""
    name = chance.choice([name for name in EDITS if name not in around])
    mine = {*around, name}
    with suppress(Planned), watched.model.editing(EDITS[name]):
        watched.check(mine)
        yield
        for _ in range(chance.randrange(3)):
            kind = chance.randrange(5)
            if kind == 0 and depth == 0 and len(mine) < len(EDITS):
                yield from steps(watched, chance, mine, depth + 1)
            elif kind == 1:
                failing_run(watched)
            elif kind == 2:
                hooked_run(watched, mine)
            watched.check(mine)
            yield
        if chance.randrange(4) == 0:
            raise Planned
    watched.check(around)


def failing_run(watched):
    def fail(activation, site):
        raise Planned

    with suppress(Planned):
        watched.model.run_with_hooks(watched.tokens, [("blocks.1.hook_resid_post", fail)])


def hooked_run(watched, mine):
    """A run whose edit runs the model itself, which sees nothing around it."""

    def look(activation, site):
        watched.check(())
        with watched.model.editing(EDITS["a"]):
            watched.check("a")

    watched.model.run_with_hooks(watched.tokens, [("blocks.2.hook_resid_pre", look)])
    watched.check(mine)


def stacked(watched, chance, around):
    """Blocks of one owner that close in another order than they opened."""
    del around
    opened = {}
    for name in chance.sample([*EDITS], 2):
        opened[name] = ExitStack()
        opened[name].enter_context(watched.model.editing(EDITS[name]))
        watched.check(opened)
        yield
    for name in chance.sample([*opened], 2):
        opened.pop(name).close()
        watched.check(opened)
        yield


def streamed(watched, chance, around):
    """A stream with an edit, looked at between two responses."""
    stream = watched.model.stream(watched.tokens, [EDITS[chance.choice([*EDITS])]], max_tokens=chance.randrange(1, 4))
    for _ in stream:
        watched.check(around)
        yield
        if chance.randrange(4) == 0:
            stream.close()


def actor(watched, chance):
    return chance.choice((steps, steps, stacked, streamed))(watched, chance, ())


def by_turns(watched, chance):
    """Generators, one step of one of them at a time; some are dropped in the middle."""
    actors = [actor(watched, chance) for _ in range(chance.randrange(2, 5))]
    while actors:
        one = chance.choice(actors)
        if next(one, Planned) is Planned or chance.randrange(12) == 0:
            actors.remove(one)
        watched.check(())


def by_tasks(watched, chance):
    async def drive(steps):
        for _ in steps:
            await asyncio.sleep(0)

    async def main():
        tasks = [asyncio.create_task(drive(actor(watched, chance))) for _ in range(chance.randrange(2, 5))]
        if chance.randrange(3) == 0:
            await asyncio.sleep(0)
            tasks[0].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    asyncio.run(main())


def by_threads(watched, chance):
    def drive(seed):
        for _ in actor(watched, random.Random(seed)):
            pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(drive, [chance.random() for _ in range(3)]))


def test_no_interleaving_alters_a_model_or_mixes_edits(tiny, tokens, word_tokenizer):
    print(f"seed {SEED}, {SEQUENCES} sequences")
    watched = Watched(tiny(), tokens, word_tokenizer)
    classes = [type(module) for module in watched.model.model.modules()]
    for number in range(SEQUENCES):
        chance = random.Random(f"{SEED}/{number}")
        kind = chance.choice((by_turns, by_turns, by_tasks, by_tasks, by_threads))
        around = chance.randrange(4) == 0 and kind is not by_threads
        kind(watched, chance)
        if around:
            with watched.model.editing(EDITS["a"]):
                watched.check("a")
        watched.check(())
        if classes != [type(module) for module in watched.model.model.modules()]:
            gc.collect()  # a stack that was dropped with its generator, and never closed
        assert classes == [type(module) for module in watched.model.model.modules()], number
