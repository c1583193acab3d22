"""What the compiler makes of Triton's kernels for an H100 or H200 (sm_90), in the tiles that calls really get.

No GPU is needed: a process without the interpreter launches them with a driver that only compiles. It measures each
kernel's machine code; as a script, this file prints the table: `python tests/test_gpu_compiled.py`. The plan is that of
an everyday call on a GPU: coefficients of its own for each element, some elements ignored.

MULTISMOOTH_TRITONS names folders of other releases (`pip install --no-deps --target FOLDER triton==3.6.0`), with which
everything is compiled, too.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # conftest would set 1
    sys.path.append(str(Path(__file__).parent / "support"))

import programs
import pytest
from requirements import need, version

UNALIGNED = 50_257  # rows of bfloat16 that are no multiple of 16 bytes
# {group: [(shape, dtype, with every option, blocks that may share a row, blocks that share a row in `both`, dtype of
# soft targets where there are some)]}
# Each group is compiled in a process of its own, which takes 4 to 10 CPU seconds.
GROUPS = {
    "vocabularies": [
        ((8, 1000), "bfloat16", False, 16, 1),
        ((8, 32_000), "bfloat16", False, 16, 2),
        ((8, UNALIGNED), "bfloat16", False, 16, 4),
        ((8, 50_304), "bfloat16", False, 16, 4),
        ((8, 128_256), "bfloat16", False, 16, 8),
        ((8, 262_144), "bfloat16", False, 16, 16),
    ],
    "options": [
        ((8, 1000), "bfloat16", True, 16, 1),
        ((8, UNALIGNED), "bfloat16", True, 16, 4),
        ((8, 128_256), "bfloat16", True, 16, 8),
    ],
    "float32": [
        ((8, 1000), "float32", False, 16, 1),
        ((8, UNALIGNED), "float32", False, 16, 4),
        ((8, 128_256), "float32", False, 16, 8),
    ],
    "few classes": [
        *(((65_536, classes), dtype, False, 16, 1) for classes in (2, 10) for dtype in ("float32", "bfloat16")),
        ((65_536, 10), "float32", True, 16, 1),
        ((4096, 30), "float32", False, 16, 1),
        ((4096, 100), "bfloat16", False, 16, 1),
    ],
    "one block": [
        ((8, 32_000), "bfloat16", False, 1, 1),
        ((8, UNALIGNED), "bfloat16", False, 1, 1),
        ((8, 65_024), "bfloat16", False, 1, 1),
        ((8, 128_256), "bfloat16", False, 1, 1),
        ((8, UNALIGNED), "bfloat16", True, 1, 1),
    ],
    "images": [
        ((2, 150, 4096), "bfloat16", False, 16, 1),
        ((2, 1000, 4096), "bfloat16", False, 16, 1),
    ],
    "soft targets": [
        ((8, 1000), "bfloat16", False, 16, 1, "bfloat16"),
        ((8, UNALIGNED), "bfloat16", False, 16, 8, "float32"),
        ((8, 128_256), "bfloat16", False, 16, 16, "bfloat16"),
        ((8, 65_024), "bfloat16", False, 1, 1, "bfloat16"),
        ((4096, 30), "float32", True, 16, 1, "float32"),
    ],
}


CAPPED = [((8, 1000), "bfloat16", True, 16, 1), ((8, UNALIGNED), "float32", False, 16, 4)]  # with a soft cap, too
MIN_CLASSES_ROWS = 1000  # rows of fewer are not read 16 bytes at a time, and their machine code is not read
BYTES = {None: 0, "bfloat16": 2, "float32": 4}  # of a logit, and of a soft target


@dataclass(frozen=True)
class Code:
    """A compiled kernel. The counts are of one thread: it takes `logits` of a tile, in `accesses` of 16 bytes."""

    kernel: str
    shape: tuple[int, ...]
    dtype: str
    options: bool
    targets: str | None  # dtype of soft targets; None: they are labels
    expected_blocks: int  # that share a row in `both`
    blocks: int
    warps: int
    resident: bool
    edge: bool
    logits: int
    accesses: int
    registers: int
    stack: int
    instructions: int
    exponentials: int
    wide_loads: int
    wide_stores: int
    clustered: bool
    adds_up: bool  # the last program to finish adds up the losses
    number: int  # of the kernel: calls that share one compiled nothing


# --- in a process of its own -----------------------------------------------------------------------------------------


class Driver:
    """What Triton asks about a GPU before it compiles."""

    def get_current_target(self):
        return need("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def plan_of(shape, options, epsilon, targets, softcap=None):
    torch, plan_of_kernel = need("torch"), need("multismooth.torch.gpu.arguments").KernelPlan
    elements, row = (shape[0], *shape[2:]), (1, shape[1], *(1,) * (len(shape) - 2))
    each, rows, more = torch.ones(elements), {"labels": torch.zeros(elements, dtype=torch.int64)}, {}
    if targets is not None:
        rows = {"u": torch.zeros(shape, dtype=getattr(torch, targets)), "u_sum": None}
    if options:
        more = {"v": torch.ones(row), "v_sum": torch.ones(1), "mask": torch.ones(row, dtype=torch.bool), "z_loss": 0.1}
    plan = plan_of_kernel(a=(1 - epsilon) * each, b=epsilon * each, active=each > 0, softcap=softcap, **rows, **more)
    plan.column, plan.tolerance = torch.ones(shape[1]) if targets and options else None, 1e-3 if targets else None
    return plan


def said(program, *options, of):
    """What a program that comes with Triton says about bytes of machine code."""
    program = Path(need("triton").__file__).parent / "backends/nvidia/bin" / program
    with tempfile.NamedTemporaryFile() as file:
        file.write(of)
        file.flush()
        return subprocess.run([program, *options, file.name], capture_output=True, text=True, check=True).stdout


def machine_code(cubin):
    """The instructions, of 16 bytes each: by the sections of the ELF file."""
    table, (entry, number, names) = struct.unpack_from("<Q", cubin, 40)[0], struct.unpack_from("<3H", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + entry * k) for k in range(number)]
    start = sections[names][4]
    return b"".join(
        cubin[place : place + size]
        for name, _, _, _, place, size in sections
        if cubin[start + name :].startswith(b".text.")
    )


def disassembled(codes):
    """{key: accesses and exponentials of a kernel's machine code}, for {key: machine code}.

    All of them at once: to disassemble any number takes 0.3 CPU seconds, as long as to compile one.
    """
    lines = []
    if codes:
        text = said("nvdisasm", "--binary", "SM90", of=b"".join(codes.values()))
        lines = re.findall(r"/\*[0-9a-f]{4,}\*/ +(.*;)", text)
    ends = list(accumulate((len(code) // 16 for code in codes.values()), initial=0))
    assert len(lines) == ends[-1]
    read = {"exponentials": r"MUFU\.EX2", "wide_loads": r"LDG\.E\S*\.128", "wide_stores": r"STG\.E\S*\.128"}
    return {
        key: {name: len(re.findall(pattern, "\n".join(lines[start:end]))) for name, pattern in read.items()}
        for key, (start, end) in zip(codes, pairwise(ends), strict=True)
    }


def measured(kernel, arguments, options):
    """The numbers of `Code` that are read off the ELF file and the PTX, or follow from the tile."""
    rows, cols, group, _, _, edge, _ = arguments[-7:]
    cubin = kernel.asm["cubin"]
    usage = said("cuobjdump", "-res-usage", of=cubin)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    logits = rows * cols // (32 * options["num_warps"] * options["num_ctas"])
    return {
        "blocks": options["num_ctas"],
        "warps": options["num_warps"],
        "resident": group == 0,
        "edge": edge > 0,
        "logits": logits,
        "accesses": logits * arguments[0].itemsize // 16,
        "registers": registers,
        "stack": stack,
        "instructions": len(machine_code(cubin)) // 16,
        "clustered": "barrier.cluster" in kernel.asm["ptx"],
        "adds_up": bool(re.search(r"atom\.\S*acq_rel", kernel.asm["ptx"])),
    }


def others():
    """{kernel: bytes of stack of each of its variants}, for the kernels that take no tile of logits."""
    torch, choice, launch = need("torch"), need("multismooth.torch.gpu.choice"), need("multismooth.torch.gpu.launch")
    need("triton.runtime").driver.set_active(Driver())
    kernels, found = choice.compiled(), {}

    def launcher(name):
        def launch(*arguments, **options):
            kernel = getattr(kernels, name).run(*arguments, grid=(1,), warmup=True, **options)
            usage = said("cuobjdump", "-res-usage", of=kernel.asm["cubin"])
            found.setdefault(name, []).append(int(re.search(r"STACK:(\d+)", usage).group(1)))

        return {name: _Grid(launch)}

    launchers = [launcher(name) for name in ("lookup", "everyday", "sums", "guard", "rescale")]
    choice.compiled = lambda: SimpleNamespace(**{name: grid for one in launchers for name, grid in one.items()})
    choice.device = lambda tensor: True
    plans, problem, conventions = (need(f"multismooth.{name}") for name in ("torch.gpu.plans", "problem", "registry"))
    call = problem.Problem(torch.zeros(100, 7), torch.zeros(100, dtype=torch.int64), 0.1)
    for convention in ("torch", "flax-examples"):
        for reduction, ignored, z_loss in (("mean", -100, None), ("sum", None, 0.1)):
            settings = problem.Settings(conventions.resolve(convention), 1, False, ignored, reduction)
            plans.planned(call._replace(z_loss=z_loss), settings)
    weight, each = torch.ones(7), torch.ones(100)
    arrays = call._replace(weight=weight, sample_weight=each, label_smoothing=each, class_mask=weight > 0, z_loss=0.1)
    soft = arrays._replace(targets=call.logits)
    for convention in ("torch", "others"):
        settings = problem.Settings(conventions.resolve(convention), 1)
        for size in (100, 1):
            plans.MAX_ELEMENTS_IN_ONE_LAUNCH = size
            for one in (arrays, arrays._replace(normalizer=each[0]), call._replace(weight=weight)):
                plans.planned_from_arrays(one, settings)
            plans.planned_from_arrays(soft, settings._replace(soft=True))
    launch.guarded({"label_smoothing": (each, 1.0)})
    launch.guarded({name: (weight, high) for name, high in zip("abcde", (1.0, *[None] * 4), strict=True)})
    for dtype in (torch.bfloat16, torch.float32):
        launch.rescaled_(torch.zeros(100, 7, dtype=dtype), torch.ones(()))
    choice.compiled = lambda: kernels
    return found


def compiled(cases, softcap=None):
    """The Code of all kernels of the cases, and of one more call with another ε each."""
    torch, choice, launch = need("torch"), need("multismooth.torch.gpu.choice"), need("multismooth.torch.gpu.launch")
    need("triton.runtime").driver.set_active(Driver())
    kernels, found, known, read = choice.compiled(), [], {}, {}
    unread = {"exponentials": 0, "wide_loads": 0, "wide_stores": 0}

    def launcher(name):
        def launch(*arguments, **options):
            kernel = getattr(kernels, name).run(*arguments, grid=(1,), warmup=True, **options)
            if kernel not in known:
                numbers = {"kernel": name.removeprefix("soft_"), "number": len(known)}
                known[kernel] = numbers | measured(kernel, arguments, options)
                if reads_code and not adds_up:
                    read[kernel] = machine_code(kernel.asm["cubin"])
            found.append((case, kernel))

        return {name: _Grid(launch)}

    names = [f"{prefix}{name}" for prefix in ("", "soft_") for name in ("forward", "backward", "both")]
    wrapped = SimpleNamespace(tl=kernels.tl, **{key: one for name in names for key, one in launcher(name).items()})
    choice.compiled = lambda: wrapped
    for shape, dtype, options, blocks, shared, *targets in cases:
        choice.max_cluster_blocks = lambda device, blocks=blocks: blocks if choice.compiles_clusters() else 1
        targets = targets[0] if targets else None
        case = {"shape": shape, "dtype": dtype, "options": options, "targets": targets, "expected_blocks": shared}
        logits = torch.zeros(shape, dtype=getattr(torch, dtype))
        reads_code, adds_up = softcap is None and (shape[1] >= MIN_CLASSES_ROWS or len(shape) > 2), False
        for epsilon in (0.1, 0.3):
            plan = plan_of(shape, options, epsilon, targets, softcap)
            _, *found_by_forward = launch.losses(logits, plan, 1)
            launch.gradient(logits, plan, 1, *found_by_forward)
            launch.triton(logits, plan, 1)
        if shared == 1:
            adds_up = True
            plan.ticket = torch.zeros((), dtype=torch.int32)
            launch.triton(logits, plan, 1, summed=True)
    choice.compiled = lambda: kernels
    read = disassembled(read)
    return [Code(**case, **known[kernel], **read.get(kernel, unread)) for case, kernel in found]


class _Grid:
    def __init__(self, launch):
        self.launch = launch

    def __getitem__(self, grid):
        return self.launch


# --- the tests -------------------------------------------------------------------------------------------------------


OTHER_TRITONS = tuple(filter(None, os.environ.get("MULTISMOOTH_TRITONS", "").split(os.pathsep)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Of this session, and of all its workers: two that ask about one group, or groups with a kernel in common."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    place.mkdir(exist_ok=True)
    return place


@cache
def answers(group, triton, folder):
    """What `answer` says, from this process or from another worker."""
    need("torch")
    need("triton")
    known = folder / f"{group}.{('', *OTHER_TRITONS).index(triton)}.json"
    if known.exists():
        return json.loads(known.read_text())
    path = os.pathsep.join(filter(None, [triton, *sys.path]))
    variables = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "triton"), "PYTHONPATH": path}
    imports = ("torch", "triton", "pytest")
    done = programs.run(__file__, "--json", group, imports=imports, imported_with=variables.items())
    assert done.returncode == 0, done.stderr[-3000:]
    written = folder / f"{os.getpid()}.json"
    written.write_text(done.stdout)
    written.replace(known)
    return json.loads(done.stdout)


@pytest.fixture(params=GROUPS, scope="module")
def group(request):
    return request.param


@pytest.fixture(params=["", *OTHER_TRITONS], ids=lambda folder: folder or "installed", scope="module")
def triton(request):
    """Where another Triton than the installed one is."""
    return request.param


@pytest.fixture
def all_codes(group, triton, folder):
    return [Code(**code | {"shape": tuple(code["shape"])}) for code in answers(group, triton, folder)["codes"]]


@pytest.fixture
def codes(all_codes):
    """The Code of a group's kernels, of calls that ask for the loss of each element."""
    return [code for code in all_codes if not code.adds_up]


@pytest.fixture
def adding(all_codes):
    """[(the Code of a `both` that adds up the losses, that of the same `both` that does not)]"""
    both = [code for code in all_codes if code.kernel == "both"]
    plain = {(code.shape, code.dtype, code.options, code.targets): code for code in both if not code.adds_up}
    return [(code, plain[code.shape, code.dtype, code.options, code.targets]) for code in both if code.adds_up]


@pytest.fixture
def clusters(group, triton, folder):
    """Whether Triton compiles clusters; 3.9 is the first that does."""
    return answers(group, triton, folder)["clusters"]


def named(codes, *kernels, rows=True):
    """The Code of these kernels, of rows of many classes or of images."""
    least = MIN_CLASSES_ROWS if rows else 1
    shapes = [code.shape for code in codes if (len(code.shape) == 2) == rows and code.shape[1] >= least]
    return [code for code in codes if code.kernel in kernels and code.shape in shapes]


def test_nothing_spills(codes):
    assert codes
    assert not [code for code in codes if code.stack]


def test_kernels_that_take_no_tile_compile_too(triton, folder):
    found = answers("others", triton, folder)
    launched = {"lookup": 4, "everyday": 16, "sums": 8, "guard": 2, "rescale": 2}
    assert {name: len(stacks) for name, stacks in found.items()} == launched
    assert not any(map(any, found.values()))


def is_3_7(triton):
    """Whether Triton 3.7 compiles: a kernel has 16 bytes on the stack, and soft rows take half an instruction more."""
    return not triton and version("triton")[:2] == (3, 7)


def test_a_soft_cap_compiles_and_spills_nothing(triton, folder):
    """As a number. Its exponential and its division make a logit 30 instructions dearer."""
    stacks = answers("capped", triton, folder)
    assert len(stacks) > 2 * len(CAPPED)
    assert max(stacks) <= (16 if is_3_7(triton) else 0)


def test_to_add_up_the_losses_costs_no_stack_and_hardly_a_register(adding):
    """All programs but one jump over 400 instructions."""
    for code, plain in adding:
        assert code.stack <= plain.stack, code
        assert code.warps == plain.warps, code
        assert code.registers <= max(plain.registers + 32, 64), code
        assert code.instructions <= plain.instructions + 400, code


def test_as_many_blocks_share_a_row_as_fit_and_wait_for_each_other(codes, clusters):
    for code in codes:
        assert code.blocks == (code.expected_blocks if clusters and code.kernel == "both" else 1), code
        assert code.clustered == (code.blocks > 1), code


def test_two_blocks_fit_on_a_multiprocessor(codes):
    """It has 2,048 threads and 65,536 registers. Where blocks share a row, one loads while the other computes."""
    for code in named(codes, "both"):
        if code.blocks > 1 and code.dtype == "bfloat16" and not code.options:
            assert 2 * 32 * code.warps * code.registers <= 65_536, code


def test_memory_is_accessed_in_16_bytes(codes):
    for code in named(codes, "forward", "backward", "both"):
        reads = 1 if code.kernel != "both" or code.resident else 2
        loads = (code.accesses + code.logits * BYTES[code.targets] // 16) * reads
        assert code.wide_loads == loads or (code.options and code.wide_loads >= loads), code
        assert code.wide_stores == (0 if code.kernel == "forward" else code.accesses), code
    for code in named(codes, "forward", "backward", "both", rows=False):
        assert code.wide_loads >= code.accesses, code


def test_one_exponential_for_a_logit(codes):
    """Where a maximum is running, there may be two more for each 16 bytes: for the running one, and to merge them all.

    An element and its edge may have four more.
    """
    for code in named(codes, "forward", "backward", "both"):
        running = 0 if code.kernel == "backward" or code.resident else 2 * code.accesses
        reads = 1 if code.kernel != "both" or code.resident else 2
        assert code.exponentials <= code.logits * reads + running + 4, code


def test_instructions_for_a_logit(codes, triton):
    """An H200 can issue 27 in the time of 4 bytes, and 40 in that of 6. This is without options and edges."""
    for code in named(codes, "forward", "both", "backward"):
        if code.dtype == "bfloat16" and (code.resident or code.kernel != "both"):
            soft_forward = 32 if is_3_7(triton) else 31
            labels, soft = {"forward": (21, soft_forward), "both": (22, 33), "backward": (17, 17)}[code.kernel]
            most = labels if code.targets is None else soft
            assert code.options or code.edge or code.instructions <= most * code.logits, code


def test_the_rows_in_flight_fit_into_the_l2_cache(codes):
    """Where a row is read twice: those of 132 multiprocessors, each with as many blocks as its registers allow."""
    for code in named(codes, "both"):
        if not code.resident:
            threads = 32 * code.warps
            blocks = min(2048 // threads, 65_536 // (threads * (code.registers + 7 & ~7)))
            bytes_of_class = BYTES[code.dtype] + BYTES[code.targets]
            assert 132 * blocks * code.shape[1] * bytes_of_class <= 40 * 2**20, code


def test_another_smoothing_compiles_nothing(codes):
    first, again = ([code.number for code in codes if code.kernel == "both"][start::2] for start in (0, 1))
    assert first == again
    assert len(set(first)) == len(first) >= 2


def table():
    """The measurements as text."""
    lines = [
        "kernel    logits        dtype     targets   options  blocks×warps  registers  stack  instructions/logit  "
        "exponentials"
    ]
    for code in dict.fromkeys(compiled(case for cases in GROUPS.values() for case in cases)):
        shape = "×".join(map(str, code.shape))
        each = code.instructions / code.logits
        lines.append(
            f"{code.kernel:9} {shape:13} {code.dtype:9} {code.targets or 'labels':9} "
            f"{'all' if code.options else 'none':8} {code.blocks:6}×{code.warps:<6} {code.registers:9} {code.stack:6} "
            f"{each:19.1f} {code.exponentials / code.logits:13.2f}"
        )
    return "\n".join(lines)


def answer(group):
    """What a process of its own says of a group, as `answers` returns it."""
    if group == "others":
        return others()
    if group == "capped":
        return [code.stack for code in compiled(CAPPED, softcap=30.0)]
    clusters = need("multismooth.torch.gpu.choice").compiles_clusters()
    return {"codes": [asdict(code) for code in compiled(GROUPS[group])], "clusters": clusters}


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[2])) if "--json" in sys.argv else table())
