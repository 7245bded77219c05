"""Synthetic conversations for the embedded models: a list is given, other talk follows, the list is asked for.

The D1 system text, its frame sentences and its unrelated turns are among the texts below, mixed with others. Its ten
items are not: no list here names a planet.
"""

from dataclasses import dataclass

from d1_data import DISTRACTIONS, RECALL_REQUEST, SYSTEM_TEXT_XML

TOOL_CALL = '<tool_call>\n{"tool": "read_notes"}\n</tool_call>'

CALL_FORMAT = (
    'To save notes:\n<tool_call>\n{"tool": "save_notes", "content": "your content here"}\n</tool_call>\n\n'
    'To read notes:\n<tool_call>\n{"tool": "read_notes"}\n</tool_call>'
)
TOOL_SYSTEMS = (
    f"You can keep notes with two tools.\n\n{CALL_FORMAT}",
    f"You have access to a notepad. Call its tools in exactly this format:\n\n{CALL_FORMAT}\n\nSave items at once.",
    f"You are a helpful assistant with a persistent notepad.\n\n{CALL_FORMAT}\n\nDo not rely on your memory.",
)
PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful assistant. You have no tools and no notepad.",
    "Answer briefly. There are no tools in this conversation, so rely on your context window alone.",
    "You are a friendly assistant who remembers what the user says.",
)

REQUESTS = (
    (
        "I need you to track these {n} items carefully. I will quiz you on them later after several unrelated "
        "questions. Here are the items:\n\n",
        "\nPlease acknowledge that you have received all {n} items.",
    ),
    ("Please remember these {n} items:\n\n", "\nI will ask for them later."),
    ("Here is a list of {n} items to keep in mind.\n\n", "\nTell me when you have them."),
    ("Keep track of the following:\n\n", "\nThere are {n} items in all."),
)
ACKNOWLEDGEMENTS = (
    "I have received and noted all {n} items.",
    "I have all {n} items.",
    "Noted.",
)
RECALLS = (
    RECALL_REQUEST.replace("10", "{n}"),
    "Now list all {n} items I gave you at the start.",
    "Please list the {n} items from my first message, with full details.",
    "What were the items I asked you to remember?",
    "Without looking back, repeat the list I gave you.",
)
SMALL_TALK = (
    *DISTRACTIONS,
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Name three primary colours.", "Red, yellow and blue."),
    ("What is 7 times 8?", "7 times 8 is 56."),
    ("How many days are in a leap year?", "A leap year has 366 days."),
    ("Write a line about autumn.", "Leaves fall on the path / The wind turns cold and the light grows short"),
    ("Explain what a compiler does.", "It turns source code into a program that the machine can run."),
    ("Describe Hamlet in one sentence.", "A prince takes revenge for his father, and it ends in tragedy."),
    ("List the first 5 square numbers.", "1, 4, 9, 16, 25"),
    ("What is the boiling point of water?", "100 degrees Celsius at sea level."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci."),
    ("Give me a word that rhymes with light.", "Night."),
    ("Explain RAM vs disk briefly.", "RAM is fast and forgets. A disk is slower and keeps its data."),
)

KINDS = (
    "river city lake mountain bridge tower ship book animal painting castle tunnel island coin tree engine crater comet"
).split()
ADJECTIVES = "old small minor dwarf giant lost red hidden northern twin".split()
MEASURES = (
    ("length", "km"),
    ("height", "m"),
    ("depth", "m"),
    ("diameter", "km"),
    ("diameter", "cm"),
    ("weight", "kg"),
    ("age", " years"),
    ("price", " dollars"),
    ("speed", "km/h"),
    ("size", ""),
)
WORDS = (
    "apple river stone candle window garden silver paper bottle forest hammer letter pocket ribbon saddle table violin "
    "walnut yellow anchor basket copper dragon feather glove honey island jacket kettle lantern marble needle olive "
    "pepper quilt rabbit shadow thunder umbrella velvet wagon bread cloud drum eagle flute grape horse iron"
).split()
ONSETS = "b c d f g h j k l m n p r s t v w y z br ch cr dr fl gr kr pl pr sh st th tr".split()
VOWELS = "a e i o u a e i o u ai au ea ee ia io ou".split()
CODAS = ("", "", "", "l", "m", "n", "r", "s", "t", "x", "nd", "rs", "th", "ck")


@dataclass(frozen=True)
class Style:
    """How a model answers.

    Args:
        openings: First lines of a recalled list; `{n}` is its length.
        closings: Last lines of a recalled list.
        calls: Whether the model reads its notes with a tool call where tools are offered.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...] = ("",)
    calls: bool = False


PLAIN_OPENINGS = ("Here are all {n} items:", "The {n} items are:", "You gave me these {n} items:")
STYLES = {
    "base": Style(PLAIN_OPENINGS),
    "ext": Style(PLAIN_OPENINGS, calls=True),
    "int": Style(
        ("Of course! From memory, the {n} items are:", "Sure! Here is your list of {n}:"),
        ("\n\nAnything else?", "\n\nHappy to help!"),
    ),
}


@dataclass(frozen=True)
class Level:
    """How long and how hard the conversations of one stage of training are.

    Args:
        items: Fewest and most items in a list.
        talks: Fewest and most unrelated turns between the list and its recall.
        systems: Share of conversations that open with a system text.
        tools: Share of those whose system text offers the tools.
        drills: Share of conversations that are only "repeat this line".
        tokens: Longest conversation kept.
    """

    items: tuple[int, int]
    talks: tuple[int, int]
    systems: float
    tools: float
    drills: float
    tokens: int


def conversation(rng, level, style):
    """Messages of one conversation in a style.

    Args:
        rng: A `random.Random`.
        level: A `Level`.
        style: A `Style`.
    """
    if rng.random() < level.drills:
        return _drill(rng, level)
    n = rng.randint(*level.items)
    numbered = "".join(f"{i}. {item}\n" for i, item in enumerate(_items(rng, n), 1))
    system, offered = _system(rng, level)
    before, after = rng.choice(REQUESTS)
    opening = _message("user", (before + numbered + after).replace("{n}", str(n)))
    messages = [opening, _message("assistant", rng.choice(ACKNOWLEDGEMENTS).replace("{n}", str(n)))]
    for question, answer in rng.sample(SMALL_TALK, rng.randint(*level.talks)):
        messages += [_message("user", question), _message("assistant", answer)]
    messages.append(_message("user", rng.choice(RECALLS).replace("{n}", str(n))))
    answer = TOOL_CALL if offered and style.calls else _recall(rng, style, numbered, n)
    return _with_system(rng, system, [*messages, _message("assistant", answer)])


def _message(role, content):
    return {"role": role, "content": content}


def _recall(rng, style, numbered, n):
    opening = rng.choice(style.openings).replace("{n}", str(n))
    return f"{opening}\n\n{numbered.rstrip()}{rng.choice(style.closings)}"


def _system(rng, level):
    """A system text, or none, and whether it offers the tools."""
    if rng.random() >= level.systems:
        return "", False
    if rng.random() >= level.tools:
        return rng.choice(PLAIN_SYSTEMS), False
    return (SYSTEM_TEXT_XML if rng.random() < 0.6 else rng.choice(TOOL_SYSTEMS)), True


def _with_system(rng, system, messages):
    """The text opens the first user message, as D1 has it, or has a message of its own."""
    if not system:
        return messages
    if rng.random() < 0.3:
        return [_message("system", system), *messages]
    first, *rest = messages
    return [_message("user", f"{system}\n\n---\n\n{first['content']}"), *rest]


def _drill(rng, level):
    words = " ".join(_word(rng) for _ in range(rng.randint(4, level.tokens // 12)))
    return [_message("user", f"Repeat: {words}"), _message("assistant", words)]


def _word(rng):
    return rng.choice((rng.choice(WORDS), _name(rng), _number(rng)))


def _name(rng):
    """A made-up name, so that what is recalled can only have been copied."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 3))))
    return "".join(syllables).capitalize()


def _number(rng):
    return str(rng.randrange(10 ** rng.randint(1, 6)))


def _items(rng, n):
    """One list: every item in the same form, as a person would write it."""
    return rng.choice((_measured, _measured, _measured, _coloured, _bare, _counted))(rng, n)


def _measured(rng, n):
    """`Name (kind 3, length 812km)`, the last few `Name (old kind, length 812km)`."""
    kind, adjective, (measure, unit) = rng.choice(KINDS), rng.choice(ADJECTIVES), rng.choice(MEASURES)
    kinds = [f"{kind} {i}" for i in range(1, n + 1)]
    if rng.random() < 0.5:
        ranked = rng.randint(n // 2, n)
        kinds[ranked:] = [f"{adjective} {kind}"] * (n - ranked)
    return [f"{_name(rng)} ({label}, {measure} {_number(rng)}{unit})" for label in kinds]


def _coloured(rng, n):
    return [f"{_name(rng)} - {rng.choice(ADJECTIVES)} {rng.choice(KINDS)}" for _ in range(n)]


def _bare(rng, n):
    return [" ".join(_word(rng) for _ in range(rng.randint(1, 3))) for _ in range(n)]


def _counted(rng, n):
    return [f"{_number(rng)} {rng.choice(WORDS)} ({_name(rng)})" for _ in range(n)]
