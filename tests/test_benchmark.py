"""The benchmark: that it measures what it says, at a tiny size, and where its tables go."""

import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from click import ClickException
from click.testing import CliRunner
from clips import ClipSpec, make_clip

from sepconv_video import devices
from sepconv_video.kernels import reference

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    import benchmark
    import speed

    yield benchmark, speed
    sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize("precisions", [["fp32"], ["fp32", "bf16"]])
def test_every_table_is_filled(scripts, monkeypatch, tmp_path, precisions):
    """bf16 is so slow on some CPUs that it is measured only where it is fast."""
    benchmark, _ = scripts
    monkeypatch.setattr(devices, "has_bf16_units", lambda: "bf16" in precisions)
    make_clip(tmp_path / "clip.mp4", ClipSpec(width=96, height=64, count=3))
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("json", "md", "png")}
    arguments = ["--quick", "--device", "cpu", "--clips", tmp_path, "--json", paths["json"]]
    arguments += ["--markdown", paths["md"], "--chart", paths["png"]]
    ran = CliRunner().invoke(benchmark.main, list(map(str, arguments)), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    results = json.loads(paths["json"].read_text())["results"]
    for name, rows in results.items():
        for row in rows:
            assert all(value for value in row.values()), (name, row)
            assert row["size"] == "64x48"
    operator, network = (
        [(row[key], row["precision"]) for row in results[table]]
        for table, key in (("operator", "taps"), ("network", "model"))
    )
    assert operator == list(product([51, 11], precisions))
    assert results["operator"][0]["gain"] > 1
    assert network == list(product(["fast", "fine", "2017"], precisions))
    (program,) = results["program"]
    assert program["frames"] == 4
    assert set(benchmark.TABLES["program"][1]) == set(program)
    assert paths["md"].read_text().count("\n| 64x48 |") == len(operator) + len(network) + 1
    assert paths["png"].read_bytes()[:4] == b"\x89PNG"


def test_the_straightforward_loop_computes_the_operator(scripts):
    _, speed = scripts
    torch.manual_seed(1)
    image, vertical, horizontal = torch.rand(1, 3, 9, 11), *torch.rand(2, 1, 5, 5, 7)
    made = speed.plain_loop(image.numpy(), vertical.numpy(), horizontal.numpy())
    expected = reference.sepconv(image, vertical, horizontal)
    torch.testing.assert_close(torch.from_numpy(made), expected)


def test_what_would_take_too_long_is_left_out(scripts):
    _, speed = scripts
    bench = speed.Bench(torch.device("cpu"), ["fp32"], 1.0, 4, Path())
    bench.rates = {"operator 51 fp32": 1.0, "operator 11 fp32": 1.0}
    rows = list(speed.operator_rows(bench, (8, 8), (1e9, 1e9)))
    assert rows == [{"taps": K, "precision": "fp32"} for K in (51, 11)]


def test_a_machine_replaces_its_own_section_only(scripts, tmp_path):
    benchmark, _ = scripts
    path = tmp_path / "B.md"
    path.write_text("# Title\n\nIntroduction.\n\n## one\n\nold\n\n## two\n\nkept\n")
    benchmark.put_section(path, "## one\n\nnew\n")
    benchmark.put_section(path, "## three\n\nmore\n")
    found = path.read_text()
    assert (
        found == "# Title\n\nIntroduction.\n\n## one\n\nnew\n\n## two\n\nkept\n\n## three\n\nmore\n"
    )


def test_sizes_are_read_and_sorted(scripts):
    benchmark, _ = scripts
    assert benchmark.sizes_of("448x256,64x48") == [(64, 48), (448, 256)]


@pytest.mark.parametrize("sizes", ["abc", "", "64x48,", "64x48x32", "4x4", "65x48", "-64x48"])
def test_sizes_that_are_none(scripts, sizes):
    benchmark, _ = scripts
    with pytest.raises(ClickException, match="even and at least 32"):
        benchmark.sizes_of(sizes)


def test_a_chart_of_nothing(scripts, tmp_path):
    benchmark, _ = scripts
    with pytest.raises(ClickException, match="no figure within `--limit`"):
        benchmark.draw(tmp_path / "x.png", {}, {"program": [{"size": "64x48"}]})
