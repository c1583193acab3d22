"""Does a label-smoothed teacher harm its student? On 5,000 real digits, at temperatures 1, 2 and 4.

    python benchmarks/distillation.py [--data mnist|digits] [--seeds 8] [--out distillation.json] [--picture it.svg]

Teachers are convolutional, with ε of 0, 0.1 and 0.3. A student is a dense network that learns from the teacher's
logits alone. Every seed draws the split, the initial weights and the batches; all models of a seed share them. The
table has test accuracy in %, mean ± standard error over seeds, and the paired difference to the student of the
unsmoothed teacher at the same temperature. "spread" is the standard deviation of the teacher's logits over the wrong
classes of a training image, relative to the distance between the label's logit and their mean: what is left of "which
wrong class is nearly right".
"""

import argparse
import json
import sys

import numpy as np
import torch
from rich.progress import track

import multismooth.torch as ms
from multismooth.demo.data import batch_order, load
from multismooth.demo.with_torch import ConvNet

SMOOTHING, TEMPERATURES = (0.0, 0.1, 0.3), (1.0, 2.0, 4.0)
TRAIN, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 1000, 50, 40, 2e-3, 1e-4


def images_of(split, count=None):
    return torch.from_numpy(split.images[:count]).float().permute(0, 3, 1, 2), torch.from_numpy(split.labels[:count])


def student(side):
    layers = torch.nn.Flatten(), torch.nn.Linear(side * side, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    return torch.nn.Sequential(*layers)


def trained(model, images, loss, seed, epochs):
    """The model after training. `loss` takes the logits of a batch and its indices."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batch = min(BATCH, len(images))
    for index in map(torch.from_numpy, batch_order(len(images), batch, epochs * (len(images) // batch), seed)):
        optimizer.zero_grad()
        loss(model(images[index]), index).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, images, labels):
    return 100 * (model(images).argmax(1) == labels).float().mean().item()


def spread(logits, labels):
    """The standard deviation over the wrong classes, relative to their mean distance from the label's logit."""
    right = torch.nn.functional.one_hot(labels, 10).bool()
    wrong = logits[~right].view(len(labels), 9)
    return (wrong.std(1) / (logits[right] - wrong.mean(1))).median().item()


def run(data, seed, train, epochs):
    """{what: number} of one seed."""
    digits = load(data, seed)
    images, labels = images_of(digits.train, train)
    tests = images_of(digits.test)
    torch.manual_seed(seed)
    first = student(digits.side).state_dict()

    def learn(loss):
        model = student(digits.side)
        model.load_state_dict(first)
        return accuracy(trained(model, images, loss, seed, epochs), *tests)

    found = {"alone": learn(lambda z, index: ms.loss(z, labels[index], label_smoothing=0.0))}
    for epsilon in SMOOTHING:
        torch.manual_seed(seed)
        loss = lambda z, index, e=epsilon: ms.loss(z, labels[index], label_smoothing=e)  # noqa: E731
        teacher = trained(ConvNet(digits.side), images, loss, seed, epochs)
        with torch.no_grad():
            taught = teacher(images)
        found |= {f"teacher {epsilon}": accuracy(teacher, *tests), f"spread {epsilon}": spread(taught, labels)}
        for heat in TEMPERATURES:
            found[f"student {epsilon} {heat:g}"] = learn(
                lambda z, index, t=taught, T=heat: ms.distillation_loss(z, t[index], temperature=T)
            )
    return found


def told(values):
    """mean ± standard error."""
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.2f} ± {error:.2f}"


def table(results):
    columns = {name: np.array([result[name] for result in results]) for name in results[0]}
    lines = [f"student without a teacher: {told(columns['alone'])}", ""]
    heats = "".join(f" T = {heat:g} | difference |" for heat in TEMPERATURES)
    lines += [f"| teacher's ε | teacher | spread |{heats}", "| --- | --- | --- |" + " --- | --- |" * len(TEMPERATURES)]
    for epsilon in SMOOTHING:
        cells = [f"{epsilon:g}", told(columns[f"teacher {epsilon}"]), told(columns[f"spread {epsilon}"])]
        for heat in TEMPERATURES:
            own, base = columns[f"student {epsilon} {heat:g}"], columns[f"student {SMOOTHING[0]} {heat:g}"]
            cells += [told(own), "" if epsilon == SMOOTHING[0] else told(own - base)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(results, path):
    """Students' accuracy over the temperature, one line for each teacher."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "distillation"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    for shift, (epsilon, colour) in enumerate(zip(SMOOTHING, ("#4c4c4c", "#1f77b4", "#d95f02"), strict=True)):
        columns = [np.array([result[f"student {epsilon} {heat:g}"] for result in results]) for heat in TEMPERATURES]
        errors = [column.std(ddof=1) / np.sqrt(len(column)) for column in columns]
        places = np.arange(len(TEMPERATURES)) + 0.06 * (shift - 1)
        teacher = np.mean([result[f"teacher {epsilon}"] for result in results])
        label = f"teacher with ε = {epsilon:g} ({teacher:.1f} % itself)"
        means = [column.mean() for column in columns]
        axes.errorbar(places, means, errors, marker="o", capsize=3, color=colour, label=label)
    alone = np.mean([result["alone"] for result in results])
    axes.axhline(alone, color="#888888", linestyle=":", label="student without a teacher")
    axes.set_xticks(range(len(TEMPERATURES)), [f"T = {heat:g}" for heat in TEMPERATURES])
    axes.set_ylabel("test accuracy of the student, %")
    figure.legend(frameon=False, fontsize="small", loc="outside lower center", ncols=2)
    figure.savefig(path, metadata={"Date": None})


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--train", type=int, default=TRAIN)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out")
    parser.add_argument("--picture")
    parser.add_argument("--results", help="the --out of an earlier run, to draw it or print its table again")
    options = parser.parse_args(arguments)
    if options.results:
        with open(options.results, encoding="utf-8") as file:
            results = json.load(file)
    else:
        torch.set_num_threads(1)
        seeds = track(range(options.seeds), description="seeds", disable=not sys.stderr.isatty())
        results = [run(options.data, seed, options.train, options.epochs) for seed in seeds]
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    if options.picture:
        picture(results, options.picture)
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
