"""The measuring script: which frames each method makes, and the table."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner
from clips import ClipSpec, make_clip

from sepconv_video.video import write_picture

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panned(shift, height=96, width=128):
    """A coloured texture moved to the left by a number of pixels; (H, W, 3) uint8."""
    noise = np.random.default_rng(1).integers(0, 256, (height // 4, 80, 3)).astype(np.float64)
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)
    smooth = sum(np.roll(texture, k, axis=1) for k in range(4)) / 4
    return smooth[:, shift : shift + width].astype(np.uint8)


def test_minterpolate_makes_the_frame_between_each_two(script):
    """From the first pair to the last, in order, colours and all."""
    steps = [0, 6, 14, 20, 30]
    made = list(script.minterpolated(panned(step) for step in steps))
    assert len(made) == 4
    between = [3, 10, 17, 25]
    for k, picture in enumerate(made):
        scores = [script.psnr(picture[16:-16, 32:-32], panned(s)[16:-16, 32:-32]) for s in between]
        assert np.argmax(scores) == k
        blended = ((panned(steps[k]).astype(int) + panned(steps[k + 1])) / 2).astype(np.uint8)
        plain = script.psnr(blended[16:-16, 32:-32], panned(between[k])[16:-16, 32:-32])
        assert scores[k] > plain + 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_minterpolate_of_few_frames(script, count):
    """The frame between two equal ones is that frame, sample for sample."""
    flat = np.full((48, 64, 3), (200, 100, 30), np.uint8)
    made = list(script.minterpolated([flat] * count))
    assert len(made) == max(0, count - 1)
    assert all(np.array_equal(picture, flat) for picture in made)


def test_clips_and_triples_are_measured_by_every_method(script, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    make_clip(clips / "seven.mp4", ClipSpec(count=7))
    triple(clips / "triple")
    wanted = [clips, "--device", "cpu", "--json", tmp_path / "scores.json"]
    plain = measured(script, wanted)
    full = measured(script, [*wanted, "--minterpolate", "--model", "fast"])
    for name, triples in (("seven", 3), ("triple", 1)):
        assert full[name]["triples"] == triples
        assert full[name]["minterpolate_psnr"] > 10
        # the others are not touched by it
        assert {k: v for k, v in full[name].items() if not k.startswith("mint")} == plain[name]
    assert full["triple"]["minterpolate_psnr"] > full["triple"]["average_psnr"] + 3


def measured(script, arguments):
    """Run it, compare the table with the JSON file, and give the latter's items."""
    done = run(script, *arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(Path(arguments[4]).read_text())
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.output.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert rows[0][:3] == ["clip", "n", "average"]
    for name, score in (report["items"] | {"mean": report["mean"]}).items():
        row = next(row for row in rows if row[0].strip("`*") == name)
        for method, cell in zip(rows[0][2:], row[2:], strict=True):
            assert cell == f"{score[f'{method}_psnr']:.2f} / {score[f'{method}_ssim']:.4f}"
    return report["items"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["fast", "runs/a.safetensors"], ["fast", "a"]),
        (["fast", "fast"], ["fast"]),
        (["a/weights.pt", "b/weights.pt"], ["a/weights.pt", "b/weights.pt"]),
        (["fast", "runs/average.pt"], ["fast", "runs/average.pt"]),
    ],
)
def test_each_model_has_a_column_of_its_own(script, given, names):
    """Every training run calls its weights alike."""
    assert list(script.named(given)) == names


def test_a_model_called_like_a_baseline_is_refused(script):
    with pytest.raises(ClickException, match="`--model average`"):
        script.named(["fast", "average"])


def test_items_called_alike_are_told_apart(script, tmp_path):
    for name in ("bees.mp4", "a.mkv"):
        (tmp_path / name).touch()
    assert list(script.items(tmp_path)) == ["a", "bees"]
    (tmp_path / "bees").mkdir()
    (tmp_path / "bees" / "im2.png").touch()
    assert list(script.items(tmp_path)) == ["a.mkv", "bees", "bees.mp4"]


def test_triples_are_found_at_any_depth(script, tmp_path):
    """As Vimeo-90k lies, with links too; other folders are none."""
    for name in ("sequences/00001/0001", "sequences/00001/0002"):
        triple(tmp_path / "data" / name)
    triple(tmp_path / "elsewhere")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "other.mp4").mkdir()
    names = ["linked", "sequences/00001/0001", "sequences/00001/0002"]
    found = script.items(tmp_path / "data")
    assert list(found) == names
    pictures = tmp_path / "pictures"
    run(script, tmp_path / "data", "--device", "cpu", "--save", pictures)
    assert all((pictures / f"{name}.png").exists() for name in names)


def test_middlebury_is_measured_as_it_is_unpacked(script, tmp_path):
    """Its true frames come in an archive of their own."""
    data, truths = tmp_path / "other-data" / "Urban2", tmp_path / "other-gt-interp" / "Urban2"
    data.mkdir(parents=True)
    truths.mkdir(parents=True)
    for folder, name, shift in ((data, "10", 0), (truths, "10i11", 4), (data, "11", 8)):
        write_picture(folder / f"frame{name}.png", panned(shift))
    for given in (tmp_path, tmp_path / "other-data"):
        done = run(script, given, "--device", "cpu")
        assert done.exit_code == 0
        assert done.stdout.count("Urban2`") == 1


def test_a_triple_is_of_one_file_for_each_name(script, tmp_path):
    for name in ("double", "lacking"):
        triple(tmp_path / name)
    write_picture(tmp_path / "double" / "im1.bmp", panned(0))
    (tmp_path / "lacking" / "im2.png").unlink()
    make_clip(tmp_path / "short.mp4", ClipSpec(count=2))
    done = run(script, tmp_path, "--device", "cpu")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[:3] == [
        "left out `double`: it needs one picture `im1`, found: `im1.bmp`, `im1.png`",
        "left out `lacking`: it needs one picture `im2`, found: none",
        "left out `short`: it has fewer than three frames",
    ]


def run(script, *arguments):
    return CliRunner().invoke(script.main, [str(argument) for argument in arguments])


def triple(folder, height=96, width=128):
    folder.mkdir(parents=True)
    for name, shift in (("im1", 0), ("im2", 4), ("im3", 8)):
        write_picture(folder / f"{name}.png", panned(shift, height, width))
    return folder


def test_what_cannot_be_measured_is_named_and_left_out(script, tmp_path):
    folder = tmp_path / "all"
    for name in ("broken", "good", "uneven"):
        triple(folder / name)
    triple(folder / "small", height=4)
    (folder / "broken" / "im2.png").write_bytes(b"x" * 50)
    write_picture(folder / "uneven" / "im3.png", panned(8, height=92))
    (folder / "clip.mp4").write_bytes(b"junk")
    whole = make_clip(tmp_path / "whole.mkv", ClipSpec(count=40, codec="mpeg4"))
    (folder / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    options = ["--device", "cpu", "--json", tmp_path / "new" / "scores.json", "--minterpolate"]
    done = run(script, folder, *options)
    assert done.exit_code == 1, done.output
    left_out = {line.split("`")[1]: line for line in done.stderr.splitlines()}
    assert list(left_out) == ["broken", "clip", "cut", "small", "uneven"]
    assert "im2.png" in left_out["broken"]
    assert "is damaged" in left_out["cut"]
    assert "128x4" in left_out["small"]
    assert "128x96, 128x96, 128x92" in left_out["uneven"]
    assert list(json.loads((tmp_path / "new" / "scores.json").read_text())["items"]) == ["good"]


@pytest.mark.parametrize(
    "options", [["--model", "nope"], ["--device", "nope"], ["--json", "/dev/null/nope/x.json"]]
)
def test_wrong_options_are_told_before_anything_is_measured(script, tmp_path, options):
    done = run(script, tmp_path, *options)
    assert isinstance(done.exception, SystemExit)
    assert "nope" in done.stderr.splitlines()[0]
    assert not done.stdout
