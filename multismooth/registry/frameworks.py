"""Conventions of the frameworks' own losses (FRAMEWORKS) and of fused kernels (KERNELS)."""

from multismooth.convention import Convention

FRAMEWORKS = (
    Convention("torch", source="torch 2.13, torch/nn/functional.py cross_entropy"),
    Convention("others", spread="others"),
    Convention(
        "torch-kl-div",
        objective="kl",
        denominator="all",
        ignore_index=None,
        source="torch 2.13, torch/nn/functional.py kl_div, reduction batchmean, on smoothed rows",
        notes="batchmean divides by the first axis alone; that is the rows where the logits are (N, K).",
    ),
    Convention(
        "torch-kl-div-mean",
        objective="kl",
        denominator="classes",
        ignore_index=None,
        source="torch 2.13, torch/nn/functional.py kl_div, reduction mean, on smoothed rows",
        notes="mean is the default of kl_div, and K times smaller than the mean of the rows.",
    ),
    Convention(
        "mindspore",
        source="mindspore 2.10, ops/function/nn_func.py cross_entropy",
        notes="PyTorch's rules; computed in float32.",
    ),
    Convention(
        "optax", denominator="all", ignore_index=None, source="optax 0.2.8, optax/losses/_smoothing.py smooth_labels"
    ),
    Convention(
        "optax-kl",
        objective="kl",
        denominator="all",
        ignore_index=None,
        source="optax 0.2.8, optax/losses/_classification.py kl_divergence, on smoothed rows",
    ),
    Convention(
        "optax-one-hot",
        denominator="all",
        ignore_scope="nll_only",
        ignore_index=None,
        source="optax 0.2.8, optax/losses/_smoothing.py smooth_labels, on jax.nn.one_hot rows",
        notes="one_hot of a label outside [0, K) is a zero row: it keeps the mass ε and counts in the mean.",
    ),
    Convention(
        "flax-examples",
        spread="others",
        objective="kl",
        denominator="counted",
        ignore_index=0,
        source="flax 0.12, examples/wmt/train.py compute_weighted_cross_entropy (lm1b and gemma alike)",
        notes="Returns the sum and the number of counted tokens; the caller divides.",
    ),
    Convention(
        "keras",
        denominator="all",
        ignore_index=None,
        source="keras 3.15, keras/src/losses/losses.py CategoricalCrossentropy",
    ),
    Convention(
        "keras-weighted",
        denominator="counted",
        ignore_index=None,
        source="keras 3.15, keras/src/losses/loss.py reduction mean_with_sample_weight",
    ),
    Convention(
        "tensorflow-v1",
        denominator="nonzero",
        ignore_index=None,
        source="tensorflow 2.21, tensorflow/python/ops/losses/losses_impl.py softmax_cross_entropy",
        notes="Divides by how many weights are not 0, not by their sum.",
    ),
    Convention(
        "tensorflow-v1-mean",
        denominator="counted",
        ignore_index=None,
        source="tensorflow 2.21, tensorflow/python/ops/losses/losses_impl.py, Reduction.MEAN",
    ),
    Convention(
        "paddle",
        class_weights="mixture",
        denominator="mixture_weight",
        source="paddlepaddle 3.3, python/paddle/nn/functional/loss.py cross_entropy",
        notes="Class weights multiply the whole row by Σ q·w. Under smoothing it cannot ignore labels. With ε = 0, no "
        "class weights and ignore_index < 0 the mean divides by all elements: segmentation-models. On a CPU log p is "
        "clipped at −64.",
    ),
    Convention(
        "paddle-ignore-index",
        class_weights="mixture",
        denominator="classes",
        ignore_index=None,
        source="paddlepaddle 3.3, python/paddle/nn/functional/loss.py cross_entropy with ignore_index ≥ 0",
        notes="With smoothing and ignore_index ≥ 0 nothing is ignored, and the mean divides by N·K.",
    ),
    Convention("mlx", denominator="all", ignore_index=None, source="mlx 0.32, python/mlx/nn/losses.py cross_entropy"),
    Convention(
        "tinygrad",
        denominator="counted",
        source="tinygrad 0.14, tinygrad/mixin/op.py sparse_categorical_crossentropy with an ignore_index",
        notes="ignore_index=-1 is its default and ignores nothing: see tinygrad-default.",
    ),
    Convention(
        "tinygrad-default",
        denominator="all",
        ignore_scope="nll_only",
        ignore_index=None,
        source="tinygrad 0.14, tinygrad/mixin/op.py sparse_categorical_crossentropy and cross_entropy",
        notes="A label of −1 loses its own term but keeps the smoothing term, and counts.",
    ),
    Convention(
        "mxnet",
        spread="others",
        denominator="all",
        ignore_index=None,
        source="mxnet 1.9, src/operator/softmax_output-inl.h SoftmaxOutput(smooth_alpha), normalization batch",
        notes="Only the gradient exists there: the forward pass returns probabilities.",
    ),
    Convention(
        "mxnet-valid",
        spread="others",
        denominator="counted",
        ignore_index=-1,
        source="mxnet 1.9, src/operator/softmax_output-inl.h SoftmaxOutput(smooth_alpha), normalization valid",
        notes="Only the gradient exists there: the forward pass returns probabilities.",
    ),
    Convention(
        "flux",
        denominator="all",
        ignore_index=None,
        source="Flux.jl 3f2f828, src/losses/functions.jl label_smoothing",
        notes="dims=0 smooths binary targets towards ½ instead.",
    ),
)

KERNELS = (
    Convention(
        "liger",
        z_loss_denominator="counted",
        source="liger-kernel 0.8, src/liger_kernel/ops/cross_entropy.py, fused_linear_cross_entropy.py",
        notes="Class weights enter the smoothed loss and its denominator; z_loss=lse_square_scale is a plain mean.",
    ),
    Convention(
        "liger-megatron",
        spread="others",
        denominator="counted",
        source="liger-kernel 0.8, src/liger_kernel/ops/vocab_parallel_cross_entropy.py, formula megatron",
        notes="Unreduced. The formula pytorch of the same kernel is the convention liger.",
    ),
    Convention(
        "flash-attn",
        denominator="counted",
        source="flash-attn 0251105, flash_attn/losses/cross_entropy.py CrossEntropyLoss",
        notes="z_loss=lse_square_scale is part of each element's loss there, as here.",
    ),
    Convention(
        "transformer-engine",
        denominator="counted",
        denominator_floor=1.0,
        source="transformer-engine 2.20, transformer_engine/pytorch/triton/cross_entropy.py parallel_cross_entropy",
    ),
    Convention(
        "apex",
        denominator="counted",
        ignore_index=0,
        source="apex 6424da3, apex/contrib/xentropy/softmax_xentropy.py",
        notes="Unreduced. Its padding_idx is 0 by default, which is a real class.",
    ),
    Convention(
        "megatron-core",
        spread="others",
        denominator="counted",
        ignore_index=None,
        source="megatron-core d98e8a6, megatron/core/tensor_parallel/cross_entropy.py",
        notes="One tensor-parallel rank. With more, K is the size of each rank's own part of the vocabulary.",
    ),
)
