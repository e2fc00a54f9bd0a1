"""The public names, and the README's promises about them."""

import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import ClipSpec, make_clip

import sepconv_video
from sepconv_video.cli import command
from sepconv_video.models import NETWORKS
from sepconv_video.video import Reader

ROOT = Path(__file__).resolve().parents[1]


def test_public_names_are_pinned():
    assert sepconv_video.__all__ == [
        "BusyError",
        "DeviceError",
        "Interrupted",
        "Job",
        "Options",
        "OptionsError",
        "Report",
        "SepConvVideoError",
        "VideoError",
        "WeightsError",
        "interpolate_file",
        "load_model",
    ]
    for name in sepconv_video.__all__:
        assert getattr(sepconv_video, name).__doc__


def test_a_model_is_called_with_two_frames():
    model = sepconv_video.load_model("fast", device="cpu")
    left, right = torch.rand(2, 3, 37, 53), torch.rand(2, 3, 37, 53)
    middle = model(left, right)
    assert middle.shape == left.shape
    assert middle.dtype == torch.float32


@pytest.mark.parametrize("name", ["cuda:99", "foo"])
def test_a_device_that_is_none_is_refused_in_plain_words(name):
    with pytest.raises(sepconv_video.SepConvVideoError, match=f"device `{name}`"):
        sepconv_video.load_model("fast", device=name)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 16)),
        (torch.rand(3, 8, 8), torch.rand(3, 8, 8)),
        (torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8)),
        (torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 3, 8, 8).byte()),
        (torch.rand(0, 3, 8, 8), torch.rand(0, 3, 8, 8)),
        (torch.rand(1, 3, 8, 0), torch.rand(1, 3, 8, 0)),
    ],
)
def test_what_are_no_frames_is_refused_in_plain_words(left, right):
    for model in (sepconv_video.load_model("fast"), NETWORKS["sepconv2017"]()):
        with pytest.raises(ValueError, match="frames are"):
            model(left, right)


def test_rates_times_and_names_may_be_written_otherwise():
    options = sepconv_video.Options(fps=59.94, source_fps=24, start_s=1.5, end_s="1:30")
    assert options.fps == Fraction(60000, 1001)
    assert (options.source_fps, options.start_s, options.end_s) == (24, Fraction(3, 2), 90)
    with pytest.raises(sepconv_video.OptionsError, match="not a number of frames"):
        sepconv_video.Options(fps=float("nan"))
    job = sepconv_video.Job(source="in.mp4", target="out.mp4")
    assert (job.source, job.target) == (Path("in.mp4"), Path("out.mp4"))


def test_numbers_of_other_kinds_are_taken():
    options = sepconv_video.Options(
        factor=np.int64(4), fps=Decimal("29.97"), start_s=1 / 3, end_s=5e1, model=Path("fast")
    )
    assert (type(options.factor), options.factor, options.model) == (int, 4, "fast")
    assert options.fps == Fraction(30000, 1001)
    assert options.start_s == pytest.approx(1 / 3)
    assert sepconv_video.Options(end_s=5e-5).end_s == Fraction(5, 100_000)


@pytest.mark.parametrize(
    "given",
    [
        {"factor": 4.0}, {"factor": None}, {"batch": 1.5}, {"batch": "3"}, {"crf": "x"},
        {"tile": 100.5}, {"device": 0}, {"device": None}, {"model": None}, {"cuts": None},
        {"fps": [1]}, {"start_s": 1j}, {"codec": 5},
    ],
)  # fmt: skip
def test_what_is_no_number_or_no_text_is_refused_at_once(given):
    (name,) = given
    with pytest.raises(sepconv_video.OptionsError, match=f"`{name}` cannot be") as caught:
        sepconv_video.Options(**given)
    assert caught.value.hint.startswith("give ")


def test_a_file_is_made_with_the_defaults(tmp_path):
    source = make_clip(tmp_path / "in.mp4", ClipSpec(count=3))
    job = sepconv_video.Job(source=source, target=tmp_path / "out.mp4")
    report = sepconv_video.interpolate_file(job)
    assert isinstance(report, sepconv_video.Report)
    assert (report.source_frames, report.frames) == (3, 6)
    assert job.target.exists()


def readme_commands():
    """Every command line of the program in the README's code blocks."""
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            for part in re.split(r"&&|;|\|", line.split("#")[0]):
                words = part.split()
                if words and words[0].endswith("sepconv-video"):
                    yield words[1:]


def test_every_command_of_the_readme_parses():
    commands = list(readme_commands())
    assert commands
    for words in commands:
        # parses the options and stops before the body runs
        result = CliRunner().invoke(command, [*words, "--version"])
        assert result.exit_code == 0, (words, result.output)


def test_every_option_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for option in command.params:
        if option.param_type_name == "option":
            assert f"`{option.opts[-1]}" in text, option.opts


def test_every_command_has_help():
    for option in command.params:
        if option.param_type_name == "option":
            assert option.help, option.opts


def test_the_sample_clip_is_made(tmp_path):
    script = ROOT / "scripts" / "make_sample.py"
    subprocess.run([sys.executable, script, tmp_path / "sample.mp4"], check=True)
    with Reader(tmp_path / "sample.mp4") as reader:
        assert len(list(reader.frames())) == 50


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "sepconv_video/__init__.py"
    assert f"## [{sepconv_video.__version__}]" in (ROOT / "CHANGELOG.md").read_text() or (
        "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    )
