#!/usr/bin/env bash
# Half an hour of a rented GPU, used in order of worth: correctness, training, benchmark.
#
#   OUT=... [MODEL=fast|fine] [BENCHMARK=0] scripts/gpu_session.sh [MINUTES]
#
# Everything that comes back lies in $OUT, logs and tables in $OUT/MODEL/reports.tgz. MINUTES are those
# of training, 4 by default; profile and benchmark take up to 5 more; BENCHMARK=0 leaves them out. Commands
# there end after ten minutes. Call it again while the machine is still held and training goes on with
# what lies in runs/session. On a fresh machine it goes on with the last call's $OUT/MODEL as
# .carry/MODEL, if its checkpoint was small enough to come back; else commit the weights that came back and
# it starts from those. Clips are read from .carry/data (a copy of ../shared/data, which does not
# travel by itself). Training must end within STEPS, as its rate
# then is zero: see in the first call how many the machine makes. Dry run on a CPU: DEVICE=cpu STEPS=2 scripts/gpu_session.sh 1
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-4} benchmark=${BENCHMARK:-1}
device=${DEVICE:-cuda} steps=${STEPS:-9000} model=${MODEL:-fast}
out=${OUT:?say where results go, e.g. OUT=runs/gpu}
data=${DATA:-.carry/data}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
run=${RUN:-runs/session/$model}
mkdir -p "$run" "$out/$model"

if [ -f "$run/checkpoint.pt" ]; then
    echo "going on with $run"
elif [ -f ".carry/$model/checkpoint.part.aa" ]; then
    cat ".carry/$model/"checkpoint.part.* >"$run/checkpoint.pt"
    # the weights too: training writes them only where it becomes better. cp says what is missing
    cp ".carry/$model/"*.csv ".carry/$model/weights.safetensors" "$run/" || true
elif [ "$device" = cuda ]; then
    # one kernel that fails leaves its process no GPU: so there are several, where pytest-xdist is at hand.
    # Interrupted, unlike killed, pytest tells what failed so far
    apart=()
    if python3 -c "import xdist"; then apart=(-n 4 --dist loadfile); fi
    FAIL_WITHOUT_CUDA=1 CUDA_LAUNCH_BLOCKING=1 timeout -s INT -k 10 150 python3 -m pytest -q "${apart[@]}" \
        -p no:warnings -o filterwarnings=default -o addopts= -m cuda tests/kernels tests/test_models.py 2>&1 |
        tee "$out/cuda_tests.log" || true
fi

amp=off batch=8 every=16
if [ "$device" = cuda ]; then amp=bf16 batch=64 every=4; fi
python3 scripts/train.py --model "$model" --data "$data" --run "$run" --device "$device" \
    --start "weights/$model.safetensors" --steps "$steps" --minutes "$minutes" --save-minutes 2 --batch "${BATCH:-$batch}" \
    --autocast "$amp" --rate "${RATE:-2.5e-4}" --loss "${LOSS:-decibel}" --validate-every "${VALIDATE:-$every}" 2>&1 | tee -a "$out/train.log" ||
    failed=1  # what there is comes back all the same

# files of over 16 MiB do not come back, nor do more than eight: two parts, four files of the run, and the reports
if [ "$(stat -c %s "$run/checkpoint.pt" || echo 99999999)" -le $((30 << 20)) ]; then
    split -b 15m "$run/checkpoint.pt" "$out/$model/checkpoint.part."
else
    echo "$run/checkpoint.pt is missing or too large to come back" | tee -a "$out/train.log"
fi
cp "$run/"*.csv "$run/weights.safetensors" "$run/curve.png" "$out/$model/" || true

# where the time of a frame goes, kernel by kernel, and how much of it the launches take
if [ "$benchmark" = 1 ] && [ "$((570 - SECONDS))" -ge 60 ]; then
    timeout 60 python3 - "$device" >"$out/profile.log" 2>&1 <<'END' || echo "no profile: see profile.log"
import sys, time, torch
from torch.profiler import ProfilerActivity, profile
sys.path.insert(0, "scripts")
from speed import moving_pair
from sepconv_video.weights import load_model
device = torch.device(sys.argv[1])
is_gpu = device.type == "cuda"
dtype = torch.float16 if is_gpu else torch.float32
model = load_model("fast", device).to(dtype)
for width, height in ((448, 256), (1920, 1080)) if is_gpu else ((448, 256),):
    pair = moving_pair(height, width, device=device, dtype=dtype)
    def frames(count):
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(count):
                model(*pair)
        launched = time.perf_counter()
        torch.cuda.synchronize() if is_gpu else None
        return [1e3 * (end - started) / count for end in (launched, time.perf_counter())]
    frames(5)
    print(f"{width}x{height}: launched in %.2f ms, done in %.2f ms" % tuple(frames(20)))
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu) as found:
        frames(5)
    order = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=90))
END
fi

left=$((570 - SECONDS))  # of the ten minutes: what comes after them is lost
if [ "$benchmark" = 1 ] && [ "$left" -lt 60 ]; then
    echo "no time left for the benchmark" | tee "$out/benchmark.log"
elif [ "$benchmark" = 1 ]; then
    extent=(--frames 120)
    if [ "$device" != cuda ]; then extent=(--quick); fi
    if ! python3 -c "import av"; then
        echo "no PyAV: without the whole program" | tee "$out/benchmark.log"
        extent+=(--only network --only operator)
    fi
    timeout -s INT -k 10 "$((left < 300 ? left : 300))" python3 scripts/benchmark.py --device "$device" --clips "$data/val" "${extent[@]}" \
        --json "$out/benchmark.json" --markdown "$out/BENCHMARK.md" --chart "$out/benchmark.png" \
        2>&1 | tee -a "$out/benchmark.log" || echo "benchmark cut short" | tee -a "$out/benchmark.log"
fi

find "$out" -maxdepth 1 -type f -printf '%f\0' |
    tar -C "$out" -czf "$out/$model/reports.tgz" --remove-files --null --files-from -
exit "${failed:-0}"
