#!/usr/bin/env python3
"""Measure how fast it is: the operator, the networks, and the whole program.

    python scripts/benchmark.py --markdown scripts/BENCHMARK.md --json bench.json --chart bench.png
    python scripts/benchmark.py --only program --sizes 448x256 --frames 120 --limit 150

Ours is set beside a straightforward kernel of the reference's design (one output element at a
time, every tap from memory, a compensated sum), beside what the device could do at most, and the
whole program beside its own engine and, on a CPU, FFmpeg's `minterpolate`. Times are medians of
at least three runs after one to warm up, on a GPU by its own events. Dashes stand for what would
take longer than `--limit` seconds, or more memory than the GPU has. Tables go to the terminal; in a
Markdown file each machine has a section of its own, which is replaced.
"""

import datetime
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import speed
import torch

from sepconv_video.devices import choose_device, fast_precisions
from sepconv_video.display import show_error
from sepconv_video.errors import OptionsError, SepConvVideoError
from sepconv_video.memory import keep_freed


def program_rows(
    bench: speed.Bench, size: tuple[int, int], peak: tuple[float, float]
) -> Iterator[speed.Row]:
    """The whole program."""
    import speed_program  # noqa: PLC0415 - needs PyAV, which a rented GPU may lack

    return speed_program.program_rows(bench, size, peak)


SIZES = "448x256,640x360,1280x720,1920x1080,3840x2160"
QUICK_SIZES = "64x48"
LEAST = 32
TABLES = {
    "operator": (
        "Operator, both frames of a pair, 3 channels; 11 taps come at half resolution",
        {
            "size": "size",
            "taps": "taps",
            "precision": "precision",
            "ms": "ms",
            "gmacs": "G MAC/s",
            "floor": "of the roofline",
            "plain_ms": "straightforward, ms",
            "gain": "times as fast",
        },
        speed.operator_rows,
    ),
    "network": (
        "Network, a new frame from two on the device",
        {
            "size": "size",
            "model": "model",
            "precision": "precision",
            "batch": "pairs at once",
            "ms": "ms",
            "rate": "frames/s",
            "floor": "of the fp32 peak",
        },
        speed.network_rows,
    ),
    "program": (
        "Whole program, 2x with `fast`, H.264 to H.264, ms per source frame",
        {
            "size": "size",
            "frames": "source frames",
            "engine_ms": "engine alone",
            "program_ms": "program",
            "ratio": "program / engine",
            "minterpolate_ms": "minterpolate (CPU)",
            "gain": "times as fast",
        },
        program_rows,
    ),
}
SHARES = {"floor"}


def machine(bench: speed.Bench, peak: tuple[float, float]) -> dict[str, str]:
    """The machine and the versions, and when."""
    is_cuda = bench.device.type == "cuda"
    device = torch.cuda.get_device_name(bench.device) if is_cuda else processor()
    threads = f"{torch.get_num_threads()} threads of {processor()}"
    load = ", ".join(f"{figure:.1f}" for figure in os.getloadavg())
    names = ("torch", "numba", "av", "cupy-cuda12x", "cupy-cuda13x")
    versions = " ".join(f"{name} {found}" for name in names if (found := installed(name)))
    return {
        "device": device,
        "host": f"{threads}; load when begun {load}",
        "roofline": f"{peak[0] / 1e9:.0f} G MAC/s in fp32, {peak[1] / 1e9:.0f} GB/s",
        "versions": f"Python {platform.python_version()} {versions}",
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "command": " ".join(["python scripts/benchmark.py", *sys.argv[1:]]),
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def text_of(key: str, value: float | str | None) -> str:
    """A figure with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, str | int):
        return str(value)
    if key in SHARES:
        return f"{value:.1%}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cells(name: str, rows: list[speed.Row]) -> list[list[str]]:
    """The lines of a table, its head first."""
    columns = TABLES[name][1]
    head = list(columns.values())
    return [head, *([text_of(key, row.get(key)) for key in columns] for row in rows)]


def aligned(name: str, rows: list[speed.Row]) -> str:
    """A table for the terminal."""
    lines = cells(name, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    return "\n".join([f"\n{TABLES[name][0]}", *body])


def section(about: dict[str, str], results: dict[str, list[speed.Row]]) -> str:
    """What one machine did, as Markdown."""
    parts = [f"## {about['device']}", ""]
    parts += [
        f"- {key}: {value}" for key, value in about.items() if key not in {"device", "command"}
    ]
    parts += [f"- command: `{about['command']}`"]
    for name, rows in results.items():
        head, *body = cells(name, rows)
        parts += ["", f"**{TABLES[name][0]}**", "", f"| {' | '.join(head)} |"]
        parts += ["|" + "---|" * len(head), *(f"| {' | '.join(line)} |" for line in body)]
    return "\n".join(parts) + "\n"


def put_section(path: Path, new: str) -> None:
    """Replace the section of the same heading, or add one."""
    text = path.read_text() if path.exists() else "# Benchmark\n"
    intro, *sections = text.split("\n## ")
    heading = new.partition("\n")[0]
    kept = [f"## {one.rstrip()}\n" for one in sections]
    names = [one.partition("\n")[0] for one in kept]
    if heading in names:
        kept[names.index(heading)] = new
    else:
        kept.append(new)
    path.write_text("\n".join([intro.rstrip() + "\n", *kept]))


def draw(path: Path, about: dict[str, str], results: dict[str, list[speed.Row]]) -> None:
    """A bar chart: how much faster than the straightforward kernel, and frames per second."""
    import matplotlib  # noqa: PLC0415 - only here of use

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    charts = {"G MAC/s, 51 taps": operator_bars(results), "new frames/s": frame_bars(results)}
    charts = {title: bars for title, bars in charts.items() if bars}
    if not charts:
        raise click.ClickException(f"nothing to draw in `{path}`: no figure within `--limit`")
    most = max(map(len, charts.values()))
    figure, axes = pyplot.subplots(
        1,
        len(charts),
        figsize=(6 * len(charts), 1 + 0.3 * most),
        layout="constrained",
        squeeze=False,
    )
    for axis, (title, bars) in zip(axes[0], charts.items(), strict=True):
        axis.barh(list(bars), list(bars.values()))
        axis.bar_label(axis.containers[0], fmt="%.3g", padding=3)
        axis.set(title=title, xscale="log")
        axis.margins(x=0.2)
        axis.invert_yaxis()
    figure.suptitle(f"{about['device']}, {about['date']}")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def operator_bars(results: dict[str, list[speed.Row]]) -> dict[str, float]:
    """Multiply-accumulates per second of 51 taps, ours and straightforward."""
    bars = {}
    for row in results.get("operator", []):
        if row.get("taps") == 51 and row.get("ms"):
            bars[f"{row['size']} {row['precision']}"] = row["gmacs"]
            if row.get("gain"):
                bars[f"{row['size']} straightforward"] = row["gmacs"] / row["gain"]
    return bars


def frame_bars(results: dict[str, list[speed.Row]]) -> dict[str, float]:
    """New frames per second of networks and programs."""
    bars = {}
    for row in results.get("network", []):
        if row.get("ms"):
            bars[f"{row['size']} {row['model']} {row['precision']}"] = row["rate"]
    for row in results.get("program", []):
        for name in ("program", "minterpolate"):
            if row.get(f"{name}_ms"):
                bars[f"{row['size']} {name}"] = 1000 / row[f"{name}_ms"]
    return bars


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Widths and heights, the smaller first, as they foretell how long the larger take."""
    sizes = []
    if re.fullmatch(r"\d+x\d+(,\d+x\d+)*", text):
        sizes = [tuple(map(int, size.split("x"))) for size in text.split(",")]
    # H.264 of 4:2:0 needs even ones, FFmpeg's filter some blocks
    if not sizes or any(side % 2 or side < LEAST for size in sizes for side in size):
        raise click.ClickException(
            f"`--sizes {text}`: list them as 64x48,448x256, even and at least {LEAST} pixels a side"
        )
    return sorted(sizes, key=lambda size: size[0] * size[1])


def rows_of(
    name: str, bench: speed.Bench, size: tuple[int, int], peak: tuple[float, float]
) -> Iterator[speed.Row]:
    """One table's rows for one size; those before it runs out of the GPU's memory."""
    label = {"size": f"{size[0]}x{size[1]}"}
    try:
        for row in TABLES[name][2](bench, size, peak):
            yield label | row
    except torch.OutOfMemoryError:
        yield label


def measure(
    bench: speed.Bench, sizes: list[tuple[int, int]], names: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, list[speed.Row]]]:
    """Fill the tables, one after the other, and print each."""
    peak = speed.peaks(bench)
    about = machine(bench, peak)
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    results: dict[str, list[speed.Row]] = {}
    for name in names or TABLES:
        rows = results[name] = []
        try:
            for size in sizes:
                rows += rows_of(name, bench, size, peak)
        finally:  # what there is, where it is cut short
            print(aligned(name, rows), flush=True)
    return about, results


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.option("--device", default="auto", show_default=True)
@click.option("--sizes", default=SIZES, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(TABLES)), help="Only these tables.")
@click.option("--limit", default=15.0, show_default=True, help="Most seconds for one figure.")
@click.option("--frames", default=60, show_default=True, help="Most frames for the whole program.")
@click.option(
    "--clips", default="../shared/data/val", show_default=True, help="Folder of clips to use."
)
@click.option("--quick", is_flag=True, help="A tiny size, a few frames: does it run?")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write here.")
@click.option("--chart", type=click.Path(path_type=Path), help="PNG to write.")
@click.option("--markdown", type=click.Path(path_type=Path), help="File of sections to update.")
def main(*, device, sizes, only, limit, frames, clips, quick, json_path, chart, markdown) -> None:
    if not any(Path(clips).glob("*.mp4")):
        raise click.ClickException(
            f"no `.mp4` in `{clips}`: name a folder of clips with `--clips`; "
            "`scripts/make_sample.py NAME.mp4` makes one"
        )
    if quick:
        sizes, limit, frames = QUICK_SIZES, 1, 4
    shapes = sizes_of(sizes)
    try:
        where = choose_device(device)
    except SepConvVideoError as error:
        show_error(error)
        sys.exit(2 if isinstance(error, OptionsError) else 1)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    else:
        keep_freed()  # as the program does
    bench = speed.Bench(where, fast_precisions(where), limit, frames, Path(clips))
    about, results = measure(bench, shapes, only)
    if json_path is not None:
        json_path.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    if markdown is not None:
        put_section(markdown, section(about, results))
    if chart is not None:
        draw(chart, about, results)


if __name__ == "__main__":
    main()
