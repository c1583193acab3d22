"""Whether the processes of a call agree, which they find out before they exchange anything whose size depends on it.

gloo aborts the process where the sizes of a collective differ, and a rank that has raised leaves the others waiting. So
each call begins with one exchange of a fixed size: 104 bytes from every rank, which say what the rank was asked to
compute, or that it refused. Then every rank raises, or none.
"""

import zlib
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from multismooth.errors import ShardError, complain
from multismooth.torch.sharding.exchange import all_gather

REFUSED = 1  # in the field "error": this rank has an error of its own
ELSEWHERE = 2  # this rank has heard of one in another group


class Header(NamedTuple):
    """What a rank says of its call. All but the first four numbers are checksums."""

    error: int = 0
    num_classes: int = 0
    class_start: int = 0
    classes: int = 0
    dtype: int = 0
    shape: int = 0  # of the elements
    targets: int = 0
    sample_weight: int = 0
    label_smoothing: int = 0
    settings: int = 0  # function, convention, ignore_index, reduction, numbers
    vectors: int = 0  # weight, prior, class_mask
    head: int = 0  # features and chunk size of a linear head
    whole: int = 0  # which of WHOLE this rank has for all elements of all ranks, as bits


SHARED = {  # what ranks must agree on: in the field, in the error
    "num_classes": "num_classes",
    "dtype": "dtype of logits",
    "settings": "function, convention, ignore_index, reduction, axis, z_loss, logit_softcap and normalizer",
    "vectors": "weight, prior and class_mask",
    "whole": "which of targets, sample_weight and label_smoothing are DTensors",
}
OF_EQUAL_ELEMENTS = {  # also these, where they have the same elements
    "shape": "shape of the elements",
    "targets": "targets",
    "label_smoothing": "label_smoothing",
    "sample_weight": "sample_weight",
    "head": "features and chunk_rows",
}
WHOLE = ("targets", "sample_weight", "label_smoothing")  # what a rank may have a part of, or all
PARTS, CLASSES, ELEMENTS = "parts", "classes", "elements"
REMEDY = "All ranks of the group must make the same call, each with its own part of the classes."
OF_ALL = "A plain tensor is that of all ranks, the same on each. DTensor.from_local(part, mesh, placements) has parts."

SAMPLE = 2**20  # entries of rows of classes that a checksum reads. All of them would take as long as a pass over logits


def checksum(*values):
    """A number that differs where the values do. Python's own `hash` of a text differs between processes."""
    found = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            found = zlib.crc32(str((tuple(value.shape), value.dtype)).encode(), found)
            plain = torch.empty(value.numel(), dtype=value.dtype)  # a tensor of one entry may have any stride
            found = zlib.crc32(plain.copy_(value.detach().reshape(-1)).view(torch.uint8).numpy(), found)
        else:
            found = zlib.crc32(repr(value).encode(), found)
    return found


def sampled(rows):
    """Some SAMPLE entries of rows of classes: an odd number apart, so that they are of all classes."""
    return rows.reshape(-1)[:: rows.numel() // SAMPLE | 1]


class Agreement:
    """The exchange of a call's headers, which starts when the object is made and is read by `reached`.

    groups: pairs of a group and what its ranks have: PARTS of all classes, some CLASSES of the same elements, or other
    ELEMENTS. own: this rank's error, or None.
    """

    def __init__(self, header, groups, own, device):
        self._own, self._device, self._groups = own, device, list(groups)
        self._header = header._replace(error=REFUSED) if own is not None else header
        self._pending = self._start(self._groups[0][0]) if self._groups else None

    def _start(self, group):
        row = torch.tensor([[*self._header]], dtype=torch.int64, device=self._device)
        return all_gather(row, 0, group)

    def reached(self):
        """Return if all agree. Else raise: this rank's own error, or a ShardError."""
        found = None
        for place, (group, have) in enumerate(self._groups):
            rows = functional.wait_tensor(self._pending if place == 0 else self._start(group))
            headers = [Header(*row) for row in rows.tolist()]
            found = found or disagreement(headers, have, dist.get_process_group_ranks(group))
            if found is not None and not self._header.error:  # so that the next group hears of it
                self._header = self._header._replace(error=ELSEWHERE)
        self._groups = []
        if self._own is not None:
            raise self._own
        if found is not None:
            raise found


def disagreement(headers, have, ranks):
    """The ShardError of these headers, or None where they agree."""
    refused = [rank for rank, header in zip(ranks, headers, strict=True) if header.error]
    if refused:
        remedy = "Its own error says why; on every other rank the call ends here, too."
        return complain("group", "a call that no rank refuses", f"a refusal on {named(refused)}", remedy, ShardError)
    compared = SHARED | OF_EQUAL_ELEMENTS
    if have == ELEMENTS:
        compared = SHARED | {name: name for k, name in enumerate(WHOLE) if headers[0].whole >> k & 1}
    for field, what in compared.items():
        values = [getattr(header, field) for header in headers]
        others = [rank for rank, value in zip(ranks, values, strict=True) if value != values[0]]
        if others:
            got = f"another one on {named(others)} than on rank {ranks[0]}"
            if field == "num_classes":
                got = ", ".join(f"{value} on rank {rank}" for rank, value in zip(ranks, values, strict=True))
            remedy = OF_ALL if have == ELEMENTS and field in WHOLE else REMEDY
            return complain(what, "the same on every rank", got, remedy, ShardError)
    return uncovered(headers, ranks) if have == PARTS else None


def uncovered(headers, ranks):
    """The error for classes that lie in no part or in two, or None."""
    spans = sorted((h.class_start, h.classes, rank) for h, rank in zip(headers, ranks, strict=True) if h.classes)
    upto = 0
    for start, size, rank in spans:
        if start != upto:
            kind, first, last = ("in no part", upto, start) if start > upto else ("in two parts", start, upto)
            got = f"classes {first} to {last - 1} {kind}, before rank {rank}'s {start} to {start + size - 1}"
            remedy = "Pass class_start=, the first class of this rank's logits, and num_classes=, that of all ranks."
            return complain("class_start", "each class in one part", got, remedy, ShardError)
        upto = start + size
    if upto != headers[0].num_classes:
        got = f"classes {upto} to {headers[0].num_classes - 1} in no part"
        return complain("num_classes", "each class in one part", got, "Pass the K of all ranks together.", ShardError)
    return None


def named(ranks):
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
