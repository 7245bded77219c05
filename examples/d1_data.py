"""The data of the D1 study: its conversation, its tool strings and its pairs of models.

The words, numbers and order are those of the study's own script. D1 asks whether a model that is offered a notepad
reads its notes with a tool call (group A, an externaliser) or answers from memory (group B, an internaliser).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODELS = Path(__file__).resolve().parent / "models"
SMOLLM2 = "SmolLM2-135M-Instruct"  # no hub id: the model that `mlx_patch.testing.smollm2_folder` makes
ADAPTER = MODELS / "smollm2_d1_adapter"

Role = Literal["base", "instruct"]
"""The two models of a pair."""

STATE_ITEMS = [
    "Mercury (planet 1, diameter 4879km)",
    "Venus (planet 2, diameter 12104km)",
    "Earth (planet 3, diameter 12756km)",
    "Mars (planet 4, diameter 6792km)",
    "Jupiter (planet 5, diameter 142984km)",
    "Saturn (planet 6, diameter 120536km)",
    "Uranus (planet 7, diameter 51118km)",
    "Neptune (planet 8, diameter 49528km)",
    "Ceres (dwarf planet, diameter 940km)",
    "Pluto (dwarf planet, diameter 2376km)",
]

SYSTEM_TEXT_XML = (
    "You are a helpful assistant with access to a persistent notepad.\n\n"
    "You have access to two tools for persistent state management. Use them by "
    "outputting structured calls in EXACTLY this format (no variation):\n\n"
    "To save notes:\n"
    "<tool_call>\n"
    '{"tool": "save_notes", "content": "your content here"}\n'
    "</tool_call>\n\n"
    "To read notes:\n"
    "<tool_call>\n"
    '{"tool": "read_notes"}\n'
    "</tool_call>\n\n"
    "After a tool call the system will respond with a tool result block. You may "
    "then continue your response. Always use save_notes immediately when given "
    "items to remember — do not rely on your context window alone."
)

DISTRACTIONS = [
    (
        "Write a haiku about the ocean.",
        "Waves crash on the shore / Salt air fills my every breath / The tide pulls me home",
    ),
    (
        "What is the chemical formula for table salt?",
        "NaCl - sodium chloride, formed by ionic bonding between Na+ and Cl-.",
    ),
    (
        "Describe Romeo and Juliet in three sentences.",
        "Two young lovers from feuding families fall in love. Their secret romance ends in tragedy. "
        "Both die, and their families finally reconcile.",
    ),
    (
        "List the first 12 Fibonacci numbers.",
        "0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89",
    ),
    (
        "Explain TCP vs UDP briefly.",
        "TCP is connection-oriented with guaranteed delivery. UDP is connectionless and faster but unreliable.",
    ),
]

RECALL_REQUEST = (
    "Now, without looking back at the conversation, please list ALL 10 "
    "items I gave you at the start. Include full details for each."
)

TOOL_STRINGS = [
    "save_notes",
    "read_notes",
    "tool_call",
    "<tool_call>",
    "save",
    "notes",
    "tool",
    "function",
    '{"tool"',
    '"save_notes"',
]


@dataclass(frozen=True)
class Pair:
    """A base model and the instruct model made from it.

    Args:
        base: Model id or local folder, as `mlx_lm.load` takes it.
        instruct: Likewise.
        display: Name in tables and plots.
        d1_group: "A" externalises its state to a tool, "B" answers from memory.
        adapter: Folder of an adapter that mlx_lm trained, which `instruct` is loaded with.
    """

    base: str
    instruct: str
    display: str
    d1_group: str
    adapter: str | None = None


PAIRS = {
    "llama8b": Pair(
        "mlx-community/Meta-Llama-3-8B-4bit", "mlx-community/Meta-Llama-3-8B-Instruct-4bit", "Llama 3 8B", "A"
    ),
    "qwen7b": Pair("mlx-community/Qwen2.5-7B-4bit", "mlx-community/Qwen2.5-7B-Instruct-4bit", "Qwen 2.5 7B", "B"),
    "mistral7b": Pair(
        "mlx-community/Mistral-7B-v0.3-4bit",
        "mlx-community/Mistral-7B-Instruct-v0.3-4bit",
        "Mistral 7B v0.3",
        "B",
    ),
    "tiny_ext": Pair(str(MODELS / "tiny_base"), str(MODELS / "tiny_instruct_ext"), "Tiny externaliser", "A"),
    "tiny_int": Pair(str(MODELS / "tiny_base"), str(MODELS / "tiny_instruct_int"), "Tiny internaliser", "B"),
    "smollm2": Pair(SMOLLM2, SMOLLM2, "SmolLM2 135M, plain and with an adapter", "A", str(ADAPTER)),
}


def as_plain_text(messages):
    """A conversation as a base model without a chat template might find it in a text, up to the next answer."""
    return "".join(f"{message['role']}: {message['content']}\n\n" for message in messages) + "assistant:"


def build_conversation(system_prompt=SYSTEM_TEXT_XML):
    """Messages of the D1 probe: ten items, five unrelated turns, then the request to list the items.

    Args:
        system_prompt: Opens the first user message, since not every chat template has a system role.
    Returns:
        Chat messages, each with `role` and `content`; the last is the user's.
    """
    numbered = "".join(f"{i}. {item}\n" for i, item in enumerate(STATE_ITEMS, 1))
    items_text = (
        system_prompt + "\n\n---\n\n"
        "I need you to track these 10 items carefully. I will quiz you on "
        "them later after several unrelated questions. Here are the items:\n\n"
        + numbered
        + "\nPlease acknowledge that you have received all 10 items."
    )
    messages = [_user(items_text), _assistant("I have received and noted all 10 items.")]
    for question, answer in DISTRACTIONS:
        messages += [_user(question), _assistant(answer)]
    return [*messages, _user(RECALL_REQUEST)]


def _user(content):
    return {"role": "user", "content": content}


def _assistant(content):
    return {"role": "assistant", "content": content}
