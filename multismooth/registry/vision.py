"""Conventions of libraries for images, and of PyKEEN, for knowledge graphs."""

from multismooth.convention import Convention

VISION = (
    Convention(
        "timm",
        denominator="all",
        ignore_index=None,
        source="timm 1.0, timm/loss/cross_entropy.py LabelSmoothingCrossEntropy",
    ),
    Convention(
        "mmpretrain",
        denominator="all",
        ignore_index=None,
        source="mmpretrain 1.2, mmpretrain/models/losses/label_smooth_loss.py, mode original",
        notes="With avg_factor the mean divides by that: pass it as normalizer.",
    ),
    Convention(
        "mmpretrain-classy",
        denominator="all",
        smoothing_map="classy",
        ignore_index=None,
        source="mmpretrain 1.2, mmpretrain/models/losses/label_smooth_loss.py, mode classy_vision",
    ),
    Convention(
        "classyvision",
        denominator="all",
        smoothing_map="classy",
        ignore_index=None,
        source="ClassyVision 08a82e8, classy_vision/losses/label_smoothing_loss.py",
        notes="An ignored element gets the uniform target and counts: pass ε per element, 1 there.",
    ),
    Convention(
        "fastai",
        class_weights="nll_only",
        denominator="target_weight",
        smooth_denominator="all",
        ignore_scope="nll_only",
        source="fastai 2.8, fastai/losses.py LabelSmoothingCrossEntropy",
        notes="Class weights and ignore_index change the label's term only; the other is a plain mean of all rows.",
    ),
    Convention(
        "composer",
        denominator="all",
        ignore_index=None,
        source="composer 0.32, composer/algorithms/label_smoothing/label_smoothing.py; composer/loss/loss.py",
        notes="Negative labels keep the mass ε there, and the mean divides by the total mass.",
    ),
    Convention(
        "monai",
        source="monai 1.6, monai/losses/dice.py DiceCELoss",
        notes="PyTorch's rules: with class weights, labels and their one-hot rows give different means.",
    ),
    Convention(
        "segmentation-models",
        denominator="all",
        source="segmentation-models-pytorch 5006616, segmentation_models_pytorch/losses/soft_ce.py",
        notes="The ignored pixels count in the mean.",
    ),
    Convention(
        "pytorch-toolbelt",
        denominator="all",
        source="pytorch-toolbelt 0.8, pytorch_toolbelt/losses/functional.py label_smoothed_nll_loss",
        notes="The ignored pixels count in the mean.",
    ),
    Convention(
        "big_vision",
        spread="others",
        denominator="caller",
        ignore_index=None,
        source="big_vision 0127fb6, big_vision/utils.py weighted_softmax_xent",
        notes="A mean of sentence means. sample_weight: 1/length in each; normalizer: all sentences.",
    ),
    Convention(
        "scenic",
        denominator="counted",
        denominator_add=1e-8,
        ignore_index=None,
        source="scenic 4a38d47, scenic/model_lib/base_models/model_utils.py weighted_softmax_cross_entropy",
        notes="Class weights do not enter the denominator.",
    ),
    Convention(
        "paddleclas",
        denominator="all",
        ignore_index=None,
        source="PaddleClas d178931, ppcls/loss/celoss.py CELoss",
        notes="ε outside (0, 1) silently turns smoothing off.",
    ),
    Convention(
        "nvidia-resnet",
        denominator="all",
        ignore_index=None,
        source="DeepLearningExamples 729963d, PyTorch/Classification/ConvNets/image_classification/smoothing.py",
    ),
    Convention(
        "pykeen",
        spread="others",
        denominator="all",
        ignore_index=None,
        source="pykeen 1.11, pykeen/losses.py CrossEntropyLoss",
        notes="Knowledge graphs. Its BCE loss smooths the same way.",
    ),
)
