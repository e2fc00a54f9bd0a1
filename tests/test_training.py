"""Training: which crops are taken, exact repetition and resume, losses."""

import csv
import importlib.util
import math
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("cv2", reason="TRAINING NOT TESTED: the extra `train` is not installed")

from sepconv_video.errors import VideoError
from sepconv_video.models import Fast
from sepconv_video.training.clips import is_usable, tabulate_crops
from sepconv_video.training.loop import Recipe, Trainer, train, validate
from sepconv_video.training.losses import LOSSES
from sepconv_video.training.samples import Samples
from sepconv_video.training.synthetic import layered_triples

PATCH = 32
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


def moving_clip(frames=9, height=64, width=96):
    """A texture that moves 3 pixels per frame, (T, 3, H, W) uint8."""
    random = torch.Generator().manual_seed(1)
    texture = torch.rand(3, height, width + 4 * frames, generator=random)
    texture = torch.nn.functional.avg_pool2d(texture[None], 5, 1, 2)[0] * 255
    shifts = [texture[:, :, 3 * t : 3 * t + width] for t in range(frames)]
    return torch.stack(shifts).to(torch.uint8)


def fresh_trainer(recipe):
    torch.manual_seed(recipe.seed)
    picture = torch.randint(0, 256, (3, 80, 90), dtype=torch.uint8)
    samples = Samples([moving_clip()], [picture], PATCH, torch.device("cpu"), recipe.seed)
    return Trainer(Fast(), samples, recipe)


RECIPE = Recipe(steps=6, batch=4, warmup_steps=2)


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_two_runs_with_one_seed_are_the_same():
    first, second = fresh_trainer(RECIPE), fresh_trainer(RECIPE)
    for _ in range(3):
        assert first.step() == second.step()
    assert same(first.model, second.model)
    assert same(first.average, second.average)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = fresh_trainer(RECIPE)
    for _ in range(4):
        whole.step()
    first = fresh_trainer(RECIPE)
    for _ in range(2):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    torch.rand(100)  # whatever happened in between must not matter
    second = fresh_trainer(RECIPE)
    second.restore(tmp_path / "checkpoint.pt")
    for _ in range(2):
        second.step()
    assert same(whole.model, second.model)
    assert same(whole.average, second.average)


def test_training_moves_the_weights_towards_the_truth(tmp_path):
    trainer = fresh_trainer(Recipe(steps=40, batch=4, warmup_steps=5, synthetic=0.0))
    # an untrained network finds such small motion by itself: there must be something to mend
    torch.nn.init.normal_(trainer.model.head.weight, std=0.05)
    clips = {"clip": moving_clip()}
    before = validate(trainer.model, clips, 1)
    assert list(train(trainer, minutes=10, save_minutes=10, run=tmp_path)) == [40]
    assert validate(trainer.model, clips, 1) > before + 0.5
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["40"]
    assert (tmp_path / "checkpoint.pt").exists()


def test_the_half_precision_path_runs():
    """What a GPU does in fp16; slow on a CPU, so one step of one patch."""
    trainer = fresh_trainer(Recipe(steps=1, batch=1, synthetic=0.0, autocast="bf16"))
    assert 0 < trainer.step() < 10
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_rate_warms_up_and_ends_at_zero():
    recipe = Recipe(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [recipe.rate_at(step) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == 1.0
    assert rates[100] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_stills_cuts_duplicates_and_flashes_are_rejected():
    moving = moving_clip().float().mean(1)
    first, second, third = moving[0], moving[1], moving[2]
    other = moving[3].flip(0) * 0.2
    assert is_usable(first, second, third)
    assert not is_usable(first, first, first)
    assert not is_usable(first, second, other)
    assert not is_usable(first, first, second)
    assert not is_usable(first, second + 40, third)


def test_crops_lie_inside_their_clips_and_prefer_motion():
    still = moving_clip()[:1].expand(9, -1, -1, -1)
    half = moving_clip()
    half[:, :, :, 48:] = half[:1, :, :, 48:]  # only the left half moves
    table = tabulate_crops([still, half], PATCH)
    clip, middle, stride, top, left = table.places.T
    assert set(clip.tolist()) == {1}
    assert (middle - stride).min() >= 0
    assert (middle + stride).max() <= 8
    assert (top + PATCH).max() <= 64
    assert (left + PATCH).max() <= 96
    assert table.weights[left < 32].mean() > 2 * table.weights[left >= 48].sum()


@pytest.mark.parametrize("clips", [[], [moving_clip()[:1].expand(9, -1, -1, -1)]])
def test_nothing_to_train_on_is_told(clips):
    with pytest.raises(VideoError, match="nothing to train on"):
        tabulate_crops(clips, PATCH)


def generators():
    return torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)


def test_synthetic_triples_move_and_stay_in_range():
    textures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    triples = layered_triples(textures, 3, PATCH, *generators())
    assert triples.shape == (3, 3, 3, PATCH, PATCH)
    assert triples.min() >= 0
    assert triples.max() <= 1
    assert (triples[:, 0] - triples[:, 1]).abs().mean() > 0.01


def test_some_synthetic_triples_are_blurred_by_their_motion(monkeypatch):
    from sepconv_video.training import synthetic

    textures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    sharpness = []
    for shutter in (0.0, 1.0):
        monkeypatch.setattr(synthetic, "SHUTTER", shutter)
        triples = layered_triples(textures, 16, PATCH, *generators())
        sharpness.append(triples.diff(dim=-1).abs().mean((1, 2, 3, 4)))
    is_same = sharpness[1] == sharpness[0]  # bit by bit
    assert 4 < is_same.sum() < 16
    assert (sharpness[1] < sharpness[0])[~is_same].all()
    assert (sharpness[1] < 0.95 * sharpness[0]).any()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_least_at_the_truth(name):
    true = torch.rand(2, 3, 36, 36)  # not a multiple of 8, so that halves of halves are odd
    near, far = true + 0.01 * torch.randn_like(true), true + 0.1 * torch.randn_like(true)
    measure = LOSSES[name]
    assert measure(true, true) < measure(near, true) < measure(far, true)


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "read_folder", lambda folder: {folder.name: moving_clip()})
    return module


def call(script, run, *options):
    """Run the script on a made clip, in the folder `run`."""
    made = ["--data", run.parent, "--run", run, "--batch", 1, "--patch", PATCH, "--device", "cpu"]
    return CliRunner().invoke(script.main, [str(word) for word in (*made, *options)])


def test_what_was_killed_in_its_last_validation_is_exported_by_the_next_call(
    script, monkeypatch, tmp_path
):
    def killed(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(script, "validate", killed)
        assert call(script, run, "--steps", 1).exit_code == 1
    assert not (run / "weights.safetensors").exists()
    done = call(script, run, "--steps", 1)
    assert done.exit_code == 0, done.output
    assert list(script.scores(run)) == [1]
    assert (run / "weights.safetensors").exists()
    assert (run / "curve.png").exists()


def test_clips_too_short_to_validate_with_are_left_out_and_told(script, monkeypatch, tmp_path):
    clips = {"train": moving_clip(), "short": moving_clip()[:2]}
    monkeypatch.setattr(script, "read_folder", lambda _: clips)
    done = call(script, tmp_path / "run", "--steps", 1, "--save-minutes", 0)
    assert done.exit_code == 0, done.output
    assert "short.mp4` is too short to validate with" in done.output
    assert script.scores(tmp_path / "run")[1] > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", 0], "--batch"),
        (["--patch", 2], "--patch"),
        (["--patch", 80], "no clip has 80x80 pixels"),
        (["--start", SCRIPT], "cannot read weights"),
        (["--start", SCRIPT.parent], "is a directory"),
        (["--start", SCRIPT.parents[1] / "weights" / "fine.safetensors"], "of another network"),
        (["--device", "gpu"], "unknown device `gpu`"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(script, tmp_path, options, message):
    done = call(script, tmp_path / "run", *options)
    assert isinstance(done.exception, SystemExit)
    assert message in done.output
    assert not (tmp_path / "run").exists()


def test_what_a_run_goes_on_with_is_told_where_it_differs(script, tmp_path):
    assert call(script, tmp_path, "--steps", 1).exit_code == 0
    assert "instead" not in call(script, tmp_path, "--steps", 1).output
    done = call(script, tmp_path, "--steps", 1, "--loss", "decibel", "--batch", 2, "--patch", 48)
    told = "loss decibel instead of laplacian, patch 48 instead of 32\n"
    assert f"at step 1, batch 2 instead of 1, {told}" in done.output
    done = call(script, tmp_path, "--steps", 1, "--seed", 5)
    assert done.exit_code == 2
    assert "was begun with seed 0, not 5" in done.output


def test_a_checkpoint_of_another_network_is_told(script, tmp_path):
    assert call(script, tmp_path, "--steps", 1).exit_code == 0
    done = call(script, tmp_path, "--model", "fine")
    assert done.exit_code == 1
    assert "damaged, or of another network" in done.output


def test_a_checkpoint_is_started_from_by_its_averaged_weights(script, tmp_path):
    trainer = fresh_trainer(RECIPE)
    trainer.step()
    trainer.save(tmp_path / "checkpoint.pt")
    network = Fast()
    script.load_start(network, tmp_path / "checkpoint.pt")
    assert same(network, trainer.average)


@pytest.mark.parametrize("carried", [["weights.safetensors", "psnr.csv"], []])
def test_a_session_on_a_fresh_machine_brings_back_what_there_is(tmp_path, carried):
    """Where training becomes no better: the command `python3` does nothing."""
    carry = tmp_path / ".carry" / "fast"
    for path in (tmp_path / "bin", tmp_path / "scripts", carry):
        path.mkdir(parents=True)
    (tmp_path / "bin" / "python3").symlink_to("/bin/true")
    script = shutil.copy(SCRIPT.with_name("gpu_session.sh"), tmp_path / "scripts")
    brought = ["checkpoint.part.aa", *carried]
    for name in brought:
        (carry / name).write_text(name)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        [script], check=True, env={"PATH": path, "OUT": "out", "BENCHMARK": "0", "DEVICE": "cpu"}
    )
    for name in brought:
        assert (tmp_path / "out" / "fast" / name).read_text() == name


@pytest.mark.parametrize("library", ["cv2", "matplotlib"])
def test_a_missing_library_is_told_before_anything_else(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit, match=r'pip install "\.\[train\]"'):
        runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("unvalidated", "psnrs", "best"),
    [(0, (35.0, math.nan), 1), (1, (36.0, 30.0), 2), (0, (math.nan, 30.0, 31.0), 3)],
)
def test_the_best_validated_weights_are_kept(
    script, monkeypatch, tmp_path, unvalidated, psnrs, best
):
    """Whatever a run that is lost, or one without validation, has scored before or after them."""
    scores, exported = iter(psnrs), []
    monkeypatch.setattr(script, "validate", lambda *_: next(scores))
    monkeypatch.setattr(script, "save_file", lambda *_: exported.append(step))
    for step in range(1, unvalidated + len(psnrs) + 1):
        every = 0 if step <= unvalidated else 4
        done = call(script, tmp_path / "run", "--steps", step, "--validate-every", every)
        assert done.exit_code == 0, done.output
    assert exported[-1] == best
