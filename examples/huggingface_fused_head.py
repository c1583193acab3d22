"""Hugging Face with a fused head: a model whose forward returns the smoothed loss and never makes the logits.

A subclass, so that from_pretrained, DDP and FSDP work as before. The Trainer passes num_items_in_batch by itself.
"""

import resource

import torch
import transformers
from transformers.modeling_outputs import CausalLMOutputWithPast

from multismooth.torch import linear_loss, loss

transformers.logging.set_verbosity_error()


class SmoothedLlamaForCausalLM(transformers.LlamaForCausalLM):
    label_smoothing = 0.1

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, **inputs):
        if labels is None:
            return super().forward(input_ids, attention_mask=attention_mask, **inputs)
        hidden = self.model(input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        smoothed = linear_loss(
            hidden[:, :-1], self.lm_head.weight, labels[:, 1:], label_smoothing=self.label_smoothing,
            normalizer=num_items_in_batch,
        )  # fmt: skip
        return CausalLMOutputWithPast(loss=smoothed)


torch.manual_seed(0)
vocabulary, sizes = 32_000, {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
config = transformers.LlamaConfig(vocab_size=vocabulary, num_attention_heads=2, **sizes)
model = SmoothedLlamaForCausalLM(config)
tokens = torch.randint(vocabulary, (8, 256))
labels = torch.where(torch.arange(256) < torch.randint(2, 257, (8, 1)), tokens, -100)


def gradient(loss):
    """(loss, gradients, how much the process' memory rose in units of the float32 logits)"""
    model.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = loss()
    value.backward()
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return value.detach(), [p.grad.clone() for p in model.parameters()], rise / (tokens.numel() * vocabulary * 4)


gradient(lambda: model(tokens[:, :8], labels=labels[:, :8]).loss)  # what is loaded once does not count
fused, fused_gradients, fused_rise = gradient(lambda: model(tokens, labels=labels).loss)
plain, gradients, rise = gradient(lambda: loss(model(tokens).logits[:, :-1], labels[:, 1:], label_smoothing=0.1))
print(f"fused {fused:.6f}, memory {fused_rise:.2f} of the logits; logits first {plain:.6f}, {rise:.2f}")
assert torch.allclose(fused, plain, rtol=1e-6)
assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(fused_gradients, gradients, strict=True))
assert fused_rise < 1 < rise
