"""Refuses containers that hold more than values: a mask, rows of several lengths, entries that are not stored.

A conversion would drop this information silently. The error says what to pass instead. The containers are recognised by
their class names, because most of them come from libraries that may not be installed.
"""

from multismooth.errors import SmoothingError, TargetError, complain

MASKED = "Pass {0}.filled(0){1}."
DENSE = "Pass {0}.to_dense()."
QUANTIZED = "Pass {0}.dequantize()."
KINDS = {  # name of a class in the method resolution order: (description, what to pass instead)
    "MaskedArray": ("a masked array, whose mask would be lost", MASKED),
    "MaskedTensor": ("a MaskedTensor, whose mask would be lost", "Pass {0}.get_data(){1}."),
    "MaskedNDArray": ("a masked array, whose mask would be lost", MASKED),
    "JAXSparse": ("a sparse array", "Pass {0}.todense()."),
    "spmatrix": ("a sparse matrix", "Pass {0}.toarray()."),
    "sparray": ("a sparse array", "Pass {0}.toarray()."),
    "RaggedTensor": ("a ragged tensor", "Pad it, and mark the padding with ignore_index or sample_weight=0."),
}
INSTEAD = {  # how to pass the same mask with each argument
    "targets": ", and sample_weight={0}, or ignore_index with that label filled in",
    "logits": ", and sample_weight= for masked elements or class_mask= for masked classes",
    "hidden": ", and sample_weight= for masked elements",
}
NESTED = "a nested tensor"
PAD = "Pad it: torch.nested.to_padded_tensor({0}, 0.0), and mark the padding with ignore_index or sample_weight=0."


def refuse(argument, value):
    """Raise if the value, or an item of a list, is a container that holds more than values."""
    for base in type(value).__mro__:
        if base.__name__ in KINDS:
            raise lossy(argument, *KINDS[base.__name__])
    if isinstance(value, (list, tuple)):
        for part in value:
            if not isinstance(part, (int, float)):
                refuse(argument, part)


NUMBERED = (
    "Number the classes from 0: np.unique(names, return_inverse=True) does for names. Mark absent labels with "
    "ignore_index."
)


def unreadable(argument, value, error):
    """The error for a value that a framework cannot convert to an array."""
    reason = str(error).partition("\n")[0].rstrip(".")
    remedy = NUMBERED if argument == "targets" else "Convert it to an array of numbers, as numpy.asarray does."
    return complain(
        argument, "an array of numbers", f"{type(value).__name__} ({reason})", remedy, kind_of_error(argument)
    )


def kind_of_error(argument):
    return {"targets": TargetError, "label_smoothing": SmoothingError}.get(argument, ValueError)


def lossy(argument, what, remedy):
    """The error for a container that holds more than values."""
    masked = "get_mask()" if "get_data" in remedy else "mask"
    mask = f"{argument}.{masked}" if masked != "mask" else f"~{argument}.{masked}"
    remedy = remedy.format(argument, INSTEAD.get(argument, "").format(mask))
    return complain(argument, "values alone", what, remedy, kind_of_error(argument))
