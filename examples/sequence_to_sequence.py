"""Characters to characters: words of Python's own manual, spelt backwards. Padding, a head without logits, a prior."""

import re
from pydoc_data.topics import topics

import torch

import multismooth.torch as ms

words = sorted(set(re.findall(r"\b[a-z]{3,8}\b", " ".join(topics.values()))))
PAD, START = 26, 27
torch.manual_seed(0)


def padded(words, before=(), length=8):
    rows = [[*before, *(ord(letter) - ord("a") for letter in word)] for word in words]
    return torch.tensor([row + [PAD] * (length + len(before) - len(row)) for row in rows])


sources, targets = padded(words), padded([word[::-1] for word in words])
inputs = padded([word[::-1] for word in words], before=[START])[:, :-1]
test = torch.rand(len(words)) < 0.1
prior = ms.unigram_prior(targets[~test], 28, ignore_index=PAD)  # of the letters; PAD and START get almost nothing
embedding = torch.nn.Embedding(28, 32)
encoder, decoder = (torch.nn.GRU(32, 128, batch_first=True) for _ in range(2))
head = ms.LinearLoss(128, 28, prior=prior, label_smoothing=0.1, ignore_index=PAD)
parameters = [p for part in (embedding, encoder, decoder, head) for p in part.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=4e-3)


def hidden(rows):
    """The decoder's features of every position, (words, letters, 128)."""
    _, state = encoder(embedding(sources[rows].flip(1)))  # padding first, so that the word's end is not forgotten
    return decoder(embedding(inputs[rows]), state)[0]


def measured(rows):
    """(share of letters, loss per letter without smoothing), both without the padding."""
    with torch.no_grad():
        features = hidden(rows)
        known, logits = targets[rows] != PAD, features @ head.weight.T + head.bias
        nll = ms.loss(logits, targets[rows], label_smoothing=0.0, ignore_index=PAD)
    return (logits.argmax(-1) == targets[rows])[known].float().mean().item(), nll.item()


train, held_out = (~test).nonzero()[:, 0], test.nonzero()[:, 0]
entropy = -(prior * prior.log()).sum().item()
for _ in range(6):
    for batch in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        head(hidden(batch), targets[batch]).backward()
        optimizer.step()
accuracy, nll = measured(held_out)
print(
    f"{len(words)} words; unseen ones: {accuracy:.1%} of the letters right, {nll:.2f} nats each, {entropy:.2f} unread"
)

assert nll < entropy - 1
