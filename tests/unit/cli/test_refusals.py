"""Bad input is one line on stderr, nothing on stdout, and status 2; and it is said before anything is run."""

from pathlib import Path

import pytest

import mlx_patch as mp

TINY = str(Path(__file__).parents[3] / "examples" / "models" / "tiny_instruct_ext")
SWEEP = ("sweep", TINY, "--prompt", "Mars (planet 7, diameter", "--at", "z", "--metric", "entropy")
ZERO = ("--intervention", "zero")
SOURCED = ("--source", "Mars (planet 4, diameter")

REFUSED = [
    ((), "The following arguments are required: COMMAND. See `mlx_patch --help`."),
    (("swep",), "`mlx_patch` must be given a command. Got 'swep'. Did you mean sweep?"),
    (("sweep",), "The following arguments are required: model, --at. See `mlx_patch sweep --help`."),
    ((*SWEEP, "--layer", "3"), "must be given options that it has. Got --layer. Did you mean --layers"),
    ((*SWEEP, "more"), "must be given no further argument. Got 'more'."),
    ((*SWEEP, "--steps"), "Got --steps."),
    (("sites", "/no/such/model"), "`path_or_hub_id` must be an existing folder, or a hub id. Got '/no/such/model'."),
    (("sites", TINY, "--adapter-path", "/no/such"), "`adapter_path` must be a folder with adapter_config.json"),
    (SWEEP, "`--intervention` must be given where there is no --source."),
    ((*SWEEP, "--intervention", "zer"), "must be an intervention. Got 'zer'. Did you mean zero?"),
    ((*SWEEP, "--intervention", "replace"), "must have a source for this intervention. Got none. Add --source TEXT."),
    ((*SWEEP, "--intervention", "scale"), "must be an intervention. Got 'scale': "),
    ((*SWEEP, "--intervention", "scale=x"), "Got 'x'."),
    ((*SWEEP, "--intervention", "3"), "`--intervention` must be an intervention. Got '3'."),
    ((*SWEEP, "--intervention", "Ablate('zer')"), "`kind` must be one that `Ablate` knows. Got 'zer'."),
    ((*SWEEP, *ZERO, "--at", "resid_pst"), "Got 'resid_pst'. Did you mean resid_post"),
    ((*SWEEP, *ZERO, "--at", "router_logits"), "router_logits"),
    ((*SWEEP, *ZERO, "--over", "layr"), "`over` must hold axes of a sweep. Got 'layr'. Did you mean layer?"),
    ((*SWEEP, *ZERO, "--metric", "logit_dif('4', '7')"), "Did you mean logit_diff"),
    ((*SWEEP, *ZERO, "--metric", "3"), "`--metric` must be a metric. Got '3'."),
    ((*SWEEP, *ZERO, "--metric", "log_prob()"), "missing 1 required positional argument"),
    ((*SWEEP, *ZERO, "--metric", "entropy("), "`--metric` must be a metric. Got 'entropy('."),
    ((*SWEEP, *ZERO, "--metric", "kl('source')"), "`kl` must compare with 'prompt'"),
    ((*SWEEP, *ZERO, "--metric", "log_prob(' 6779 km')"), "must be one token"),
    ((*SWEEP, *ZERO, "--right", "4"), "`--metric` and `--right` exclude each other."),
    ((*SWEEP[:-2], *ZERO, "--wrong", "4"), "`--wrong` must be given with --right."),
    ((*SWEEP[:-2], *ZERO), "`--metric` must be given. Got none."),
    ((*SWEEP, *ZERO, "--layers", "7-3"), "`--layers` must be numbers. Got '7-3'."),
    ((*SWEEP, *ZERO, "--layers", "99"), "99"),
    ((*SWEEP, *ZERO, "--layers", "0-99999999999"), "`--layers` must be numbers."),
    ((*SWEEP, *ZERO, "--edit", "zero.at('z', layer=range(0, 3, 0))"), "arg 3 must not be zero"),
    ((*SWEEP, *ZERO, "--layers=-2-3"), "`--layers` must be numbers."),
    ((*SWEEP, *ZERO, "--layers", "2**9"), "`--layers` must be numbers. Got '2**9'."),
    ((*SWEEP, *ZERO, "--positions", "__import__('os')"), "must be positions. Got '__import__'."),
    ((*SWEEP, *ZERO, "--positions", "last.__class__"), "`--positions` must be positions."),
    ((*SWEEP, *ZERO, "--positions", "last.resolve"), "`--positions` must be positions."),
    ((*SWEEP, *ZERO, "--positions", "text('Venus')"), "Venus"),
    ((*SWEEP, *ZERO, "--positions", "text(*'ab')"), "`--positions` must be positions."),
    ((*SWEEP, *ZERO, "--edit", "zero"), "`--edit` must be an edit. Got 'zero'."),
    ((*SWEEP, *ZERO, "--edit", "zero.at('z', lay=3)"), "unexpected keyword argument 'lay'"),
    ((*SWEEP, *ZERO, "--prompt-file", "/no"), "`--prompt` and `--prompt-file` exclude each other."),
    ((*SWEEP, *SOURCED, "--source-file", "/no"), "`--source` and `--source-file` exclude each other."),
    ((*SWEEP, *SOURCED, *SOURCED), "`--source` must be given once, or once a prompt (1). Got 2."),
    ((*SWEEP, *SOURCED, "--pairs", "/no"), "`--pairs` must be without --prompt"),
    (
        (*SWEEP, "--prompt", "Mars", *SOURCED, "--source", "Mars", "--edit", "Replace(source).at('z', layer=1)"),
        "`--edit` must have no source where there are several, 2.",
    ),
    (("generate", TINY, "--prompt", "a", "--align"), "must be given options that it has. Got --align."),
    ((*SWEEP, *ZERO, "--noising"), "`--noising` must be given with --pairs."),
    ((*SWEEP, *ZERO, "--normalised"), "`--normalised` must have a source"),
    ((*SWEEP, *ZERO, "--align"), "`--align` must have a source."),
    ((*SWEEP, *SOURCED, *ZERO, "--align"), "takes nothing from another prompt"),
    ((*SWEEP, "--source", "Mars"), "`--source` must have as many tokens as its prompt"),
    ((*SWEEP[:2], "--at", "z", *ZERO, "--metric", "entropy"), "`--prompt` must be given. Got none."),
    ((*SWEEP, *ZERO, "--prompt", ""), "`--prompt` must not be empty."),
    ((*SWEEP, *ZERO, "--json", "/no/such/a.json"), "`--json` must be in a folder that can be written to."),
    ((*SWEEP, *ZERO, "--html", "/"), "`--html` must be a file's name."),
    ((*SWEEP, *ZERO, "--save", "a.json"), "`--save` must end in '.npz'."),
    ((*SWEEP, *ZERO, "--executor", "grw"), "grw"),
    (("attribute", *SWEEP[1:], *ZERO, "--method", "gradent"), "`method` must be a way to estimate. Got 'gradent'."),
    (("attribute", *SWEEP[1:], *ZERO, "--confirm", "x"), "invalid int value: 'x'"),
    (("paths", *SWEEP[1:], *ZERO, "--via", "qq.1"), "`receiver` must be a receiver. Got 'qq'. Did you mean q?"),
    (("paths", *SWEEP[1:], *ZERO, "--via", "q-1"), "`--via` must be a receiver. Got 'q-1'."),
    (("lens", TINY, "--prompt", "a", "--prompt", "b"), "`--prompt` must be one for this command. Got 2."),
    (("lens", TINY, "--prompt", "a", "--wrong", "b"), "`--wrong` must be given with --by."),
    (("lens", TINY, "--prompt", "a", "--by", "head"), "`--by` must be given with --right."),
    (("lens", TINY, "--prompt", "a", "--by", "head", "--right", "7", "--at", "z"), "`--at` must be left out with --by"),
    (("lens", TINY, "--prompt", "a", "--by", "hed", "--right", "7"), "Got 'hed'."),
    (("lens", TINY, "--prompt", "a", "--by", "head", "--right", "7", "--plot", "a.png"), "`--plot` must be left out"),
    (("lens", TINY, "--prompt", "a", "--by", "head", "--right", "7", "--positions", "0-1"), "must be one number"),
    (
        ("lens", TINY, "--prompt", "a b", "--positions", "0,last"),
        "`--positions` must be all numbers, or all selectors.",
    ),
    (("lens", TINY, "--prompt", "a", "--at", "mlp_out"), "`sites` must be of the stream"),
    (("generate", TINY, "--prompt", "a", "--max-tokens", "0"), "max_tokens"),
    (("generate", TINY, "--prompt", "a", "--edit", "Replace(source).at('z', layer=1)"), "Add --source TEXT."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value[-1:])[:50])
def test_bad_input_is_one_line(command, arguments, message):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


FILES = [
    ("prompt-file", "a.txt", b"", "`--prompt-file` must hold a prompt."),
    ("prompt-file", "a.txt", b"\xff\xfe", "`--prompt-file` must be text in UTF-8."),
    ("prompt-file", "a.jsonl", b"nonsense", "`--prompt-file` must hold one JSON value a line. Got line 1"),
    (
        "prompt-file",
        "a.jsonl",
        b'"a"\n\n3',
        "`--prompt-file` must hold texts or lists of chat messages. Got 3 in line 3",
    ),
    ("pairs", "a.jsonl", b"", "`--pairs` must hold a pair."),
    ("pairs", "a.jsonl", b'{"clean": "a"}', "line 1 of"),
    ("pairs", "a.jsonl", b'{"clean": "a", "corrupted": "b", "right": "c", "worng": "d"}', "it must be a mapping of"),
    ("pairs", "a.jsonl", b'{"clean": "a", "corrupted": "b", "right": "c", "wrong": "c"}', "`foil` must differ from"),
    ("pairs", "a.jsonl", b'{"clean": "a", "corrupted": "b", "right": "c", "answer": "d"}', "must have 'right' once"),
]


@pytest.mark.parametrize(("option", "name", "content", "message"), FILES, ids=lambda value: str(value)[:30])
def test_a_file_that_does_not_fit_is_one_line(command, tmp_path, option, name, content, message):
    (tmp_path / name).write_bytes(content)
    ask = ("sweep", TINY, "--at", "z", *ZERO, "--metric", "entropy", f"--{option}", tmp_path / name)
    status, out, err = command(*ask)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_what_cannot_be_written_is_said_before_the_model_is_read(command, monkeypatch):
    monkeypatch.setattr(mp.HookedModel, "load", lambda *_, **__: pytest.fail("nothing is read"))
    for option in ("--json", "--save", "--plot", "--html"):
        assert command(*SWEEP, *ZERO, option, "/no/such/folder/a.npz")[0] == 2
    assert command(*SWEEP, *ZERO, "--metric", "nonsense")[0] == 2
    assert command(*SWEEP, *ZERO, "--layers", "nonsense")[0] == 2
    assert command(*SWEEP, "--intervention", "nonsense")[0] == 2
