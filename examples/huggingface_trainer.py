"""Hugging Face: `Trainer(compute_loss_func=...)` is the Trainer's own smoothed loss, at any gradient accumulation."""

import tempfile

import torch
import transformers

from multismooth.transformers import compute_loss

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sentences = []
for length in torch.randint(2, 17, (32,)):  # unequal padding: here the mean of means is not the mean
    tokens, mask = torch.randint(3, 100, (16,)), torch.arange(16) < length
    labels = torch.where(mask, tokens, -100)  # unshifted: compute_loss shifts them
    sentences.append({"input_ids": tokens, "attention_mask": mask.long(), "labels": labels})


def trained(micro_batch, accumulation, **settings):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=100, **sizes))
    function = settings.pop("compute_loss_func", None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation,
            learning_rate=1e-2, lr_scheduler_type="constant", logging_steps=1, report_to=[], use_cpu=True,
            disable_tqdm=True, save_strategy="no", **settings,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=sentences, compute_loss_func=function)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


smoothed = {}
for micro_batch, accumulation in ((8, 1), (4, 2), (2, 4)):
    own = trained(micro_batch, accumulation, compute_loss_func=compute_loss(label_smoothing=0.1))
    theirs = trained(micro_batch, accumulation, label_smoothing_factor=0.1)
    print(f"{micro_batch} x {accumulation}: last loss {own[-1]:.6f}, the Trainer's own {theirs[-1]:.6f}")
    assert torch.allclose(own, theirs, rtol=1e-5), (own, theirs)
    smoothed[accumulation] = own
unsmoothed = trained(8, 1, compute_loss_func=compute_loss(label_smoothing=0.0))

assert torch.allclose(smoothed[1], smoothed[4], rtol=1e-3)
assert torch.allclose(unsmoothed, trained(8, 1), rtol=1e-5)
assert len(smoothed[1]) == 12
