"""The official weights: nothing without the user's word, nothing but the official files."""

import importlib.util
import os
import pty
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sepconv_video import doctor, shipped, weights
from sepconv_video.cli import main as tool
from sepconv_video.errors import OptionsError, WeightsError
from sepconv_video.models import Fast

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "download_weights.py"
CONTENT = b"the official weights\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "of" / "ours"
    monkeypatch.setenv("SEPCONV_VIDEO_CACHE", str(folder))
    return folder


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("download_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def official(monkeypatch):
    """Make a content count as the official one of `l1`."""

    def declare(content):
        model = replace(shipped.OFFICIAL_MODELS["l1"], blob_id=shipped.git_blob_id(content))
        monkeypatch.setitem(shipped.OFFICIAL_MODELS, "l1", model)

    return declare


@pytest.fixture
def site():
    """A server on this machine; what it answers by path, 404 else, and the paths asked for."""
    answers, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = answers.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"not here")

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers, asked
        server.shutdown()
        thread.join()


def run(script, *arguments):
    return CliRunner().invoke(script.main, [str(argument) for argument in arguments])


def test_content_is_named_as_git_does():
    assert shipped.git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert shipped.git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_mirrors_are_tried_in_order_until_one_has_the_right_file(
    script, site, official, cache, monkeypatch
):
    url, answers, asked = site
    official(CONTENT)
    answers["/wrong/network-l1.pytorch"] = CONTENT[:-1]
    answers["/right/network-l1.pytorch"] = answers["/later/network-l1.pytorch"] = CONTENT
    monkeypatch.setattr(script, "MIRRORS", (f"{url}/wrong", f"{url}/right/", f"{url}/later"))
    done = run(script, "l1", "--yes", "--mirror", f"{url}/gone")
    assert done.exit_code == 0, done.output
    assert asked == [f"/{place}/network-l1.pytorch" for place in ("gone", "wrong", "right")]
    assert (cache / "network-l1.pytorch").read_bytes() == CONTENT
    assert len(list(cache.iterdir())) == 1


def test_each_failure_is_told_in_one_line_with_the_remedy(script, site, cache, monkeypatch):
    url, answers, _ = site
    answers["/wrong/network-lf.pytorch"] = CONTENT
    # nobody listens on port 1
    mirrors = (f"{url}/gone", f"{url}/wrong", "http://127.0.0.1:1", "nonsense")
    monkeypatch.setattr(script, "MIRRORS", mirrors)
    done = run(script, "lf", "--yes")
    assert done.exit_code == 1
    error = done.stderr.splitlines()[0]
    for word in ("cannot fetch `lf`", "404", "not the official", "refused", "unknown url type"):
        assert word in error
    assert "scripts/download_weights.py lf --from FILE" in done.stderr
    assert not cache.exists()


def test_without_the_users_word_nothing_is_asked_for(script, site, cache, monkeypatch):
    url, _, asked = site
    monkeypatch.setattr(script, "MIRRORS", (url,))
    done = run(script, "l1")
    assert done.exit_code == 2
    assert "strictly for academic purposes only" in done.stdout
    assert "add `--yes`" in done.stderr
    assert not asked
    assert not cache.exists()


def test_without_any_standard_input(script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OptionsError, match="no terminal to ask on"):
        script.agree(yes=False)


@pytest.mark.parametrize(("answer", "goes_on"), [(b"n\n", False), (b"y\n", True)])
def test_the_question_on_a_terminal(tmp_path, answer, goes_on):
    (tmp_path / "other").write_bytes(b"x")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [sys.executable, SCRIPT, "l1", "--from", tmp_path / "other"]
    done = subprocess.run(
        command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1
    assert done.stdout.index("academic purposes only") < done.stdout.index("accept these terms?")
    assert ("is not the official" in done.stderr) == goes_on


def test_a_file_got_otherwise(script, cache, tmp_path):
    path = tmp_path / "mine.pytorch"
    assert "cannot read" in run(script, "l1", "--yes", "--from", path).stderr
    path.write_bytes(CONTENT)
    refused = run(script, "l1", "--yes", "--from", path)
    assert refused.exit_code == 1
    assert "not the official" in refused.stderr
    assert "`--force`" in refused.stderr
    assert not cache.exists()
    assert run(script, "l1", "--yes", "--force").exit_code == 2
    assert run(script, "l1", "--yes", "--from", path, "--force").exit_code == 0
    assert (cache / "network-l1.pytorch").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(script, official, cache, tmp_path):
    official(CONTENT)
    (tmp_path / "file").write_bytes(CONTENT)
    cache.parent.parent.write_bytes(b"a file where a folder should be")
    failed = run(script, "l1", "--yes", "--from", tmp_path / "file")
    assert failed.exit_code == 1
    assert "error: cannot write" in failed.stderr
    assert "SEPCONV_VIDEO_CACHE" in failed.stderr


def test_the_tool_says_how_to_fetch_and_then_finds_the_weights(
    script, official, tmp_path, capsys, monkeypatch
):
    with pytest.raises(WeightsError, match="are not installed") as caught:
        weights.load_model("l1")
    assert "`python scripts/download_weights.py l1`" in caught.value.hint
    with pytest.raises(WeightsError, match="are not installed"):
        shipped.weights_digest("lf")

    assert listed(capsys)["l1"].endswith("to fetch: python scripts/download_weights.py l1")
    state = Fast().state_dict()
    torch.save(state, tmp_path / "file")
    official((tmp_path / "file").read_bytes())
    assert run(script, "l1", "--yes", "--from", tmp_path / "file").exit_code == 0
    assert listed(capsys)["l1"].endswith("(academic use only)")
    loaded = weights.load_model("l1").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert ("model", "l1", "ok") in doctor._models()


def test_the_doctor_names_all_that_is_broken(cache, capsys):
    cache.mkdir(parents=True)
    (cache / "network-l1.pytorch").write_bytes(CONTENT)
    torch.save(Fast().state_dict(), cache / "network-lf.pytorch")
    with pytest.raises(SystemExit) as caught:
        tool(["--doctor"])
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert "l1: cannot read weights" in out
    assert "lf: ok" in out
    assert err.startswith("error: broken: model `l1`\n")


def test_a_cache_that_cannot_be_looked_at(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPCONV_VIDEO_CACHE", str(tmp_path / ("x" * 300)))
    assert listed(capsys)["l1"].endswith("l1.pytorch`: file name too long")
    with pytest.raises(WeightsError, match=r"cannot read `.*`: file name too long"):
        shipped.weights_digest("l1")
    assert not any("l1" in found for found in doctor._models())


def test_a_user_without_a_home(script, capsys, tmp_path, monkeypatch):
    for name in ("SEPCONV_VIDEO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it then does
    assert listed(capsys)["l1"].endswith("as this user has no home folder")
    assert weights.load_model("fast")
    with pytest.raises(WeightsError, match="no home folder") as caught:
        weights.load_model("l1")
    assert "SEPCONV_VIDEO_CACHE" in caught.value.hint
    (tmp_path / "file").write_bytes(CONTENT)
    failed = run(script, "l1", "--yes", "--from", tmp_path / "file", "--force")
    assert failed.exit_code == 1
    assert "SEPCONV_VIDEO_CACHE" in failed.stderr


def listed(capsys):
    """The lines of `--list-models` by name."""
    with pytest.raises(SystemExit):
        tool(["--list-models"])
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


def test_the_usual_cache_of_each_platform(monkeypatch):
    monkeypatch.delenv("SEPCONV_VIDEO_CACHE")
    monkeypatch.setenv("HOME", "/home/a")
    for platform, variables, folder in (
        ("linux", {}, "/home/a/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/big"}, "/big"),
        ("darwin", {"XDG_CACHE_HOME": "/big"}, "/home/a/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/app"}, "/app"),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("XDG_CACHE_HOME", raising=False)
            patch.setattr(sys, "platform", platform)
            for name, value in variables.items():
                patch.setenv(name, value)
            assert shipped.cache_folder() == Path(folder, "sepconv-video")
