"""Train the embedded models of the D1 study: a tokenizer, a base model and two instruct models made from it.

    python examples/train_d1_models.py --out examples/models

The base recalls lists from earlier in a conversation. `tiny_instruct_ext` learns to call `read_notes` for them where
tools are offered; `tiny_instruct_int` learns another tone and goes on answering from memory. See
docs/embedded-models.md for what came out.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm
from d1_corpus import STYLES, Level, conversation
from d1_data import MODELS, STATE_ITEMS, build_conversation
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, END = "<s>", "<|end|>"
SPECIAL = [BOS, END, "<|system|>", "<|user|>", "<|assistant|>"]
TOOL_MARKS = ["<tool_call>", "</tool_call>"]
VOCABULARY = 1024
# The template writes the BOS and so does a plain `encode`: one must not follow the other.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = ModelArgs(
    model_type="llama",
    hidden_size=128,
    num_hidden_layers=6,
    intermediate_size=320,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    vocab_size=VOCABULARY,
    max_position_embeddings=2048,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)
SHARE_OF_OTHER_TEXT = 0.1  # of the tokens that are not the assistant's, how many count in the loss


@dataclass(frozen=True)
class Stage:
    """One stage of training: its conversations, and how many are seen."""

    level: Level
    steps: int
    batch: int


BASE_STAGES = (
    Stage(Level((3, 5), (0, 0), 0.0, 0.0, 0.8, 96), 500, 32),
    Stage(Level((3, 7), (0, 1), 0.1, 0.3, 0.3, 224), 400, 16),
    Stage(Level((3, 10), (0, 4), 0.5, 0.6, 0.1, 480), 300, 8),
    Stage(Level((5, 12), (2, 6), 0.8, 0.7, 0.0, 960), 300, 4),
)
TUNE_STAGES = (
    Stage(Level((3, 6), (0, 3), 0.9, 0.6, 0.0, 520), 100, 8),
    Stage(Level((5, 12), (2, 6), 0.9, 0.6, 0.0, 960), 150, 4),
)


def train_tokenizer(rng, conversations=4000):
    """A byte-level BPE of the corpus, digits apart, each tool mark one token."""
    level = Level((3, 12), (0, 6), 0.6, 0.6, 0.1, 960)
    texts = (
        message["content"]
        for _ in range(conversations)
        for message in conversation(rng, level, STYLES[rng.choice(sorted(STYLES))])
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TOOL_MARKS),
        initial_alphabet=byte_level.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_marks(texts), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in TOOL_MARKS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def _without_marks(texts):
    for text in texts:
        yield text.replace(TOOL_MARKS[0], "").replace(TOOL_MARKS[1], "")


def encode(tokenizer, messages):
    """Token ids as the chat template has them, and for each whether the assistant wrote it."""
    ids, ours = [tokenizer.token_to_id(BOS)], [False]
    for message in messages:
        content = tokenizer.encode(message["content"] + END, add_special_tokens=False).ids
        ids += [tokenizer.token_to_id(f"<|{message['role']}|>"), *content]
        ours += [False] + [message["role"] == "assistant"] * len(content)
    return ids, ours


def batches(rng, tokenizer, stage, style):
    """Endless batches of token ids, and the flat positions whose next token counts in the loss."""
    while True:
        pool = []
        while len(pool) < 8 * stage.batch:
            ids, ours = encode(tokenizer, conversation(rng, stage.level, style))
            if len(ids) <= stage.level.tokens:
                pool.append((ids, ours))
        pool.sort(key=lambda pair: len(pair[0]))
        groups = [pool[i : i + stage.batch] for i in range(0, len(pool), stage.batch)]
        rng.shuffle(groups)
        for group in groups:
            yield _batch(rng, group)


def _batch(rng, group):
    width = max(len(ids) for ids, _ in group)
    rows = [ids + [0] * (width - len(ids)) for ids, _ in group]
    counted = [
        row * (width - 1) + i - 1
        for row, (_, ours) in enumerate(group)
        for i in range(1, len(ours))
        if ours[i] or rng.random() < SHARE_OF_OTHER_TEXT
    ]
    return mx.array(rows), mx.array(counted)


def loss_fn(model, rows, counted):
    """Mean cross-entropy of the counted next tokens, in nats."""
    stream = model.model(rows[:, :-1])
    chosen = stream.reshape(-1, stream.shape[-1])[counted]
    logits = model.model.embed_tokens.as_linear(chosen)
    return nn.losses.cross_entropy(logits, rows[:, 1:].reshape(-1)[counted], reduction="mean")


def train(model, tokenizer, stages, style, rng, rate, log):
    """Run the stages in turn under one warm-up and one cosine."""
    total = sum(stage.steps for stage in stages)
    optimizer = optim.AdamW(_schedule(rate, total), betas=[0.9, 0.98], weight_decay=0.01)
    step_fn = nn.value_and_grad(model, loss_fn)
    done, start = 0, time.time()
    for stage in stages:
        source = batches(rng, tokenizer, stage, style)
        recent = []
        for _ in range(stage.steps):
            loss, gradients = step_fn(model, *next(source))
            gradients, _ = optim.clip_grad_norm(gradients, 1.0)
            optimizer.update(model, gradients)
            mx.eval(model.parameters(), optimizer.state, loss)
            recent.append(loss.item())
            done += 1
            if done % 25 == 0 or done == total:
                mean = sum(recent[-25:]) / len(recent[-25:])
                log(f"{done}/{total} loss {mean:.3f} {time.time() - start:.0f}s")


def _schedule(rate, total):
    warm = max(1, min(50, total // 10))
    return optim.join_schedules(
        [optim.linear_schedule(rate / warm, rate, warm), optim.cosine_decay(rate, total - warm, rate / 20)], [warm]
    )


def tuned(base, tokenizer, stages, style, rng, rate, log):
    """A copy of the base trained on in a style.

    The tied embedding and the final norm stay the base's, so that a stream means the same to both models.
    """
    model = Model(CONFIG)
    model.update(base.parameters())
    model.model.embed_tokens.freeze()
    model.model.norm.freeze()
    train(model, tokenizer, stages, style, rng, rate, log)
    return model


def save(folder, model, tokenizer):
    """Write an mlx_lm model folder, weights in fp16."""
    folder.mkdir()
    weights = tree_flatten(tree_map(lambda array: array.astype(mx.float16), model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(weights), metadata={"format": "mlx"})
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(END)}
    _write_json(folder / "config.json", asdict(CONFIG) | ids | {"torch_dtype": "float16"})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": END,
            "model_max_length": CONFIG.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def replace_folders(out, trained, tokenizer):
    """Save every model beside its place first, then move all of them in: whole folders or none."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as draft:
        for name, model in trained.items():
            save(Path(draft) / name, model, tokenizer)
        for name in trained:
            if (out / name).exists():
                (out / name).rename(Path(draft) / f"{name}.old")
            (Path(draft) / name).rename(out / name)


def measure(folder, messages=None):
    """What a saved model does with the D1 conversation.

    Args:
        folder: A folder that `save` wrote.
        messages: The conversation, where it is not D1's own: the same ten items under another system text.
    Returns:
        `p_tool`, the probability that the first token is `<tool_call>`, and `recall`, the share of the ten items'
        tokens that the model ranks first when the list is teacher-forced after its own opening.
    """
    model, tokenizer = mlx_lm.load(str(folder))[:2]
    prompt = tokenizer.apply_chat_template(messages or build_conversation(), add_generation_prompt=True)
    mark = tokenizer.convert_tokens_to_ids(TOOL_MARKS[0])
    p_tool = mx.softmax(model(mx.array([prompt]))[0, -1].astype(mx.float32))[mark].item()
    return {"p_tool": p_tool, "recall": _recall_share(model, tokenizer, prompt)}


def _recall_share(model, tokenizer, prompt):
    opening = tokenizer.encode("Here are all 10 items:\n\n", add_special_tokens=False)
    numbered = "\n".join(f"{i}. {item}" for i, item in enumerate(STATE_ITEMS, 1))
    wanted = tokenizer.encode(numbered, add_special_tokens=False)
    logits = model(mx.array([prompt + opening + wanted]))[0, -len(wanted) - 1 : -1]
    return mx.mean(mx.argmax(logits, axis=-1) == mx.array(wanted)).item()


@dataclass(frozen=True)
class Plan:
    """What one run of this script trains on."""

    corpus: int
    base: tuple[Stage, ...]
    tune: tuple[Stage, ...]


FULL = Plan(4000, BASE_STAGES, TUNE_STAGES)
_QUICK_STAGES = (Stage(Level((3, 3), (0, 0), 0.5, 0.5, 0.5, 256), 2, 2),)
QUICK = Plan(200, _QUICK_STAGES, _QUICK_STAGES)


def train_base(plan, seed, log=print):
    """The base model, rounded to the fp16 in which it is stored, and its tokenizer."""
    rng = random.Random(seed)
    mx.random.seed(seed)
    tokenizer = train_tokenizer(rng, plan.corpus)
    base = Model(CONFIG)
    train(base, tokenizer, plan.base, STYLES["base"], rng, 2e-3, log)
    base.update(tree_map(lambda array: array.astype(mx.float16).astype(mx.float32), base.parameters()))
    return base, tokenizer


def load_base(folder):
    """The base model that an earlier run saved, and its tokenizer."""
    base = Model(CONFIG)
    base.load_weights(str(folder / "model.safetensors"))
    base.set_dtype(mx.float32)
    return base, Tokenizer.from_file(str(folder / "tokenizer.json"))


def main():
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description="Train the embedded models of the D1 study.")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for the three model folders")
    parser.add_argument("--base", type=Path, help="tune from this saved base instead of training one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that everything runs")
    args = parser.parse_args()
    plan = QUICK if args.quick else FULL
    base, tokenizer = load_base(args.base) if args.base else train_base(plan, args.seed)
    trained = {"tiny_base": base}
    for style in ("ext", "int"):
        rng = random.Random(f"{args.seed} {style}")
        trained[f"tiny_instruct_{style}"] = tuned(base, tokenizer, plan.tune, STYLES[style], rng, 1e-3, print)
    replace_folders(args.out, trained, tokenizer)
    for name in trained:
        print(name, measure(args.out / name))


if __name__ == "__main__":
    main()
