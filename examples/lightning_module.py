"""Lightning: the loss in `training_step`, logged with the unsmoothed loss, in float32 and in bf16-mixed."""

import logging

import lightning
import torch

import multismooth.torch as ms

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    def __init__(self, loss):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        self.loss, self.seen = loss, []

    def training_step(self, batch, _):
        x, labels = batch
        logits = self.net(x)  # bfloat16 under bf16-mixed; the loss is computed and returned in float32
        loss = self.loss(logits, labels)
        nll = ms.loss(logits.detach(), labels, label_smoothing=0.0)  # perplexity is of this one
        self.log_dict({"loss": loss, "nll": nll})
        self.seen.append((loss.item(), nll.item(), loss.dtype, logits.dtype))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def smoothed(logits, labels):
    return ms.loss(logits, labels, label_smoothing=0.1)


def trained(loss, precision):
    lightning.seed_everything(0, verbose=False)
    x, labels = torch.randn(256, 20), torch.randint(10, (256,))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=32)
    model = Classifier(loss)
    trainer = lightning.Trainer(
        max_epochs=2, precision=precision, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, batches)
    return model.seen


for precision in ("32-true", "bf16-mixed"):
    ours = trained(smoothed, precision)
    theirs = trained(torch.nn.CrossEntropyLoss(label_smoothing=0.1), precision)
    furthest = max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True))
    print(f"{precision}: loss {ours[-1][0]:.6f}, unsmoothed {ours[-1][1]:.6f}; at most {furthest:.0e} from PyTorch's")
    assert furthest < 1e-6
    assert ours[-1][2] == torch.float32
assert ours[-1][3] == torch.bfloat16
