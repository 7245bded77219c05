"""Two ranks, one of which is killed, stopped, out of disk, or has another model or another library."""

import re
import signal

import pytest

LOST = r"Rank 0 of 2 lost the others: .*\. Restart the sweep on all ranks\."


@pytest.mark.parametrize("when", ["early", "killed", "late", "in_pass"])
def test_a_rank_that_is_killed_is_an_error_on_the_other(survivor, when: str):
    """Before the first meeting, in a pass, before the last meeting, and where the model is sharded."""
    lost = survivor(when)
    kind, message = lost.found["raised"]
    assert kind == "RankError"
    assert re.fullmatch(LOST, message, re.DOTALL)
    assert lost.ended == -signal.SIGKILL
    assert lost.seconds < 40


def test_a_checkpoint_has_no_number_of_a_pass_that_a_rank_left(survivor):
    """Of a sharded model: a sum with a rank that is gone may be anything."""
    found = survivor("in_pass").found
    assert found["done"] > 0
    assert found["right"]


def test_after_a_rank_was_killed_both_go_on_to_the_same_bits(faulty):
    assert [rank["killed"] for rank in faulty] == [[True, True]] * 2


def test_ranks_go_on_with_the_plan_that_they_had(faulty):
    """Though one was lost in its first pass, and there is more memory than before, which would be another plan."""
    for rank in faulty:
        assert rank["first pass"][0] in ("OSError", "RankError")
        assert rank["more memory"] == rank["whole"]


def test_ranks_of_a_sharded_model_go_on_from_the_same_pass(faulty):
    """Where one of them was killed before it had written what another had."""
    assert [rank["uneven"] for rank in faulty] == [[True, True]] * 2


def test_a_rank_that_is_stopped_is_given_up(survivor):
    """And named before that."""
    stopped = survivor("stopped")
    assert stopped.ended is None
    kind, message = stopped.found["raised"]
    assert kind == "RankError"
    assert re.fullmatch(
        r"Rank 0 of 2 has had no answer from rank 1 for \d s: a process is stopped, a machine sleeps, or a network is "
        r"cut\. Restart the sweep on all ranks\.",
        message,
    )
    [warning] = stopped.found["warned"]
    assert warning.startswith("Rank 0 of 2 has waited 0 s for rank 1. ")


def test_who_left_a_meeting_comes_to_no_other(survivor):
    """Later messages would be taken for earlier ones."""
    kind, message = survivor("stopped").found["again"]
    assert kind == "RankError"
    assert message.startswith("This process left a meeting before the other ranks came to it, ")
    assert message.endswith("Restart all ranks.")


def test_ctrl_c_ends_the_waiting_for_a_rank_that_never_comes(survivor):
    interrupted = survivor("interrupted")
    assert interrupted.ended is None
    assert interrupted.found["raised"][0] == "KeyboardInterrupt"


@pytest.mark.parametrize("where", ["in a pass", "at a meeting"])
def test_a_rank_that_is_continued_gives_the_right_numbers(faulty, where: str):
    alone = faulty[0]["alone"][where == "at a meeting"]
    assert [rank[where][0] for rank in faulty] == [alone, alone]


def test_a_rank_that_is_waited_for_is_named(faulty):
    for where in ("in a pass", "at a meeting"):
        warned = faulty[0][where][1]
        assert warned
        assert all(re.match(r"Rank 0 of 2 has waited \d s for rank 1\. If none loads", text) for text in warned)


def test_a_full_disk_on_one_rank_is_an_error_on_both(faulty):
    first, second = (rank["full disk"] for rank in faulty)
    assert second[0] == "FileError"
    assert "full.rank1of2.npz" in second[1]
    assert first == ["RankError", f"Rank 1 of 2 failed: FileError: {second[1]} Restart the sweep on all ranks."]
    assert [rank["left"] for rank in faulty] == [["full.rank0of2.npz"]] * 2


def test_once_there_is_room_both_go_on_to_the_same_bits(faulty):
    assert [rank["room again"] for rank in faulty] == [[True, True]] * 2


@pytest.mark.parametrize("what", ["weights", "layers", "bits", "architecture"])
def test_a_rank_with_another_model_is_refused(faulty, what: str):
    message = (
        "Every rank must run the same sweep. Got another model on rank 1 than on rank 0. "
        "Use the same model, arguments and checkpoints on every rank."
    )
    assert [rank["refused"][what] for rank in faulty] == [["RankError", message]] * 2


@pytest.mark.parametrize("library", ["mlx_patch", "mlx_lm"])
def test_a_rank_with_another_version_is_refused(faulty, library: str):
    version = faulty[0]["versions"][library]
    message = (
        f"Every rank must have the same versions. Got {library} 9.9 on rank 1, and {version} on rank 0. "
        "Install the same versions on every machine."
    )
    assert [rank["refused"][library] for rank in faulty] == [["RankError", message]] * 2


def test_what_ranks_do_not_share_is_refused_before_a_pass(faulty):
    assert [rank["runs"] for rank in faulty] == [0, 0]
