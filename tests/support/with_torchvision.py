"""Runs a program that imports torchvision, with a PyTorch for CPUs, too.

torchvision on PyPI is built for CUDA's PyTorch. Beside another one its operators do not load, and so neither does the
package, although its transforms use none. Here operators of these names are declared first, and do nothing.

    python with_torchvision.py program.py
"""

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

if torch.version.cuda is None:
    package = Path(find_spec("torchvision").origin).parent
    texts = [(package / f"_{name}_registrations.py").read_text(encoding="utf-8") for name in ("meta", "autograd")]
    for name in set(re.findall(r'(?:torchvision::|register_meta\(")(\w+)"', "".join(texts))):
        torch.library.define(f"torchvision::{name}", "() -> Tensor")
runpy.run_path(sys.argv[1], run_name="__main__")
