"""What became slower or faster between two results of `cpu.py`, or two of `gpu.py`. Status 1 if something is slower.

    python benchmarks/regress.py old.json new.json [--tolerance 0.15]

Compares ratios, because seconds differ from run to run. They are ratios to torch eager; on a GPU, to the copy of the
logits, and for the linear head to its matrix products.
"""

import argparse
import json
import sys
from pathlib import Path


def rows(path):
    """({(shape, dtype, contender): ratio}, machine) of a result file."""
    result = json.loads(Path(path).read_text())
    found = {("×".join(map(str, r["shape"])), r["dtype"], r["name"]): r["ratio"] for r in result["rows"]}
    for row in result.get("sweep", ()):
        shape = "×".join(map(str, row["shape"]))
        found |= {(shape, "sweep", name): ratio for name, ratio in row.items() if name != "shape"}
    return found, result["machine"]


def compare(old, new, tolerance):
    """(slower, faster, missing): lines of text for the ratios that changed by more than the tolerance."""
    slower, faster = [], []
    for key in old.keys() & new.keys():
        change = new[key] / old[key]
        if not 1 / (1 + tolerance) <= change <= 1 + tolerance:
            line = f"{', '.join(key)}: {old[key]:.3g} -> {new[key]:.3g} ({change - 1:+.0%})"
            (slower if change > 1 else faster).append(line)
    return sorted(slower), sorted(faster), sorted(", ".join(key) for key in old.keys() ^ new.keys())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--tolerance", type=float, default=0.15, help="how much a ratio may change")
    options = parser.parse_args(arguments)
    (old, before), (new, after) = rows(options.old), rows(options.new)
    if before["processor"] != after["processor"]:
        print(f"other machines: {before['processor']} and {after['processor']}")
    slower, faster, missing = compare(old, new, options.tolerance)
    for title, lines in (("slower", slower), ("faster", faster), ("on one side only", missing)):
        for line in lines:
            print(f"{title}: {line}")
    print(f"{len(slower)} slower, {len(faster)} faster, {len(old.keys() & new.keys())} compared")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
