"""A loss in parts is the loss: classes and elements split over processes that talk by gloo, against one process.

The processes are forks of a script in `support/` (`ranks`), which prints what they found. Importing PyTorch takes
longer than most of it, so the scripts are forks, too (`programs`), and each makes many calls. The merge law itself is
in `test_spec`, without processes.
"""

import json
from functools import cache
from pathlib import Path

import programs
import pytest
from requirements import need

SUPPORT = Path(__file__).parent / "support"
IMPORTS = ("torch._dynamo", "torch.distributed.tensor", "numba", "array_api_compat.torch", "hypothesis", "mpmath")
COMPILED = ("torch._inductor.pattern_matcher",)  # PyTorch imports it with the first graph that has a gradient: 0.8 s
PROBLEMS, PARTS = 2000, 5
EXACT = 1e-12


@cache
def found(script, *arguments):
    """What a script of `support/` prints."""
    need("torch")
    imports = IMPORTS + COMPILED if script == "sharded_compiled" else IMPORTS
    run = programs.run(SUPPORT / f"{script}.py", *arguments, imports=imports, timeout=600, OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(PARTS))
def test_random_problems_on_1_2_3_4_and_8_processes(part):
    """Every convention, argument, function and placement; all ranks of a class group get the same bits."""
    count = PROBLEMS // PARTS
    result = found("sharded_problems", count, part * count)
    assert not result["failures"], "\n".join(result["failures"])
    assert result["cases"] == count
    assert set(result["worlds"]) == {"1", "2", "3", "4", "8"}
    assert result["wrong"] == []
    assert result["worst"][3] < EXACT
    assert result["different bits"] == []


ALIKE = {  # the same error on every rank
    "labels outside": ("LabelError", "got 12 at (1,)"),
    "soft rows that sum to 2": ("TargetError", "distributions over all classes"),
    "partial logits": ("ShardError", "redistribute"),
    "strided logits": ("ShardError", "redistribute"),
    "split features": ("ShardError", "`hidden`: expected a feature axis that is not split"),
    "rows per class": ("ValueError", "`prior`"),
    "a plain part": ("TargetError", "DTensor.from_local"),
    "labels differ": ("ShardError", "`targets`"),
    "ε differs": ("ShardError", "`label_smoothing`"),
    "ε per element differs": ("ShardError", "`label_smoothing`"),
    "K differs": ("ShardError", "12 on rank 0, 13 on rank 1, 12 on rank 2"),
    "rows differ": ("ShardError", "shape of the elements"),
    "dtypes differ": ("ShardError", "dtype of logits"),
    "conventions differ": ("ShardError", "convention"),
    "reductions differ": ("ShardError", "reduction"),
    "z_loss differs": ("ShardError", "z_loss"),
    "weights differ": ("ShardError", "`weight, prior and class_mask`: expected the same on every rank"),
    "weights on one rank": ("ShardError", "another one on rank 1 than on rank 0"),
    "functions differ": ("ShardError", "function"),
    "a gap": ("ShardError", "classes 4 to 4 in no part"),
    "an overlap": ("ShardError", "classes 3 to 3 in two parts"),
    "too few": ("ShardError", "classes 11 to 11 in no part"),
    "chunks differ": ("ShardError", "chunk_rows"),
    "plain labels differ": ("ShardError", "`targets`: expected the same on every rank; got another one on rank 1"),
    "plain rows differ": ("ShardError", "`targets`"),
    "plain ε differs": ("ShardError", "`label_smoothing`"),
    "plain ε per element differs": ("ShardError", "`label_smoothing`"),
    "plain sample weights differ": ("ShardError", "`sample_weight`"),
    "sample weights on one rank": ("ShardError", "`sample_weight`"),
    "plain rows of a mask differ": ("ShardError", "class_mask"),
    "labels placed on one rank": ("ShardError", "are DTensors"),
}
ON_ONE = {  # a rank's own error, and ShardError on the others
    "a label outside on one rank": {"ShardError"},  # on ranks 0 and 2; rank 1 has the LabelError, and is dead later
    "ε refused on one rank": {"ShardError"},
    "a plain label outside": {"ShardError", "LabelError"},
    "parts of unequal size": {"ShardError", "LabelError"},
}


@pytest.mark.parametrize("fault", ALIKE)
def test_a_fault_ends_the_call_on_every_rank(fault):
    kind, text = ALIKE[fault]
    for error, message, seconds in found("sharded_faults")[fault]:
        assert (error, text in message) == (kind, True), message
        assert seconds < 10


@pytest.mark.parametrize("fault", ON_ONE)
def test_a_rank_that_refuses_ends_the_call_on_the_others(fault):
    results = found("sharded_faults")[fault]
    assert {error for error, _, _ in results} == ON_ONE[fault]
    for error, message, seconds in results:
        assert error != "ShardError" or "a refusal on rank" in message
        assert seconds < 10


def test_a_dead_rank_ends_the_call_within_the_timeout():
    for error, _, seconds in found("sharded_faults")["a rank is dead"]:
        assert error == "RuntimeError"
        assert seconds < 10


def test_every_fault_is_listed():
    assert set(found("sharded_faults")) == {*ALIKE, *ON_ONE, "a rank is dead"}


N, D, NUMBER = 24, 6, 8  # elements, features, bytes of a float64
EACH = N * NUMBER  # of one number per element
PACKED, APART, HEADER = 4 * EACH, 6 * EACH, 104
FORWARD = {  # bytes that a rank of 4 puts into each collective
    "group": [PACKED],
    "group, checked": [HEADER, PACKED],
    "weights": [PACKED],
    "learned ε": [APART],  # two sums, and the mass of each
    "two denominators": [APART],
    "terms": [APART + EACH],  # the class of the largest logit
    "two rounds": [EACH, 3 * EACH],
    "two rounds, terms": [2 * EACH, 5 * EACH],
    "two rounds, mixed": [EACH, PACKED],  # the weight of each row, then all at once
    "classes": [PACKED],
    "classes, mean": [PACKED],
    "elements": [],
    "elements, sum": [],
    "elements, mean": [NUMBER],
    "both": [PACKED // 2],  # half of the elements are here
    "both, mean": [PACKED // 2, NUMBER],
    "both, checked": [HEADER, HEADER, PACKED // 2],  # an exchange for each mesh axis
    "head": [PACKED // 3] * 3,  # in three chunks
    "placed head": [PACKED // 3] * 3,
    "mixed head": [EACH, *[PACKED // 3] * 3],
    "soft": [PACKED],
    "soft, checked": [HEADER, 2 * EACH, PACKED],  # the sum of each row, and how many entries may not be
    "mixed, checked": [HEADER, 3 * EACH, PACKED],
    "mixed terms": [EACH, APART + EACH],
    "learned ε, kl": [APART + 2 * EACH],  # the entropy, and its derivative
}


@pytest.mark.parametrize("call", FORWARD)
def test_what_a_call_exchanges(call):
    """Forward at most two collectives of 8 numbers per local element without checks; backward none."""
    for rank in found("sharded_traffic")["traffic"]:
        forward, backward = rank[call]
        assert forward == FORWARD[call]
        assert backward == (
            [N * D * NUMBER] if call.endswith("head") and call != "placed head" else []
        )  # the sum of ∂hidden; as a DTensor it is Partial


@pytest.mark.thorough
@pytest.mark.parametrize("of", ["logits", "head"])
def test_no_combination_of_arguments_needs_more_than_two_collectives_of_eight_numbers(of):
    """Of labels and soft targets, class weights, priors, masks, "kl", excluded classes: DTensors and `group=`."""
    result = found("sharded_combinations", of)
    assert sum(result["collectives"].values()) == 2 * 480
    assert set(result["collectives"]) == {"1", "2"}
    assert max(map(float, result["numbers"])) <= 8


@pytest.mark.thorough
def test_every_rank_has_the_loss_and_the_whole_gradient_of_any_combination():
    """By logits, features and classifier, and by ε and sample weights. Backward sums the features' gradient alone."""
    for case, head, learned, distance, forward, backward in found("sharded_combinations", "values"):
        assert distance < EXACT, (case, head, learned)
        assert forward <= 2
        assert backward == head


def test_single_calls_equal_one_process():
    """Offsets in float32, bfloat16, a second backward, ∂/∂ε, `out=`, labels outside, `normalizer`."""
    for rank in found("sharded_traffic")["errors"]:
        for call, (distance, allowed) in rank.items():
            if "float32" in call:
                allowed = max(4 * allowed, 1e-6)
            assert distance <= allowed, call


@pytest.mark.parametrize("calls", [("group", "head", "rows"), ("classes", "elements")], ids=["local", "placed"])
def test_they_compile_as_one_graph(calls):
    for rank in found("sharded_compiled", *calls):
        assert set(rank) == set(calls)
        assert max(rank.values()) < EXACT
