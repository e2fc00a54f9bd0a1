"""The networks: exactness of the 2017 one, and what ours must do before and after training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from sepconv_video.models import Fast, Fine, SepConv2017
from sepconv_video.models.bending import Bending, Known
from sepconv_video.models.fading import Fade
from sepconv_video.models.pair import HELP, Pair
from sepconv_video.models.tiles import Place
from sepconv_video.weights import load_model

CHANNELS = {"1": (6, 32), "2": (32, 64), "3": (64, 128), "4": (128, 256), "5": (256, 512)}
DECODER = {"5": (512, 512), "4": (512, 256), "3": (256, 128), "2": (128, 64)}


def official_shapes():
    """(module.index, out, in) in the order of ../shared/sepconv-2017.md."""
    for level, (inputs, outputs) in CHANNELS.items():
        yield from ((f"Conv{level}.{i}", outputs, inputs if i == 0 else outputs) for i in (0, 2, 4))
    for level, (inputs, outputs) in DECODER.items():
        yield from (
            (f"Deconv{level}.{i}", outputs, inputs if i == 0 else outputs) for i in (0, 2, 4)
        )
    for level in "5432":
        yield f"Upsample{level}.1", DECODER[level][1], DECODER[level][1]
    for name in ("Vertical1", "Vertical2", "Horizontal1", "Horizontal2"):
        yield from ((f"{name}.0", 64, 64), (f"{name}.2", 64, 64))
        yield from ((f"{name}.4", 51, 64), (f"{name}.7", 51, 51))


def official_state(prefix):
    """The random state dict of the golden output, under the authors' keys."""
    generator = torch.Generator().manual_seed(2017)
    state = {}
    for name, outputs, inputs in official_shapes():
        scale = math.sqrt(2 / (9 * inputs))
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * scale
        state[f"{prefix}{name}.weight"] = weight
        state[f"{prefix}{name}.bias"] = torch.randn(outputs, generator=generator) * 0.01
    return state


def macs_per_pixel(model, height, width):
    """Multiply-accumulates of all convolutions per pixel of a frame."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        model(torch.rand(1, 3, height, width), torch.rand(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return total / (height * width)


@pytest.mark.parametrize(("prefix", "on_a_gpu"), [("module", False), ("net", True)])
def test_reproduces_the_golden_output(prefix, on_a_gpu, shared, tmp_path: Path, monkeypatch):
    """Also by the way that it takes on a GPU."""
    from sepconv_video.models.blocks import Convolution

    if on_a_gpu:
        monkeypatch.setattr(Convolution, "forward", Convolution.in_eights)
    torch.save(official_state(prefix), tmp_path / "network.pytorch")
    model = load_model(tmp_path / "network.pytorch")
    golden = np.load(shared / "golden" / "sepconv2017.npz")
    left, right, middle = (
        torch.from_numpy(golden[f"{name}_bgr"]).flip(1) for name in ("left", "right", "middle")
    )
    made = model(left.float(), right.float())
    assert (made - middle).norm() <= 1e-4 * middle.norm()
    assert (made - middle).abs().max() <= 1e-4 * middle.abs().max()


def test_2017_network_has_the_published_size():
    model = SepConv2017()
    assert sum(p.numel() for p in model.parameters()) == 21_675_452
    assert macs_per_pixel(model, 64, 64) == 380_484


def test_fine_network_keeps_its_budget():
    model = Fine()
    assert sum(p.numel() for p in model.parameters()) <= 7e6
    assert macs_per_pixel(model, 64, 64) <= 380_000


def test_fast_network_keeps_its_budget():
    """A tenth of the arithmetic of the network of 2017, the operator's included."""
    from sepconv_video.models.aligned import TAPS

    model = Fast()
    assert sum(p.numel() for p in model.parameters()) < 5e6
    assert 25_000 <= macs_per_pixel(model, 128, 128) + 6 * TAPS * (TAPS + 1) <= 380_484 / 10


def test_fine_mixes_what_its_two_motions_make():
    """The last map of its head tells how much of each."""
    fine = Fine()
    left, right = torch.rand(2, 1, 3, 48, 64)
    made = []
    with torch.inference_mode():
        for share in (-50, 0, 50):
            fine.head.bias[-1] = share
            made.append(fine(left, right))
    assert (made[0] - made[2]).abs().max() > 1e-2
    torch.testing.assert_close(made[1], (made[0] + made[2]) / 2)


def texture(height, width):
    """Colourful noise with details of some three pixels, in [0, 1]."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, height + 4, width + 4, generator=random)
    return torch.nn.functional.avg_pool2d(noise, 5, 1)


@pytest.mark.parametrize("network", [Fast, Fine])
def test_an_untrained_network_follows_small_motion(network):
    picture = texture(96, 140)
    left, middle, right = (picture[..., shift : 128 + shift] for shift in (4, 2, 0))
    with torch.inference_mode():
        made = network()(left, right)
    average = ((left + right) / 2 - middle).square().mean()
    assert (made - middle).square().mean() < 0.2 * average


@pytest.mark.parametrize("network", [Fast, Fine])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 53), (90, 64)])
def test_an_untrained_network_keeps_a_still(network, size):
    still = texture(*size)
    with torch.inference_mode():
        made = network()(still, still)
    torch.testing.assert_close(made, still, atol=1e-2, rtol=0)


@pytest.mark.parametrize("network", [Fast, Fine, SepConv2017])
def test_any_size_comes_back_at_its_size(network):
    with torch.inference_mode():
        made = network()(torch.rand(1, 3, 35, 61), torch.rand(1, 3, 35, 61))
    assert made.shape == (1, 3, 35, 61)
    assert made.isfinite().all()


def panorama() -> torch.Tensor:
    """Fine texture on a coarse one, (1, 3, 240, 640) in [0, 1]."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 5, 13, generator=random)
    fine = torch.rand(1, 3, 240, 640, generator=random)
    fine = F.avg_pool2d(F.avg_pool2d(fine, 5, 1, 2), 5, 1, 2) * 2 - 0.5
    return fine * 0.4 + F.interpolate(coarse, (240, 640), mode="bicubic").clamp(0, 1) * 0.6


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_fast_pan_stays_sharp(name):
    """Networks that had seen hardly any such motion took it for a reason to blur."""
    left, middle, right = (panorama()[..., x : x + 400] for x in (52, 100, 148))
    with torch.inference_mode():
        made = load_model(name, torch.device("cpu"))(left, right)
    inner = ..., slice(50, -50), slice(100, -100)
    assert (made[inner] - middle[inner]).square().mean() < 1e-4


@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("radius", [3, 5])
def test_a_lamp_that_moves_in_the_night_stays_whole(name, radius):
    def night(step):
        rows, columns = torch.meshgrid(torch.arange(128), torch.arange(192), indexing="ij")
        distance = ((rows - 60) ** 2 + (columns - 60 - 6 * step) ** 2).sqrt()
        frame = torch.full((1, 3, 128, 192), 0.02)
        frame[:, 0] += 0.9 * (radius - distance).clamp(0, 1)
        frame[:, 0] += 0.08 * (-((distance / 3 / radius) ** 2)).exp()
        return frame

    model = load_model(name, torch.device("cpu"))
    with torch.inference_mode():
        wrong = (model(night(0), night(2)) - night(1)).abs().amax(1)[0]
    assert wrong[night(1)[0, 0] > 0.08].mean() < 10 / 255


def test_where_a_large_motion_leads_out_of_a_frame_the_other_one_is_trusted():
    motion = torch.zeros(1, 4, 32, 48)
    motion[:, 0], motion[:, 2] = -30, 30
    stub = torch.zeros(1, 1, 32, 48)
    frame = torch.zeros(1, 3, 64, 96)
    number = torch.zeros(1, 1, 1, 1)
    none = Fade(torch.ones(1, 1, 4, 6), torch.zeros(1, 1, 4, 6))
    pair = Pair(frame, frame, number, number, none, (motion,), stub, stub)
    trust = pair.piece(None, frame).trust(0)[0, 0]
    assert (trust[:, :14] == -HELP).all()
    assert (trust[:, 16:32] == 0).all()
    assert (trust[:, -14:] == HELP).all()
    piece = pair.piece(Place(0, 64, 64, 96), frame[..., 64:])
    torch.testing.assert_close(piece.trust(0)[0, 0], trust[:, 32:])
    assert not pair._replace(motions=(motion / 2,)).piece(None, frame).trust(0).any()


def test_peaks_are_the_same_in_either_way():
    from sepconv_video.models.blocks import peak

    maps = torch.randn(2, 3, 7, 9)
    assert torch.equal(peak(maps, 3), torch.nn.functional.max_pool2d(maps, 3, 1, 1))  # on a GPU


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_frame_is_moved_alike_alone_and_in_a_batch(mode):
    """Alone it is sampled in strips; whole pixels are met exactly, edges repeated."""
    from sepconv_video.models.blocks import warp

    frames, motion = torch.rand(2, 3, 40, 24), torch.randn(2, 2, 40, 24) * 4
    together = warp(frames, motion, mode)
    assert torch.equal(
        together, torch.cat([warp(frames[i : i + 1], motion[i : i + 1], mode) for i in (0, 1)])
    )
    right = torch.zeros(1, 2, 40, 24)
    right[:, 0] = 3
    moved = warp(frames[:1], right, mode)
    torch.testing.assert_close(moved[..., :-3], frames[:1, ..., 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        moved[..., -3:], frames[:1, ..., -1:].expand(-1, -1, -1, 3), atol=1e-4, rtol=0
    )


@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_the_operator_takes_its_share_of_the_time_of_fast():
    """At most 15 points above its share of the arithmetic, on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    from sepconv_video.models.aligned import TAPS

    model, frames = Fast(), torch.rand(2, 1, 3, 256, 448)
    convolutions = macs_per_pixel(model, 128, 192)
    operator = 2 * 3 * TAPS * (TAPS + 1)  # both frames, three channels
    with torch.inference_mode():
        model(*frames)
        with profile(activities=[ProfilerActivity.CPU]) as made:
            for _ in range(3):
                model(*frames)
    events = made.key_averages()
    ours = [event for event in events if event.key.startswith("sepconv_video::sepconv")]
    assert ours
    time = sum(event.self_cpu_time_total for event in ours)
    share = time / sum(event.self_cpu_time_total for event in events)
    print(
        f"operator: {share:.1%} of the time, {operator / (operator + convolutions):.1%} of the MACs"
    )
    assert share <= operator / (operator + convolutions) + 0.15


@pytest.mark.parametrize("light", [1.0, 0.8])
@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16])
def test_half_precision_changes_hardly_anything(name, weights, light):
    """As the engine does it: frames in fp16, but in fp32 for weights in bf16."""
    from sepconv_video.devices import frames_dtype

    frames = frames_dtype(weights)
    picture = texture(48, 70)
    left, right = picture[..., 3:67], picture[..., :64] * light
    model = load_model(name)
    with torch.inference_mode():
        exact = model(left, right)
        half = model.to(weights)(left.to(frames), right.to(frames))
    assert half.dtype == frames
    assert (half.float() - exact).abs().mean() * 255 < 0.15


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_layout_of_the_weights_does_not_matter(name):
    """They come with the channels last."""
    picture = texture(48, 70)
    left, right = picture[..., 3:67], picture[..., :64]
    model = load_model(name)
    with torch.inference_mode():
        exact = model(left, right)
        turned = model.to(memory_format=torch.contiguous_format)(left, right)
    assert (turned - exact).abs().max() * 255 < 0.25


class Rounded:
    """Convolutions as a GPU does them in half precision: operands and results rounded, sums exact.

    A CPU without the instructions would take hours for the real ones.
    """

    def __init__(self, model, kind):
        """Round the weights of `model` to `kind` for good, and all that its convolutions touch."""
        self.kind = kind
        for parameter in model.parameters():
            parameter.data = self.of(parameter.data)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda _, inputs: (self.of(inputs[0]),))
                module.register_forward_hook(lambda *event: self.of(event[-1]))

    def of(self, values):
        return values.to(self.kind).float()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_psnr_of_real_clips(name, kind, shared):
    """Within 0.3 level mean of fp32, PSNR within 0.02 dB: every second triple of val.

    What moves ambiguously is found one way or another by a hair: single triples go up and down by
    0.07 dB, as the standard deviation tells, whatever rounds them; the mean of few ones does, too.
    """
    from sepconv_video.devices import frames_dtype
    from sepconv_video.training.clips import read_folder

    exact, half = load_model(name), load_model(name)
    rounded = Rounded(half, kind)
    differences, gains = [], []
    for clip in read_folder(shared / "data" / "val").values():
        for first in range(0, len(clip) - 2, 4):
            left, true, right = clip[first : first + 3, None].float() / 255
            with torch.inference_mode():
                wanted = exact(left, right)
                if frames_dtype(kind) == kind:
                    left, right = rounded.of(left), rounded.of(right)
                made = half(left, right)
            differences.append((made - wanted).abs().mean().item() * 255)
            errors = [(frame.clamp(0, 1) - true).square().mean() for frame in (wanted, made)]
            gains.append(10 * (errors[0] / errors[1]).log10().item())
    mean, change = sum(differences) / len(differences), sum(gains) / len(gains)
    print(f"{name}, {kind}: mean {mean:.3f} level (worst {max(differences):.2f}), {change:+.4f} dB")
    assert mean < 0.3
    assert abs(change) < 0.02


WAYS = [((0, 8), (5, 0)), ((3, 3), (3, 3)), ((9, 30), (0, 2))]
"""Row and column of the left frame in a picture, and of the right one."""


class NeverWaiting(TorchFunctionMode):
    """Fails where a GPU would be waited for: a value is asked for, or one comes from the host."""

    NAMES = ("__bool__", "cpu", "item", "new_tensor", "nonzero", "numpy", "tensor", "tolist")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func.__name__ not in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_pair_is_the_same_whatever_comes_beside_it(name):
    """Or a run that was interrupted would make other frames, as its batches begin elsewhere."""
    model, picture = load_model(name), texture(140, 240)
    pairs = [[picture[..., y : y + 120, x : x + 200] for y, x in way] for way in WAYS]
    with torch.inference_mode():
        alone = [model(*pair, known=Known(model.look(*pair))) for pair in pairs]
        left, right = (torch.cat(frames) for frames in zip(*pairs, strict=True))
        together = model(left, right, known=Known(model.look(left, right)))
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_in_eights_are_the_same_and_zeros(stride):
    from sepconv_video.models.blocks import Convolution

    conv, maps = Convolution(26, 49, stride), torch.randn(2, 26, 6, 8)
    made = conv.in_eights(F.pad(maps, [0, 0, 0, 0, 0, 6]))
    assert made.shape[1] == 56
    torch.testing.assert_close(made[:, :49], conv(maps))
    assert not made[:, 49:].any()


@pytest.mark.parametrize("network", [Fast, Fine, SepConv2017])
def test_networks_do_not_wait_for_a_gpu(network, monkeypatch):
    """By tensors of no device, which take the ways of a GPU; the kernels wait for nothing."""
    from sepconv_video.models import alignment, blocks, fading, matching, pair, standing

    def warped(frames, motion, how):
        rows, columns = (how.factor * size for size in motion.shape[2:])
        return frames.new_empty(*frames.shape[:2], rows, columns)

    for module in (alignment, fading, matching):
        monkeypatch.setattr(module, "search", lambda left, right, motion, _: motion)
    monkeypatch.setattr(matching, "match", lambda *given: (given[2], given[3] > 0))
    monkeypatch.setattr(blocks.kernels, "warp", warped)
    monkeypatch.setattr(blocks.kernels, "box", lambda maps, _: maps)
    monkeypatch.setattr(
        blocks.kernels, "halve", lambda maps, _: F.avg_pool2d(maps, 2, ceil_mode=True)
    )

    def differing(left, _, motions):
        return left.new_empty(len(left), len(motions), *left.shape[2:])

    for module in (alignment, fading, pair):
        monkeypatch.setattr(module, "differ", differing)
    for name in ("normalise", "gather"):
        monkeypatch.setattr(pair, name, lambda *given: None)
    monkeypatch.setattr(fading, "relight", lambda *given: None)
    monkeypatch.setattr(standing.kernels, "hold", lambda *given: None)
    model = network().to("meta")
    frames = torch.empty(2, 1, 3, 100, 130, device="meta")
    with torch.inference_mode(), NeverWaiting():
        made = model(*frames)
        if isinstance(model, Bending):
            found = model.look(*frames)
            made = model(*frames, known=Known(found, model.bend(found, found, found)))
    assert made.shape == frames[0].shape


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_gpu_is_not_waited_for(name):
    model, pair = load_model(name, "cuda"), torch.rand(2, 1, 3, 96, 160, device="cuda")
    with torch.inference_mode():
        model(*pair)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(*pair)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_gpu_makes_the_picture_of_a_cpu(name):
    picture = texture(130, 220)
    pair = [picture[..., y : y + 96, x : x + 160] for y, x in ((0, 8), (5, 0))]
    with torch.inference_mode():
        wanted = load_model(name)(*pair)
        on_gpu = load_model(name, "cuda")
        exact = on_gpu(*(frame.cuda() for frame in pair)).cpu()
        half = on_gpu.half()(*(frame.cuda().half() for frame in pair)).float().cpu()
    assert (exact - wanted).abs().mean() < 0.05 / 255
    assert (half - wanted).abs().mean() < 0.3 / 255
