"""python3 bench/sdpa.py ./cuda_bench    runs the benchmark of latticequant_cuda.cuh, then the same shapes
through the backends of PyTorch's scaled_dot_product_attention in bf16, and prints ratios over the best."""
import statistics
import warnings
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def time_us(calls):
    """Median of 15 replays of a graph of the calls, per call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for i in range(18):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i > 2:
            times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def best(batch, tokens, heads, group, dims, dtype=torch.bfloat16):
    """Microseconds and backend."""
    size = 2 * batch * heads * tokens * dims * (2 if dtype == torch.bfloat16 else 1)
    sets = max(1, int(3e8 / size) + (size < 1.5e8))
    kv = [[torch.randn(batch, heads, tokens, dims, device="cuda", dtype=torch.bfloat16).to(dtype)
           for _ in range(2)] for _ in range(sets)]
    q = torch.randn(batch, heads * group, 1, dims, device="cuda", dtype=torch.bfloat16).to(dtype)
    packed = q.view(batch, heads, group, dims)
    found = {}
    for name, backend in BACKENDS.items():
        for way in ("gqa", "packed rows"):
            if way == "packed rows" and group == 1:
                continue
            query, options = (q, {"enable_gqa": group > 1}) if way == "gqa" else (packed, {})
            try:
                with sdpa_kernel(backend):
                    found[name + ", " + way] = time_us(
                        [lambda k=k, v=v: F.scaled_dot_product_attention(query, k, v, **options)
                         for k, v in kv * max(1, 8 // sets)])
            except Exception as e:  # a backend that does not take the shape
                print("#  %s, %s, %s: %s" % (name, way, dtype, str(e).split("\n")[0][:90]))
                torch.cuda.synchronize()
    del kv
    torch.cuda.empty_cache()
    if not found:
        return None, None
    way = min(found, key=found.get)
    return found[way], way


def main():
    lines = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=True).stdout
    print(lines, end="", flush=True)
    print("# torch %s, cuDNN %s" % (torch.__version__, torch.backends.cudnn.version()))
    known = {}
    rate = None
    print("%-5s %-28s %9s %9s %7s %9s %6s  %s" % ("kind", "shape", "us", "stream", "share", "bf16 us",
                                                   "ratio", "backend"))
    for line in lines.splitlines():
        w = line.split()
        if not w or w[0] != "attend":
            continue
        f = dict(zip(w[2::2], w[3::2]))
        shape = tuple(int(f[x]) for x in ("batch", "tokens", "heads", "group", "dims"))
        bytes16 = 4 * int(f["sum_of_tokens"]) * shape[2] * shape[4]
        if shape[1] == 0:  # unequal lengths: all bytes at the rate of 8 x 32K
            base, way = (bytes16 / rate, "bytes at the rate of 8 x 32K") if rate else (None, None)
        else:
            if shape not in known:
                known[shape] = best(*shape)
            base, way = known[shape]
            if shape[:2] == (8, 32768) and shape[3:] == (4, 128):
                rate = bytes16 / base
        us, stream = float(f["us"]), float(f["stream"])
        print("%-5s %-28s %9.2f %9.2f %7s %9s %6s  %s" % (
            w[1], "%d x %d, %d x %d of %d" % shape, us, stream,
            "%.3f" % (stream / us) if stream else "-", "%.2f" % base if base else "-",
            "%.2f" % (base / us) if base else "-", way), flush=True)
    try:
        base, way = best(8, 32768, 8, 4, 128, torch.float8_e4m3fn)
        print("fp8 e4m3 8 x 32768: %s" % ("%.2f us, %s" % (base, way) if base else "no backend takes it"))
    except Exception as e:
        print("fp8: %s" % str(e).split("\n")[0][:100])


if __name__ == "__main__":
    main()
