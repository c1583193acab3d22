"""Losses of public PyTorch code, restated by hand. Each says where it is, and what it is by someone who read it."""

from wild import found_in, optional

torch = optional("torch")
F = torch and torch.nn.functional


def own(log_p, y):
    return log_p.gather(-1, y[..., None])[..., 0]


def rows_by_scatter(z, y, on, off):
    """Rows filled with `off`, and `on` scattered along axis 1 at the label, as most tutorials do."""
    return torch.full_like(z, off).scatter_(1, y.unsqueeze(1), on)


# --- label smoothing --------------------------------------------------------------------------------------------------


@found_in("NougatCA/SPT-Code sources/utils/label_smoothing.py", "others", num_classes=6)
def spt_code(z, y):
    """Rows with ε/(K − 1), mean over the elements; K is fixed as it is made."""
    return -(rows_by_scatter(z, y, 0.9, 0.1 / 5) * z.log_softmax(-1)).sum(-1).mean()


@found_in("zhongmoxingzhe/Code-Context-Aware-TODO-Tracking LabelSmoothing", "others", num_classes=2)
def two_classes(z, y):
    """The same, for two classes by default: smoothed by all(0.2)."""
    return -(rows_by_scatter(z, y, 0.9, 0.1) * z.log_softmax(-1)).sum(-1).mean()


@found_in("sejunssi/benchmarking_gnns utils/loss.py", "torch-kl-div-mean")
def mean_over_all_entries(z, label):
    """A mean over the classes too, of rows that are smoothed elsewhere: K times too small."""
    return (-label * z.log_softmax(1)).mean(0).mean()


@found_in("aqx95/cassava_kaggle loss.py", "timm")
def soft_rows_by_hand(z, targets):
    """Rows of probabilities, mean over the elements."""
    return -(targets * z.log_softmax(-1)).sum(-1).mean()


@found_in("facebookresearch/fairseq fairseq/criterions/label_smoothed_cross_entropy.py", "fairseq")
def fairseq(z, y):
    """A sum over all but padding (1); ε/(K − 1) for each other class."""
    log_p, each = z.log_softmax(-1), 0.1 / (z.shape[-1] - 1)
    loss = -(0.9 - each) * own(log_p, y) - each * log_p.sum(-1)
    return loss.masked_fill(y == 1, 0).sum()


@found_in("facebookresearch/fairseq fairseq/criterions/nat_loss.py", "optax-one-hot")
def fairseq_nat(z, y):
    """Of the same library, with ε/K and a mean over all: a label −100, which it masks before, keeps its ε."""
    log_p = z.log_softmax(-1)
    return 0.9 * F.nll_loss(log_p, y, reduction="none").mean() - 0.1 * log_p.mean(-1).mean()


@found_in("huggingface/transformers trainer_pt_utils.py LabelSmoother", "transformers")
def transformers(z, y):
    """Padding −100, ε/K, divided by the elements that count."""
    log_p, padding = -z.log_softmax(-1), y.eq(-100)
    nll = own(log_p, y.clamp(min=0)).masked_fill(padding, 0).sum()
    smooth = log_p.sum(-1).masked_fill(padding, 0).sum()
    number = padding.numel() - padding.sum()
    return 0.9 * nll / number + 0.1 * smooth / (number * z.shape[-1])


@found_in("huggingface/pytorch-image-models timm/loss/cross_entropy.py", "timm")
def timm(z, y):
    """ε/K, mean over all."""
    log_p = F.log_softmax(z, dim=-1)
    return (-0.9 * own(log_p, y) - 0.1 * log_p.mean(-1)).mean()


@found_in("espnet/espnet nets/pytorch_backend/transformer/label_smoothing_loss.py", "espnet", num_classes=6)
def espnet(z, y):
    """A KL divergence of (B, T, K), padding −1, divided by the batch size."""
    batch, _, k = z.shape
    x, target = z.reshape(-1, k), y.reshape(-1)
    ignore = target == -1
    q = rows_by_scatter(x, target.masked_fill(ignore, 0), 0.9, 0.1 / (k - 1))
    kl = F.kl_div(x.log_softmax(1), q, reduction="none")
    return kl.masked_fill(ignore.unsqueeze(1), 0).sum() / batch


@found_in("espnet/espnet the same with normalize_length", "espnet-length", num_classes=6)
def espnet_by_length(z, y):
    """The same, divided by the elements that count."""
    return espnet(z, y) * len(y) / (y != -1).sum()


@found_in("harvardnlp/annotated-transformer the_annotated_transformer.py", "annotated-transformer", num_classes=7)
def annotated(z, y):
    """A summed KL divergence; the padding column 0 gets nothing, ε is shared by K − 2."""
    q = torch.full_like(z, 0.1 / (z.shape[1] - 2)).scatter(1, y.unsqueeze(1), 0.9)
    q[:, 0] = 0
    q = q.masked_fill((y == 0).unsqueeze(1), 0)
    return F.kl_div(z.log_softmax(-1), q, reduction="sum")


@found_in("k2-fsa/icefall conformer_ctc/label_smoothing.py", "icefall")
def icefall(z, y):
    """Padding −1, ε/K, the sum."""
    ignored = y == -1
    q = F.one_hot(y.masked_fill(ignored, 0), z.shape[-1]).to(z) * 0.9 + 0.1 / z.shape[-1]
    q = q * ~ignored.unsqueeze(-1)
    return -(q * z.log_softmax(-1)).sum()


@found_in("NVIDIA/NeMo smoothed_cross_entropy.py SmoothedCrossEntropyLoss", "nemo", scores="log-probabilities")
def nemo(log_p, y):
    """Takes log-probabilities; ε/(K − 1); padding 0; 1e-6 more than the count."""
    k, counted = log_p.shape[-1], (y != 0).to(log_p)
    each = 0.1 / (k - 1)
    loss = (0.9 - each) * own(-log_p, y) - each * log_p.sum(-1)
    return (loss * counted).sum() / (counted.sum() + 1e-6)


@found_in("fastai/fastai fastai/losses.py LabelSmoothingCrossEntropy", "fastai")
def fastai(z, y):
    """Ignores −100 in the label's term alone."""
    log_p = z.log_softmax(-1)
    return 0.1 * -log_p.sum(-1).mean() / z.shape[-1] + 0.9 * F.nll_loss(log_p, y)


@found_in("qubvel-org/segmentation_models.pytorch losses/soft_ce.py", "segmentation-models")
def segmentation_models(z, y):
    """Images, −100 ignored but counted: the mean is over all pixels."""
    _, _, _, _ = z.shape
    log_p, pad = z.log_softmax(1), (y == -100).unsqueeze(1)
    nll = -log_p.gather(1, y.masked_fill(y == -100, 0).unsqueeze(1)).masked_fill(pad, 0)
    smooth = -log_p.sum(1, keepdim=True).masked_fill(pad, 0)
    return (0.9 * nll.squeeze(1) + 0.1 / z.shape[1] * smooth.squeeze(1)).mean()


@found_in("facebookresearch/ClassyVision losses/label_smoothing_loss.py", "classyvision")
def classy_vision(z, target):
    """Rows (t + ε/K)/(1 + ε): the ε of another map."""
    q = (target + 0.1 / z.shape[-1]) / 1.1
    return torch.mean(torch.sum(-q * z.log_softmax(1), dim=1))


@found_in("speechbrain/speechbrain nnet/losses.py nll_loss", "timm", scores="log-probabilities")
def speechbrain(log_p, y):
    """Takes log-probabilities; ε/K; mean."""
    return -(0.9 * own(log_p, y) + 0.1 * log_p.mean(-1)).mean()


@found_in("OpenNMT/OpenNMT-py onmt/utils/loss.py from 3.0.3", "opennmt-py")
def opennmt(z, y):
    """PyTorch's own, summed, padding 1."""
    return F.cross_entropy(z, y, ignore_index=1, reduction="sum", label_smoothing=0.1)


@found_in("karpathy/nanoGPT model.py", "torch")
def plain(z, y):
    """(B·T, K) after a reshape, −1 ignored."""
    return F.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1), ignore_index=-1)


@found_in(
    "Kthyeon/FINE_official ELR/loss/cce.py", "fairseq-sentences", says="the sum over tokens, the mean over sentences"
)
def summed_over_rows(z, y):
    """A sum divided by the length of the logits: all elements, or the sentences."""
    return F.cross_entropy(z, y, reduction="none").sum() / z.shape[0]


@found_in("pytorch/pytorch torch/nn/functional.py, of float16 logits", "torch", says="computed in about float16")
def half_precision(z, y):
    """PyTorch's loss of half-precision logits."""
    return F.cross_entropy(z.half(), y, label_smoothing=0.1).float()


# --- sigmoid ----------------------------------------------------------------------------------------------------------


@found_in(
    "ultralytics/yolov5 utils/loss.py smooth_BCE", says="sigmoid cross-entropy of every class, targets 0.95 and 0.05"
)
def yolo(z, t):
    """Targets 1 − ε/2 and ε/2."""
    return F.binary_cross_entropy_with_logits(z, t * 0.9 + 0.05)


@found_in("huggingface/pytorch-image-models timm/loss/binary_cross_entropy.py", says="(1 − ε)·t + ε/K")
def timm_sigmoid(z, y):
    """Targets 1 − ε + ε/K and ε/K, from labels."""
    k = z.shape[-1]
    t = torch.full((len(y), k), 0.1 / k, dtype=z.dtype).scatter(1, y.reshape(-1, 1), 0.9 + 0.1 / k)
    return F.binary_cross_entropy_with_logits(z, t)


@found_in("pytorch/vision torchvision/ops/focal_loss.py", says="sigmoid focal loss of every class, γ = 2, α = 0.25")
def sigmoid_focal(z, t):
    """A sigmoid focal loss, α for the positives."""
    p, ce = z.sigmoid(), F.binary_cross_entropy_with_logits(z, t, reduction="none")
    at = p * t + (1 - p) * (1 - t)
    return ((0.25 * t + 0.75 * (1 - t)) * ce * (1 - at) ** 2).mean()


# --- other losses -----------------------------------------------------------------------------------------------------


@found_in("kavinrog/scFoundationT2D model/loss.py", says="focal loss, (1 − p_y)^γ times the loss, γ = 2")
def focal(z, y):
    """(1 − p_y)^γ times the loss, element by element."""
    ce = F.cross_entropy(z, y, reduction="none")
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


@found_in("dtminnick/sweep-framework model/focal_loss.py", says="nor is it a loss that is known")
def focal_of_the_mean(z, y):
    """A mistake that many have: the factor is that of the batch's mean loss."""
    ce = F.cross_entropy(z, y)
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


@found_in("clcarwin/focal_loss_pytorch focalloss.py", says="its gradient is not that of its value")
def focal_with_a_fixed_factor(z, y):
    """The factor (1 − p_y)^γ is detached: the gradient is not that of the focal loss."""
    log_p = own(z.log_softmax(-1), y)
    return (-((1 - log_p.detach().exp()) ** 2) * log_p).mean()


@found_in(
    "Ca3de/super-octo-train model/focal_loss.py",
    says="focal loss, (1 − p_y)^γ times the loss, γ = 2; 0.25 times the mean",
)
def focal_with_alpha(z, y):
    """α before the mean."""
    ce = F.cross_entropy(z, y, reduction="none")
    return (0.25 * (1 - torch.exp(-ce)) ** 2 * ce).mean()


@found_in("ls32140/MRL src/SCELoss.py", says="(poly-1), a = 9.2103")
def symmetric(z, y):
    """Cross-entropy plus the reverse one, in which log 0 is log 1e-4: 4·ln 10·(1 − p_y)."""
    p, one_hot = z.softmax(1).clamp(1e-7, 1), F.one_hot(y, z.shape[1]).to(z).clamp(1e-4, 1)
    return F.cross_entropy(z, y, reduction="none") - (p * one_hot.log()).sum(1)


@found_in("AlanChou/Truncated-Loss TruncatedLoss.py, q = 0.7", says="generalised cross-entropy (1 − p_y^q)/q, q = 0.7")
def generalised(z, y):
    """(1 − p_y^q)/q, less a constant."""
    return ((1 - own(z.softmax(1), y) ** 0.7) / 0.7 - (1 - 0.5**0.7) / 0.7).mean()


@found_in("abhuse/polyloss-pytorch polyloss.py", says="(poly-1), a = 1")
def poly(z, y):
    """Cross-entropy plus ε₁·(1 − p_y)."""
    return (F.cross_entropy(z, y, reduction="none") + 1 - own(z.softmax(-1), y)).mean()


@found_in("kaidic/LDAM-DRW losses.py", says="lowered by a margin of its class")
def ldam(z, y):
    """The label's logit is lowered by a margin of its class, and all are scaled."""
    margins = torch.tensor([0.5, 0.4, 0.3, 0.25, 0.2], dtype=z.dtype)[: z.shape[1]]
    return F.cross_entropy(5 * (z - F.one_hot(y, z.shape[1]) * margins[y][:, None]), y)


@found_in("google-research/google-research logit_adjustment", says="logit adjustment")
def logit_adjustment(z, y):
    """τ·log of the classes' frequencies is added."""
    prior = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=z.dtype)[: z.shape[1]]
    return F.cross_entropy(z + prior.log(), y)


@found_in("facebookresearch/moco moco/builder.py and the loss of main_moco.py", says="softmax(z/T), T = 0.07")
def temperature(z, y):
    """Logits divided by 0.07."""
    return F.cross_entropy(z / 0.07, y)


@found_in("Coxy7/robust-finetuning losses/distill.py", says="distillation: T² times the KL divergence")
def distillation(z, teacher):
    """T²·KL of softened rows."""
    kl = F.kl_div(F.log_softmax(z / 10, dim=1), F.softmax(teacher / 10, dim=1), reduction="batchmean")
    return 100 * kl


@found_in("Ilya703/Inheritune src/utils/distillation_loss.py", says="without the factor T²")
def distillation_without_factor(z, teacher):
    """The same without T²."""
    kl = F.kl_div((z / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="none")
    return kl.sum(-1).mean()


@found_in("by-liu/MbLS calibrate/losses/logit_margin_l1.py", says="max(0, max z − z_k − m), m = 3, s = 0.1")
def logit_margins(z, y):
    """Cross-entropy plus margins between the logits."""
    over = F.relu(z.max(1, keepdim=True).values - z - 3)
    return F.cross_entropy(z, y) + 0.1 * over.mean()


@found_in("pytorch/pytorch MultiMarginLoss", says="hinge loss Σ max(0, m + z_k − z_y), m = 1")
def multi_margin(z, y):
    """A hinge loss."""
    return F.multi_margin_loss(z, y)


@found_in("torrvision/focal_calibration Losses/brier_score.py", says="Brier score")
def brier(z, y):
    """Squared error of the probabilities."""
    return ((z.softmax(-1) - F.one_hot(y, z.shape[-1])) ** 2).sum(-1).mean()
