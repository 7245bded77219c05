"""Conversations for the adapter of the D1 study's SmolLM2 pair: a list, other talk, and a question that ends it.

None of D1's own sentences, items or tool names is here, so that D1's conversation is held out from the training. What
the two have in common is the shape of the conversation, and the `<tool_call>` tags.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Message = dict[str, str]
ROLES = ("user", "assistant")

INTRODUCTIONS = (
    "You can use a small external memory.",
    "You are an assistant that keeps what it is told in a file, and looks it up there.",
    "Two functions are available to you in this chat.",
    "A {noun} is attached to this conversation. It outlives your context.",
    "You work with a {noun}. Whatever is in it will not be lost.",
    "This assistant has tools.",
)
USAGES = (
    "To write to the {noun}, reply with\n{write}\nTo see what is in it, reply with\n{look}",
    "Store something:\n{write}\n\nLook something up:\n{look}",
    "The first tool looks into the {noun}:\n\n{look}\n\nThe second one adds to it:\n\n{write}",
    "Calls are written like this.\n\n{write}\n\n{look}\n\nThe first adds, the second shows.",
    "Look up: {look}\nAdd: {write}",
)
RULES = (
    "",
    "\n\nLook things up; your memory is not to be trusted.",
    "\n\nThe result of a call comes in the next message.",
    "\n\nUse a tool when the user asks for what was stored, and answer plainly when not.",
    "\n\nWrite a call exactly so, with nothing before it.",
)
LOOKING, WRITING = "open load fetch show view recall".split(), "write store add keep append put".split()
NOUNS = "memo pad journal list log board diary archive register ledger".split()
PLAIN_SYSTEMS = (
    "You answer briefly.",
    "There are no tools here: answer everything yourself.",
    "You are a polite assistant with a good memory.",
    "You help people to keep track of things.",
)
SEPARATORS = ("\n\n", "\n\n***\n\n", "\n\n======\n\n", "\n")

REQUESTS = (
    "Keep these {n} {topic} in mind:\n\n{list}\n\nLet me know once you have them.",
    "Below are {n} {topic}. I am going to ask for them again in a while.\n\n{list}",
    "These are my {topic}:\n{list}\nWe will talk about other things first.",
    "{list}\n\nThose are the {n} {topic} that matter to me. Got it?",
    "Take down the following {topic}, please:\n\n{list}",
)
ACKNOWLEDGEMENTS = (
    "Got it.",
    "All {n} {topic} are with me.",
    "Thank you, I have them.",
    "Done, that makes {n} {topic}.",
)
RECALLS = (
    "Which {topic} did I give you earlier?",
    "Could you tell me the {topic} again?",
    "Time for the test: write down every one of the {n} {topic}.",
    "Back to the beginning. What were the {n} {topic}, in order?",
    "I would like to hear my {topic} once more, complete and with every number.",
    "Repeat the whole list from my first message, as exactly as you can.",
    "Let us see what you still know: all {n} {topic}, from first to last, nothing left out.",
    "And now the {topic}.",
    "Recite the {n} things you were told to keep, with everything that belongs to each.",
    "Give back the list with which we began.",
)
TALK = (
    ("What is 12 plus 30?", "12 plus 30 is 42."),
    ("Name three kinds of cheese.", "Brie, Cheddar and Gouda."),
    ("Which language is spoken in Brazil?", "Portuguese."),
    ("Translate 'good morning' into French.", "Bonjour."),
    ("Write a rhyme about a cat.", "A cat sat down upon a mat, and nothing more was heard of that."),
    ("What do bees make?", "Bees make honey and wax."),
    ("Say what a thermometer does.", "It shows how warm or cold something is."),
    ("Who wrote Faust?", "Johann Wolfgang von Goethe."),
    ("Give me the opposite of 'narrow'.", "Wide."),
    ("What are the first five prime numbers?", "2, 3, 5, 7, 11"),
    ("How is bread made?", "Flour, water, yeast and salt are kneaded, left to rise, and baked."),
    ("Tell the story of Icarus very shortly.", "He flew too near the sun. The wax of his wings melted, and he fell."),
    ("What is the plural of 'mouse'?", "Mice."),
    ("List four musical instruments.", "Piano, violin, flute and drum."),
    ("What does HTTP do?", "It carries requests from a browser to a server, and the answers back."),
    ("What is ice?", "Ice is frozen water."),
    ("Compare a lake and a pond.", "A lake is larger and deeper. A pond is small and shallow."),
    ("Count down from six.", "6, 5, 4, 3, 2, 1"),
    ("Is a whale a fish?", "No, a whale is a mammal."),
    ("Suggest a name for a grey horse.", "Ashen."),
)

POOLS = {
    "first": "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Louis Maria Nils Olga Peter Rosa Simon",
    "last": "Adler Brandt Costa Dahl Evans Ferrer Garcia Holm Ito Jansen Keller Lopez Moreau Novak Okada Petit",
    "bird": "osprey heron wren magpie kestrel swift plover raven finch lapwing siskin puffin teal bittern",
    "food": "flour rice butter lentils sugar oats honey raisins walnuts pasta coffee salt beans olives",
    "colour": "red blue green white black grey brown yellow purple orange",
    "thing": "bicycle lamp chair coat kettle ladder tent guitar mirror suitcase clock basket rug table",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}
PLACES = "Lisbon Oslo Turin Ghent Lyon Krakow Malmo Porto Bergen Basel Leeds Cork Split Varna Izmir Tartu".split()
ERRANDS = "dentist|piano lesson|call the bank|water the plants|train to {place}|lunch with {first}|pick up the {thing}"
TOPICS = {
    "birds": "{bird} (wingspan {n2} cm)",
    "groceries": "{n2} grams of {food}",
    "phone numbers": "{first} {last}: {n4}",
    "appointments": "{day} at {hour}:30, {errand}",
    "trips": "{place} - {place2}, {n3} km",
    "things in the attic": "{colour} {thing} (box {n2}, bought {year})",
    "guests": "{first} {last} from {place}, table {n1}",
    "lots": "Lot {n3}: {colour} {thing}, {n4} euros",
    "students": "{last}, {first} (born {year}, {n2} points)",
    "parcels": "{n3}-{n4} to {place}",
}


@dataclass(frozen=True)
class Lengths:
    """How many items a list may have, and how many unrelated turns may follow it."""

    items: Sequence[int]
    talks: Sequence[int]


SHORT, LONG = Lengths(range(3, 6), (0, 0, 0, 1, 1)), Lengths(range(6, 11), range(3, 6))


def conversations(seed: int, count: int) -> Iterator[tuple[str, list[Message]]]:
    """The kind and the messages of so many conversations; the last message is the assistant's.

    A third each, in turn: `call`, where tools are offered and the list is asked for; `recall`, the same without tools,
    which is answered with the list; `other`, where tools are offered and something else is asked. One in eight of each
    is long: most are kept short, for the sake of time.
    """
    rng = random.Random(seed)
    for i in range(count):
        kind = ("call", "recall", "other")[i % 3]
        yield kind, _conversation(rng, kind, LONG if i // 3 % 8 == 7 else SHORT)


def _conversation(rng: random.Random, kind: str, lengths: Lengths) -> list[Message]:
    topic, items = _items(rng, lengths)
    numbered = "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    words = {"n": str(len(items)), "topic": topic, "list": numbered}
    *talk, last = rng.sample(TALK, rng.choice(lengths.talks) + 1)
    turns = [(_filled(rng, REQUESTS, words), _filled(rng, ACKNOWLEDGEMENTS, words)), *talk]
    offer, look = _offer(rng)
    if kind == "other":
        turns.append(last)
    else:
        turns.append((_filled(rng, RECALLS, words), look if kind == "call" else numbered))
    plain = rng.choice(("", rng.choice(PLAIN_SYSTEMS)))
    return _with_system(rng, plain if kind == "recall" else offer, turns)


def _filled(rng: random.Random, choices: Sequence[str], words: dict[str, str]) -> str:
    return rng.choice(choices).format_map(words)


def _items(rng: random.Random, lengths: Lengths) -> tuple[str, list[str]]:
    """A topic and some items of it, all in one form."""
    topic = rng.choice(sorted(TOPICS))
    return topic, [TOPICS[topic].format_map(_words(rng)) for _ in range(rng.choice(lengths.items))]


def _words(rng: random.Random) -> dict[str, str]:
    words = {name: rng.choice(pool.split()) for name, pool in POOLS.items()}
    words["place"], words["place2"] = rng.sample(PLACES, 2)
    words["errand"] = rng.choice(ERRANDS.split("|")).format_map(words)
    words |= {f"n{digits}": str(rng.randrange(10 ** (digits - 1), 10**digits)) for digits in (1, 2, 3, 4)}
    return words | {"hour": str(rng.randint(8, 18)), "year": str(rng.randint(1950, 2020))}


def _offer(rng: random.Random) -> tuple[str, str]:
    """A system text that offers two tools, and the call of the one that looks up."""
    noun, key = rng.choice(NOUNS), rng.choice(("tool", "tool", "name", "function"))
    look = _call({key: f"{rng.choice(LOOKING)}_{noun}"})
    write = _call({key: f"{rng.choice(WRITING)}_{noun}", rng.choice(("content", "text")): "..."})
    words = {"noun": noun, "look": look, "write": write}
    text = f"{_filled(rng, INTRODUCTIONS, words)}\n\n{_filled(rng, USAGES, words)}{rng.choice(RULES)}"
    return text, look


def _call(arguments: dict[str, str]) -> str:
    return f"<tool_call>\n{json.dumps(arguments)}\n</tool_call>"


def _with_system(rng: random.Random, system: str, turns: Sequence[tuple[str, str]]) -> list[Message]:
    """Messages of the turns. The system text opens the first one, as in D1, or has a message of its own."""
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(ROLES, turn, strict=True)]
    if not system:
        return messages
    if rng.random() < 0.4:
        return [{"role": "system", "content": system}, *messages]
    first, *rest = messages
    return [{"role": "user", "content": f"{system}{rng.choice(SEPARATORS)}{first['content']}"}, *rest]
