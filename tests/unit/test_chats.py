"""Chats: mlx_lm's ids, and whose each position is, for the kinds of templates and tokenizers that models have."""

from functools import cache

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mlx_patch import HookedModel, chats, pos
from mlx_patch.errors import KindError, SelectionError, TokenError
from mlx_patch.tokens import tokenize

SPECIAL = """<s> </s> <bos> [gMASK] <sop> <|im_start|> <|im_end|> <|user|> <|assistant|> <|system|> <|observation|>
<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <start_of_turn> <end_of_turn> <|User|> <|Assistant|>
<|end|> <think> </think> [INST] [/INST] <|tool|>""".split()

EACH = "{%- for m in messages -%}"
GENERATE = "{%- if add_generation_prompt -%}"
END = "{%- endif -%}"

TEMPLATES = {
    "ChatML with a system message of its own": (
        "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        f"{END}{EACH}{{{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}}}{{%- endfor -%}}"
        f"{GENERATE}{{{{ '<|im_start|>assistant\n' }}}}{END}"
    ),
    "Qwen 3, which thinks": (
        f"{EACH}{{%- set text = m.content.split('</think>')[-1].lstrip('\n') -%}}"
        "{{ '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.last -%}"
        "{{ '<think>\n\n</think>\n\n' }}{%- endif -%}{{ text + '<|im_end|>\n' }}{%- endfor -%}"
        f"{GENERATE}{{{{ '<|im_start|>assistant\n' }}}}{{%- if enable_thinking is defined and not enable_thinking -%}}"
        f"{{{{ '<think>\n\n</think>\n\n' }}}}{END}{END}"
    ),
    "Llama 3, which strips and says the date": (
        "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' }}"
        "{%- if messages[0].role == 'system' -%}{{ messages[0].content|trim }}{%- set messages = messages[1:] -%}"
        f"{END}{{{{ '<|eot_id|>' }}}}{EACH}{{{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
        "m.content|trim + '<|eot_id|>' }}{%- endfor -%}"
        f"{GENERATE}{{{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}}}{END}"
    ),
    "Mistral, the system message in the last of the user's": (
        "{%- if messages[0].role == 'system' -%}{%- set sys = messages[0].content + '\n\n' -%}"
        f"{{%- set messages = messages[1:] -%}}{{%- else -%}}{{%- set sys = '' -%}}{END}{{{{ '<s>' }}}}{EACH}"
        "{%- if m.role == 'user' -%}{%- if (messages | length) - loop.index <= 1 -%}"
        "{{ '[INST] ' + sys + m.content + ' [/INST]' }}{%- else -%}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{%- endif -%}"
        f"{{%- else -%}}{{{{ ' ' + m.content + '</s>' }}}}{END}{{%- endfor -%}}"
    ),
    "Gemma, which has no system message": (
        "{{ '<bos>' }}{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}"
        f"{END}{EACH}{{{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content|trim + "
        f"'<end_of_turn>\n' }}}}{{%- endfor -%}}{GENERATE}{{{{ '<start_of_turn>model\n' }}}}{END}"
    ),
    "Gemma 3, the system message in the first of the user's": (
        "{{ '<bos>' }}{%- set first = '' -%}{%- if messages[0].role == 'system' -%}"
        f"{{%- set first = messages[0].content + '\n\n' -%}}{{%- set messages = messages[1:] -%}}{END}{EACH}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
        "(first if loop.first else '') + "
        f"m.content|trim + '<end_of_turn>\n' }}}}{{%- endfor -%}}{GENERATE}{{{{ '<start_of_turn>model\n' }}}}{END}"
    ),
    "GLM": (
        f"[gMASK]<sop>{EACH}{{{{ '<|' + m.role + '|>\n' + m.content }}}}{{%- endfor -%}}"
        f"{GENERATE}{{{{ '<|assistant|>' }}}}{END}"
    ),
    "DeepSeek R1": (
        "{{ '<s>' }}{%- for m in messages if m.role == 'system' -%}{{ m.content }}{%- endfor -%}"
        "{%- for m in messages if m.role != 'system' -%}{%- if m.role == 'user' -%}{{ '<|User|>' + m.content }}"
        "{%- else -%}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '</s>' }}{%- endif -%}{%- endfor -%}"
        f"{GENERATE}{{{{ '<|Assistant|><think>\n' }}}}{END}"
    ),
    "Zephyr and TinyLlama": (
        f"{EACH}{{{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}}}{{%- endfor -%}}"
        f"{GENERATE}{{{{ '<|assistant|>\n' }}}}{END}"
    ),
    "Vicuna, in plain text": (
        f"{EACH}{{{{ m.role|upper + ': ' + m.content + (' ' if m.role == 'user' else '</s>') }}}}{{%- endfor -%}}"
        f"{GENERATE}{{{{ 'ASSISTANT:' }}}}{END}"
    ),
    "Llama 2": (
        "{%- if messages[0].role == 'system' -%}{%- set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}"
        f"{{%- set messages = messages[1:] -%}}{{%- else -%}}{{%- set sys = '' -%}}{END}{EACH}"
        "{%- if m.role == 'user' -%}{{ '<s>[INST] ' + (sys if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        f"{{%- else -%}}{{{{ ' ' + m.content.strip() + ' </s>' }}}}{END}{{%- endfor -%}}"
    ),
    "a template that knows no generation prompt": (
        f"{EACH}{{{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}}}{{%- endfor -%}}"
    ),
}

SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = {
    "one question": [{"role": "user", "content": "Name a planet, say."}],
    "a conversation": [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello: what now"},
        {"role": "user", "content": "Zoë's 2nd list\nof names"},
    ],
    "with a system message": [SYSTEM, {"role": "user", "content": "Hi"}],
    "a conversation with a system message": [
        SYSTEM,
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Thanks a lot"},
    ],
    "paragraphs": [{"role": "user", "content": "First.\n\nSecond, and more."}],
    "spaces around": [{"role": "user", "content": "  two spaces  "}],
    "letters of the words that stand in": [{"role": "user", "content": "quiz of jazz"}],
    "an answer that ends it": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
}


def characters():
    """One token a character, and no decoder: `decode` puts a space between any two tokens."""
    letters = ["<unk>", *SPECIAL, "\n", *map(chr, range(32, 127)), "ë"]
    own = Tokenizer(models.WordLevel({token: n for n, token in enumerate(letters)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return own


TEXTS = [
    "Be brief. Hi there, say: what now? Hello.",
    "Name a planet. two spaces; thanks a lot",
    "USER: user system model",
]


def byte_level():
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        TEXTS * 9, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return own


def metaspace():
    """As SentencePiece does: a space before the first word, spaces that belong to words, bytes of what is unknown."""
    letters = sorted({c for text in TEXTS for c in text} | set("qxzjvkwpfdlcrs0123456789:;.,") - {" "})
    vocab = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "▁", *letters, "▁H", "▁Hi", "▁a", "▁l"]
    merges = [("▁", "H"), ("▁H", "i"), ("▁", "a"), ("▁", "l")]
    own = Tokenizer(
        models.BPE({piece: n for n, piece in enumerate(vocab)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return own


KINDS = {"characters": characters, "byte level": byte_level, "metaspace": metaspace}
ADDED = {"nothing": "$A", "a beginning": "<s> $A", "a beginning and an end": "<s> $A </s>", "GLM's": "[gMASK] <sop> $A"}


@cache
def made_once(kind):
    return KINDS[kind]().to_str()


def tokenizer_of(kind, template, added="a beginning"):
    own = Tokenizer.from_str(made_once(kind))
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    used = [(token, own.token_to_id(token)) for token in SPECIAL if token in ADDED[added]]
    own.post_processor = processors.TemplateProcessing(single=ADDED[added], special_tokens=used)
    bos = {"bos_token": "<s>"} if "<s>" in ADDED[added] else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>", unk_token="<unk>", **bos)
    fast.chat_template = template
    return TokenizerWrapper(fast)


def wanted(tokenizer, chat):
    """The positions of each message, by the tokenizer's own offsets in the rendered text."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    made = tokenizer._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    at, found = 0, []
    order = sorted(range(len(chat)), key=lambda n: text.index(chat[n]["content"].strip()))
    for number in order:
        content = chat[number]["content"] if chat[number]["content"] in text else chat[number]["content"].strip()
        begin = text.index(content, at)
        at = begin + len(content)
        own = tuple(
            i
            for i, (low, high) in enumerate(made["offset_mapping"])
            if low < at and high > begin and not added_space(tokenizer, made, i)
        )
        found.append((number, own))
    return made["input_ids"], dict(found)


def added_space(tokenizer, made, i):
    """Whether a token is the space that the tokenizer puts before a first word, which is in no text."""
    before, token = tokenizer.convert_ids_to_tokens(made["input_ids"][max(0, i - 1) : i + 1])[-2:]
    return token == "▁" and before in SPECIAL


def rendered_by(tokenizer, chat):
    try:
        return wanted(tokenizer, chat)
    except Exception:  # the template refuses the roles
        return None


def forget():
    chats._known.clear()


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_has_mlx_lms_ids(template, added):
    tokenizer = tokenizer_of("byte level", TEMPLATES[template], added)
    for chat in CHATS.values():
        if rendered_by(tokenizer, chat) is not None:
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
            assert tokenize(tokenizer, chat)[0].tolist() == ids
            assert tokenize(tokenizer._tokenizer, chat)[0].tolist() == ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_positions_of_a_chat_are_those_of_its_messages(template, kind):
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    for chat in CHATS.values():
        made = rendered_by(tokenizer, chat)
        if made is None:
            continue
        ids, positions = made
        assert tokenize(tokenizer, chat)[0].tolist() == ids
        for number in range(len(chat)):
            assert pos.turn(number).resolve(ids, tokenizer) == positions[number]
            assert pos.turn(number - len(chat)).resolve(chat, tokenizer) == positions[number]
        for role in {message["role"] for message in chat}:
            own = {p for number, m in enumerate(chat) if m["role"] == role for p in positions[number]}
            assert pos.role(role).resolve(ids, tokenizer) == tuple(sorted(own))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_of_tokens_alone_messages_are_the_same_or_refused(template, kind):
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    for name, chat in CHATS.items():
        made = rendered_by(tokenizer, chat)
        if made is None:
            continue
        ids, positions = made
        forget()
        if "system message in the" in template and (name == "paragraphs" or "system" in name):
            with pytest.raises(TokenError, match="must show the role of each part"):
                pos.turn(0).resolve(ids, tokenizer)
            continue
        assert {number: pos.turn(number).resolve(ids, tokenizer) for number in range(len(chat))} == positions
        with pytest.raises(SelectionError, match="`turn` must lie in"):
            pos.turn(len(chat)).resolve(ids, tokenizer)


def test_what_the_template_was_given_is_known_again():
    tokenizer = tokenizer_of("byte level", TEMPLATES["Qwen 3, which thinks"])
    chat = CHATS["a conversation"]
    _, positions = wanted(tokenizer, chat)
    for template in ({"enable_thinking": False}, {"add_generation_prompt": False}):
        ids = tokenize(tokenizer, chat, **template)
        assert ids.shape != tokenize(tokenizer, chat).shape
        assert pos.turn(-1).resolve(ids, tokenizer) == positions[2]


def test_a_chat_is_kept_as_it_was_encoded():
    tokenizer = tokenizer_of("byte level", TEMPLATES["GLM"])
    chat = [dict(message) for message in CHATS["a conversation"]]
    ids, positions = wanted(tokenizer, chat)
    assert tokenize(tokenizer, chat)[0].tolist() == ids
    chat[0]["content"] = "another"
    assert pos.turn(0).resolve(ids, tokenizer) == positions[0]


def test_chats_of_the_same_tokens_are_told_apart_or_refused():
    tokenizer = tokenizer_of("byte level", TEMPLATES["Gemma 3, the system message in the first of the user's"])
    whole = [{"role": "user", "content": "Be brief.\n\nHi"}]
    parted = CHATS["with a system message"]
    forget()
    _, positions = wanted(tokenizer, parted)
    assert pos.role("user").resolve(parted, tokenizer) == positions[1]
    forget()
    assert len(pos.role("user").resolve(whole, tokenizer)) > len(positions[1])
    with pytest.raises(TokenError, match=r"Got tokens that could be .*system \+ user.* Pass the messages instead of"):
        pos.role("user").resolve(tokenize(tokenizer, parted), tokenizer)


def test_few_chats_are_kept_and_no_tokenizer():
    tokenizer = tokenizer_of("characters", TEMPLATES["GLM"])
    forget()
    for n in range(chats._KEPT + 20):
        tokenize(tokenizer, [{"role": "user", "content": f"{n}"}])
    assert len(chats._known) == chats._KEPT
    ids = tokenize(tokenizer, CHATS["one question"])[0].tolist()
    assert len(chats.chats_of(tokenizer, ids)) == 1
    assert chats.chats_of(tokenizer_of("characters", TEMPLATES["GLM"]), ids) == ()


@pytest.mark.parametrize("name", ["tokenize", "return_dict", "add_special_tokens", "max_length"])
def test_keywords_that_say_how_to_encode_are_refused(name):
    tokenizer = tokenizer_of("characters", TEMPLATES["GLM"])
    with pytest.raises(
        KindError, match=f"`template` must hold variables of the chat template. Got '{name}'.*tokenize=F"
    ):
        tokenize(tokenizer, CHATS["one question"], **{name: True})


def test_a_text_goes_through_no_template():
    tokenizer = tokenizer_of("characters", TEMPLATES["GLM"])
    with pytest.raises(KindError, match=r"`template` must be left out for text.* Got enable_thinking\. Pass chat mess"):
        tokenize(tokenizer, "hi", enable_thinking=True)


def test_what_transformers_refuses_is_said_in_our_words():
    tokenizer = tokenizer_of("characters", TEMPLATES["GLM"])
    with pytest.raises(TokenError, match=r"messages that the tokenizer's chat template accepts.*not compatible"):
        tokenize(tokenizer, CHATS["one question"], continue_final_message=True)


class WithoutKeywords:
    """A tokenizer of one's own that knows no special tokens."""

    bos_token = None

    def encode(self, text):
        return [ord(letter) % 60 for letter in text]


@pytest.mark.parametrize("use", ["tokenize", "run", "generate", "selector", "metric"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WithoutKeywords, r"WithoutKeywords, whose encode\(text, add_special_tokens=\) raises"),
        (characters, r"Tokenizer, whose encode returns Encoding instead of ids\. If it is from the package tokenizers"),
        (object, r"Got builtins\.object, whose"),
    ],
)
def test_a_tokenizer_that_encodes_otherwise_is_refused(tiny, tokens, make, message, use):
    from mlx_patch.metrics import LogProb

    model = HookedModel(tiny("llama").model, make())
    uses = {
        "tokenize": lambda: model.tokenize("hi"),
        "run": lambda: model.run("hi"),
        "generate": lambda: model.generate("hi"),
        "selector": lambda: model.run(tokens, logits_at=pos.token("hi")),
        "metric": lambda: LogProb("hi").resolve(model.tokenizer),
    }
    with pytest.raises(KindError, match=f"`tokenizer` must be mlx_lm's or Hugging Face's.*{message}"):
        uses[use]()
