"""The named conventions: what each library computes when it is given `label_smoothing`, as data.

`conventions` maps names to `Convention`s and `aliases` other spellings to names. `unexpressed` has the losses that no
Convention can express, each with the reason. The entries are in `frameworks`, `text`, `speech` and `vision`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from multismooth.convention import Convention
from multismooth.errors import complain
from multismooth.registry.frameworks import FRAMEWORKS, KERNELS
from multismooth.registry.speech import SPEECH
from multismooth.registry.text import TEXT
from multismooth.registry.vision import VISION

__all__ = ["aliases", "conventions", "register", "resolve", "unexpressed"]

# torch.compile of PyTorch 2.6 reads plain dicts only
_entries: dict[str, Convention] = {c.name: c for c in (*FRAMEWORKS, *KERNELS, *TEXT, *SPEECH, *VISION)}
conventions: Mapping[str, Convention] = MappingProxyType(_entries)

aliases: Mapping[str, str] = MappingProxyType(
    {
        "all": "torch",
        "pytorch": "torch",
        "torch-kl": "torch-kl-div",
        "flax": "flax-examples",
        "tf": "keras",
        "tensorflow": "keras",
        "tf.keras": "keras",
        "tf-v1": "tensorflow-v1",
        "tf.compat.v1.losses": "tensorflow-v1",
        "paddlepaddle": "paddle",
        "liger-kernel": "liger",
        "flash-attention": "flash-attn",
        "te": "transformer-engine",
        "megatron": "megatron-core",
        "hf": "transformers",
        "huggingface": "transformers",
        "hf-flax": "transformers-flax",
        "t2t": "tensor2tensor",
        "tf-models": "tensorflow-models",
        "fairseq-0.12": "fairseq",
        "fairseq-0.10.2": "fairseq-0.10",
        "opennmt": "opennmt-py",
        "opennmt-py-3": "opennmt-py",
        "harvardnlp": "annotated-transformer",
        "k2": "icefall",
        "espnet-rnn-decoder": "espnet-rnn",
        "big-vision": "big_vision",
        "mmcls": "mmpretrain",
        "smp": "segmentation-models",
        "toolbelt": "pytorch-toolbelt",
    }
)

_TOWARDS_HALF = "a sigmoid loss: binary_loss(..., label_smoothing=ε) is the same"
_FLIPPED = "a sigmoid loss with targets 1 − ε and ε: binary_loss(..., label_smoothing=2ε) is the same"
_TOWARDS_UNIFORM = (
    'a sigmoid loss that smooths towards 1/K: binary_loss(..., label_smoothing=ε, spread="all") is the same'
)
_VOCABULARY_PART = "K is the size of one rank's part of the vocabulary: the mass is not 1, and the ranks differ"
_FOCAL = "the focal factor depends on the logits"

unexpressed: Mapping[str, str] = MappingProxyType(
    {
        "keras-binary": _TOWARDS_HALF,
        "tensorflow-v1-sigmoid": _TOWARDS_HALF,
        "ultralytics": _TOWARDS_HALF,
        "efficientdet": f"{_TOWARDS_HALF} at γ = 0; elsewhere {_FOCAL}",
        "mmpretrain-multi-label": _FLIPPED,
        "segmentation-models-bce": _FLIPPED,
        "timm-bce": _TOWARDS_UNIFORM,
        "optax-sigmoid": _TOWARDS_UNIFORM,
        "scenic-sigmoid": _TOWARDS_UNIFORM,
        "pykeen-bce": "a sigmoid loss with targets 1 − ε and ε/(K − 1): binary_loss of these, with ε = 0",
        "tensor2tensor-gaussian": "mass by the distance of class numbers, which does not sum to 1; a (K, K) prior does",
        "lingvo-localized": "mass for the labels of neighbouring steps: pass soft targets",
        "classyvision-ignored": "an ignored element counts, with a uniform target: pass ε per element, 1 there",
        "composer-ignored": "a negative label keeps the mass ε, and the mean divides by the total mass",
        "megatron-core-parallel": _VOCABULARY_PART,
        "liger-partition": _VOCABULARY_PART,
        "mxnet-multi-output": "multi_output=True silently drops smooth_alpha: use label_smoothing=0",
        "keras-focal": _FOCAL,
        "apex-focal": _FOCAL,
        "bi-tempered": "tempered logarithms are no softmax cross-entropy",
        "trax-cutoff": "the loss is cut off at a value, so its gradient is not that of a target row",
        "liger-softcap": "the logits pass through tanh first: pass logit_softcap=, and liger fits",
        "fairseq-r-drop": "a divergence between two passes is added, over doubled rows",
        "dpo-robust": "a preference between two answers is smoothed, with a negative coefficient",
        "flash-attn-out-of-range": "for labels outside [0, K) its gradient is not that of its loss",
        "liger-negative": "for ε < 0 its gradient is not that of its loss",
    }
)

_names = dict(aliases)


class register:
    """Give a convention of your own its name, for `convention=` everywhere and for `identify`; also as a context.

    Raises ValueError where it has no name, or where another convention has it.

    >>> from dataclasses import replace
    >>> import multismooth
    >>> mine = replace(multismooth.conventions["torch"], name="mylib", spread="others", denominator="all")
    >>> with multismooth.register(mine):
    ...     multismooth.conventions["mylib"].spread
    'others'
    >>> "mylib" in multismooth.conventions
    False
    """

    def __init__(self, convention: Convention):
        if not isinstance(convention, Convention) or not convention.name:
            got = repr(convention) if not isinstance(convention, Convention) else "one without a name"
            raise complain("convention", "a Convention with a name", got, 'dataclasses.replace(it, name="mylib").')
        taken = convention.name in _names or convention.name in unexpressed
        if taken or _entries.get(convention.name, convention) != convention:
            raise complain("convention", "a name that is free", repr(convention.name), "Choose another one.")
        self._convention, self._was_known = convention, convention.name in _entries
        _entries.setdefault(convention.name, convention)

    def __enter__(self) -> Convention:
        return self._convention

    def __exit__(self, *_: Any) -> None:
        if not self._was_known:
            _entries.pop(self._convention.name, None)


def resolve(convention: Any) -> Convention:
    """The Convention with a name or an alias; a Convention is returned as it is.

    Raises ValueError for an unknown name, and suggests the nearest one.

    >>> resolve("hf").name
    'transformers'
    """
    if isinstance(convention, Convention):
        return convention
    name = _names.get(convention, convention) if isinstance(convention, str) else ""
    if name in _entries:
        return _entries[name]
    if name in unexpressed:
        raise complain("convention", "what a Convention can express", repr(convention), f"Why: {unexpressed[name]}.")
    near = get_close_matches(str(convention).lower(), [*conventions, *aliases], n=1)
    raise complain(
        "convention",
        "a multismooth.Convention or a name such as 'torch', 'others', 'keras' or 'fairseq'",
        repr(convention),
        f"Did you mean {near[0]!r}?" if near else f"All {len(conventions)} names: list(multismooth.conventions).",
    )
