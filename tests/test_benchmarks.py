"""The benchmarks run and report what they should; how fast anything is, is not tested."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import programs
import pytest
from requirements import interpreted, need
from tolerance import tolerance

pytestmark = pytest.mark.thorough

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A benchmark as a module, importing its neighbours as a script does."""
    need("torch")
    need("rich")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHMARKS:
            del sys.modules[name]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everyone_computes_the_same_and_is_reported(load, dtype, tmp_path, capsys):
    need("matplotlib")
    files = [tmp_path / name for name in ("a.json", "a.md", "a.png")]
    options = ["--no-compile", "--no-memory", "--rounds", "1", "--shapes", "8x5,3x4x2x2", "--dtypes", dtype]
    options += ["--plot", str(files[2])] if dtype == "float32" else []
    load("cpu").main([*options, "--out", str(files[0]), "--markdown", str(files[1])])
    rows = json.loads(files[0].read_text())["rows"]
    assert {row["dtype"] for row in rows} == {dtype}
    found = {row["name"] for row in rows}
    assert {"torch eager", "multismooth.torch", "multismooth.torch, out="} <= found
    assert "multismooth.numpy" in found or dtype == "bfloat16"
    for row in rows:
        assert row["seconds"] > 0
        if row["name"] != "copy (floor)":
            loss, gradient = row["error"]
            assert loss < (2e-2 if row["dtype"] == "bfloat16" else 1e-6), row
            assert gradient < (2e-2 if row["dtype"] == "bfloat16" else 2e-6), row
    assert "| multismooth.torch |" in files[1].read_text()
    assert dtype == "bfloat16" or files[2].stat().st_size > 10_000


def test_regressions_are_told_from_noise(load, tmp_path, capsys):
    def result(name, ratio, processor="a"):
        row = {"shape": [4, 3], "dtype": "float32", "name": "ours", "ratio": ratio}
        path = tmp_path / name
        path.write_text(json.dumps({"rows": [row], "sweep": [], "machine": {"processor": processor}}))
        return str(path)

    main = load("regress").main
    old = result("old.json", 0.5)
    assert main([old, result("same.json", 0.52)]) == 0
    assert main([old, result("fast.json", 0.3)]) == 0
    assert "faster: 4×3, float32, ours: 0.5 -> 0.3" in capsys.readouterr().out
    assert main([old, result("slow.json", 0.6, "b")]) == 1
    said = capsys.readouterr().out
    assert "slower: 4×3, float32, ours: 0.5 -> 0.6 (+20%)" in said
    assert "other machines: a and b" in said
    assert main([old, result("slow.json", 0.6), "--tolerance", "0.3"]) == 0


def test_readme_has_the_committed_figures(load):
    result = json.loads((BENCHMARKS / "results" / "cpu.json").read_text())
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    assert load("report").for_readme(result).strip() in readme
    everyday = json.loads((BENCHMARKS / "results" / "everyday.json").read_text())
    assert load("everyday").markdown(everyday, "1").strip() in readme


# --- on a GPU: the harness itself, on a CPU ---------------------------------------------------------------------------


def test_no_benchmark_is_taken_for_a_package():
    """A script's directory is searched first: a cuda.py there is what PyTorch gets for `cuda.bindings`."""
    for path in BENCHMARKS.glob("*.py"):
        assert path.stem != "cuda"
        assert importlib.util.find_spec(path.stem) is None, path


def test_the_gpu_harness_runs_and_says_that_a_cpu_proves_nothing(load, tmp_path):
    need("matplotlib")
    files = [tmp_path / name for name in ("a.json", "a.md", "a.png")]
    options = ["--device", "cpu", "--quick", "--no-compile", "--rounds", "1", "--parts", "logits,soft,small,head"]
    load("gpu").main([*options, "--out", str(files[0]), "--markdown", str(files[1]), "--plot", str(files[2])])
    result = json.loads(files[0].read_text())
    found = {(row["dtype"], row["name"]): row for row in result["rows"]}
    for group in ("bfloat16", "float32, small"):
        for name in ("torch eager", "multismooth.torch", "multismooth.torch, out=", "multismooth.torch, upstream"):
            row = found[group, name]
            assert row["seconds"] > 0
            loss, gradient = row["error"]
            if name.startswith("multismooth"):
                assert loss < tolerance("float32"), row
                assert gradient < tolerance(group.partition(",")[0]), row
                assert row["ran"], row
    assert found["bfloat16, soft targets", "multismooth.torch"]["error"][0] < tolerance("float32")
    assert found["float32, small", "multismooth.torch"]["wall"] > 0
    assert (
        found["bfloat16", "copy (floor)"]["ratio"] == found["bfloat16, linear head", "the three products"]["ratio"] == 1
    )
    assert found["bfloat16, linear head", "multismooth.torch.linear_loss"]["error"] is not None
    unwanted = {row["name"] for row in result["left out"] if row["reason"] == "not requested"}
    assert unwanted == {"torch.compile", "torch.compile, upstream"}
    assert files[1].read_text().startswith("**MEASURED ON A CPU")
    assert files[2].stat().st_size > 10_000


def test_what_the_gpu_harness_has_measured_is_saved_before_the_next_problem(load, tmp_path, monkeypatch):
    gpu, saved = load("gpu"), tmp_path / "a.json"
    measure = gpu.measure

    def until_the_time_is_up(problem, *arguments):
        if saved.exists():
            raise KeyboardInterrupt
        return measure(problem, *arguments)

    monkeypatch.setattr(gpu, "measure", until_the_time_is_up)
    options = ["--device", "cpu", "--no-compile", "--rounds", "1", "--parts", "small", "--shapes", "6x4,7x5"]
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*options, "--out", str(saved)])
    result = json.loads(saved.read_text())
    assert {tuple(row["shape"]) for row in result["rows"]} == {(6, 4)}
    assert {"torch eager, everyday", "multismooth.torch, everyday"} <= {row["name"] for row in result["rows"]}
    assert result["machine"]["warning"].startswith("MEASURED ON A CPU")


@pytest.mark.parametrize(
    ("kind", "shape", "contenders"),
    [
        *(("Logits", (70, 50), "OF_LOGITS"), ("Logits", (6, 4, 2, 3), "OF_LOGITS")),
        *(("Soft", (70, 50), "OF_SOFT"), ("Head", (70, 16, 33), "OF_HEADS")),
    ],
    ids=str,
)
def test_the_error_column_is_exact(load, kind, shape, contenders):
    """In float64 whoever runs agrees to rounding, and nobody agrees with another smoothing."""
    problem = getattr(load("gpu_problems"), kind)(shape, "float64", "cpu")
    checked = []
    for contender in getattr(load("gpu_contenders"), contenders):
        if contender.smoothing is None or "compile" in contender.name:
            continue
        problem.fill(1)
        reference, other = problem.exact(contender), problem.exact(contender._replace(smoothing=0.2))
        try:
            result = contender.make(problem)()
        except Exception:  # a peer that is not here, or does not run on a CPU. Some write over the logits
            assert not contender.name.startswith(("torch eager", "multismooth"))
            continue
        assert max(problem.error(result, reference, contender)) < tolerance("float64"), contender.name
        assert max(problem.error(result, other, contender)) > 1e-2, contender.name  # labels at random: of the gradient
        checked.append(contender.name)
    assert len(checked) >= 4, checked


class _Device:
    """A device without a clock, which may be dead."""

    dead = False

    def synchronize(self, result=None):
        if self.dead:
            raise RuntimeError("an illegal memory access was encountered")

    def free(self):
        pass


def race(load, device, run):
    """A race of our loss against `run`, which goes first."""
    names = load("gpu_contenders")
    ours = next(contender for contender in names.OF_LOGITS if contender.name == "multismooth.torch")
    problem = load("gpu_problems").Logits((9, 7), "float64", "cpu")
    other = names.Contender("other", lambda problem: lambda: run(problem))
    return load("gpu_race").Race(problem, [other, ours], device)


def test_who_fails_is_left_out_with_the_reason_and_the_others_go_on(load):
    calls = []

    def fails_late(problem):
        calls.append(problem)
        if len(calls) > 4:
            raise ValueError("no more\nand a long story")

    between = race(load, _Device(), fails_late)
    found = between.medians(3, lambda run: float(run() is None))
    assert list(found) == ["multismooth.torch"]
    assert between.reasons == {"other": "ValueError: no more"}
    with pytest.raises(load("gpu_race").DeadDevice, match="--without 'other'"):
        race(load, dead := _Device(), lambda problem: None).attempt("other", _kill, dead)


def _kill(device):
    device.dead = True
    raise RuntimeError("CUDA error")


def test_who_writes_over_the_logits_spoils_nobody(load):
    seen = []

    def writes(problem):
        seen.append(float(problem.logits.abs().sum()))
        return problem.logits.new_zeros(()), problem.logits.zero_()

    device = _Device()
    device.run_with_peak = lambda run: (run(), None)
    between = race(load, device, writes)
    between.medians(1, lambda run: float(run() is None))
    assert len(set(seen)) == len(seen) > 1, "not made anew for each round"
    assert min(seen) > 0, "not made anew"
    between.problem.fill(5)
    references = {}
    assert min(between.check("other", references)[0]) > 0.5
    assert max(between.check("multismooth.torch", references)[0]) < tolerance("float64")


def made_up(**seconds):
    """A result of gpu.py that nobody measured."""
    names = ["copy (floor)", "add (6-byte floor)", "torch eager", *seconds]
    times = dict(zip(names, [1e-3, 1.5e-3, 5e-3, *seconds.values()], strict=True))
    rows = [
        {"shape": [8, 5], "dtype": "bfloat16", "name": name, "seconds": t, "ratio": t / 1e-3, "error": [1e-7, 2e-3]}
        | {"memory": 1.0, "remark": "no smoothing" if name == "quack" else "", "ran": []}
        for name, t in times.items()
    ]
    machine = {"processor": "a card", "driver_version": "1", "versions": {"torch": "2"}}
    return {"machine": machine, "rows": rows, "left out": []}


def test_the_gpu_report_says_floors_what_is_left_out_and_why(load, tmp_path):
    report = load("gpu_report")
    result = made_up(**{"quack": 1.75e-3, report.AT_ONCE: 1.2e-3, "multismooth.jax, jit": 1.8e-3})
    left_out = {"shape": [8, 5], "dtype": "bfloat16", "name": "Liger", "reason": "ValueError: a | b"}
    result["left out"] = [left_out, left_out | {"shape": [9, 5]}]
    text = report.markdown(result)
    assert text.startswith("processor a card, driver_version 1. torch 2.")
    tables = {part.split("**")[1]: part for part in ("\n" + text).split("\n**")[1:] for part in ["**" + part]}
    assert "| quack | 1.75 |" in tables["Time / copy (floor), bfloat16"]
    assert "| quack | 1.17 |" in tables["Time / add (6-byte floor), bfloat16"]
    assert "| quack | 0.35 |" in tables["Time / torch eager, bfloat16"]
    assert "| quack | no smoothing | – |" in text
    assert "| Liger | 8×5 bfloat16; 9×5 bfloat16 | ValueError: a \\| b |" in tables["Not measured"]
    assert "loss_and_grad: 1.5. A kernel for JAX (above 1.3) is wanted." in text
    slow = made_up(**{report.AT_ONCE: 1.8e-3, "multismooth.jax, jit": 1.8e-3})
    assert "A kernel for JAX (above 1.3) is not wanted." in report.markdown(slow)
    slow["machine"]["warning"] = "MEASURED ON A CPU"
    assert "kernel for JAX" not in report.markdown(slow)


def test_two_results_of_a_gpu_compare(load, tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(made_up(ours=1.2e-3)))
    new.write_text(json.dumps(made_up(ours=1.5e-3)))
    assert load("regress").main([str(old), str(new)]) == 1
    assert "slower: 8×5, bfloat16, ours: 1.2 -> 1.5 (+25%)" in capsys.readouterr().out


def test_a_dead_device_keeps_what_was_measured(load, tmp_path, monkeypatch):
    gpu, out = load("gpu"), tmp_path / "a.json"
    seen = []

    def measure(problem, *rest):
        if seen:
            raise gpu.DeadDevice("other left the device unusable")
        seen.append(problem)
        return made_up()["rows"], []

    monkeypatch.setattr(gpu, "measure", measure)
    with pytest.raises(SystemExit, match="left the device unusable"):
        gpu.main(["--device", "cpu", "--no-compile", "--parts", "logits", "--out", str(out)])
    assert len(json.loads(out.read_text())["rows"]) == 3


def test_jax_is_timed_in_a_process_of_its_own(load, tmp_path):
    need("jax")
    out = tmp_path / "a.json"
    options = ["--device", "cpu", "--no-compile", "--rounds", "1", "--parts", "logits,jax", "--shapes", "6x9"]
    load("gpu").main([*options, "--dtypes", "float32", "--out", str(out)])
    result = json.loads(out.read_text())
    (row,) = [row for row in result["rows"] if row["name"] == "multismooth.jax, jit"]
    assert row["ratio"] > 0
    assert max(row["error"]) < tolerance("float32")


def test_every_tile_of_the_gpu_race_computes_the_same(load, tmp_path, monkeypatch, capsys):
    interpreted()
    monkeypatch.setattr(load("gpu_race"), "WARM_UP_ROUNDS", 0)
    out = tmp_path / "tiles.json"
    load("gpu_tiles").main(["--dry", "--shapes", "2x5003", "--out", str(out)])
    result, said = json.loads(out.read_text()), capsys.readouterr().out
    assert result["left out"] == []
    ours = [row for row in result["rows"] if row["error"] is not None]
    assert [row["name"] for row in ours if row["chosen"]] == ["resident, 8,192 logits, 8 warps"]
    kinds = [row["name"].partition(",")[0] for row in ours]
    assert kinds.count("resident") == 2
    assert kinds.count("looping") == 6
    assert ours[-1]["name"] == "forward, then backward"
    for row in ours:
        assert max(row["error"]) < tolerance("float32"), row
    assert "| resident, 8,192 logits, 8 warps (chosen) |" in said
    assert "MEASURED ON A CPU" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu", "--parts", "logits,heads"], "heads is none of logits, soft, small, head, jax"),
        (["--device", "cpu", "--shapes", "4x3"], "name the one part"),
    ],
)
def test_the_gpu_benchmark_refuses_what_means_nothing(load, capsys, arguments, said):
    with pytest.raises(SystemExit):
        load("gpu").main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system has no VmHWM to measure by")
def test_what_an_eager_call_in_jax_costs_is_measured(load):
    need("jax")
    seconds, peak = load("jax_calls").measure_eager((6, 5), "bfloat16", 1, None, 1)
    assert seconds > 0
    assert peak < 2**24


def test_the_calibration_error_is_timed_beside_plain_numpy(load, capsys):
    ratios = load("calibration").main(["--rows", "2000", "--repeats", "1"])
    assert set(ratios) == {(name, dtype) for name in ("probs", "logits") for dtype in ("float32", "float64")}
    assert "plain NumPy" in capsys.readouterr().out


def test_the_losses_beside_smoothing_are_timed(load, capsys):
    load("alternatives").main(["--shape", "6x4", "--rounds", "1", "--frameworks", "torch"])
    said = capsys.readouterr().out
    assert said.count("\n") == 10
    assert "distillation and labels" in said


def test_students_are_compared_and_drawn(load, tmp_path, capsys):
    need("sklearn")
    need("matplotlib")
    module, file, image = load("distillation"), tmp_path / "it.json", tmp_path / "it.svg"
    module.main(["--data", "digits", "--seeds", "2", "--train", "60", "--epochs", "1", "--out", str(file)])
    said = capsys.readouterr().out
    assert said.count("\n") == 4 + len(module.SMOOTHING)
    module.main(["--results", str(file), "--picture", str(image)])
    assert capsys.readouterr().out == said
    assert image.read_text(encoding="utf-8").count("T = ") >= 3


def test_what_a_split_vocabulary_moves_is_counted_and_modelled():
    need("torch")

    def printed(*arguments):
        ended = programs.run(BENCHMARKS / "scale.py", *arguments, imports=["torch", "numba", "rich.console"])
        ended.check_returncode()
        return ended.stdout

    said = printed("--rows", "4", "--classes", "64", "--worlds", "2", "--repeats", "1")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[2:]]
    counted = {row[1]: (int(row[2]), int(row[3])) for row in rows}
    assert counted["multismooth, validate=False"] == (1, 16)  # four numbers of four bytes
    assert counted["multismooth"] == (2, 16 + 104 // 4)  # and 104 bytes for 4 elements
    assert counted["gathered logits"][1] > 4 * 32
    page = (BENCHMARKS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    assert printed("--model").strip() in page
