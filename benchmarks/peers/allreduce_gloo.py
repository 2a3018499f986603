"""All-reduce over gloo, the peer of `fp8lm bench allreduce`. Needs PyTorch (Debian: python3-torch).

    python3 benchmarks/peers/allreduce_gloo.py --nproc 2 --elements 16777216 --dtype fp32

Prints one JSON object: {msPerOp, elementsPerSecond, payloadBytesPerRank, latencyUsSmall}. Ranks are processes on this
machine over loopback, one thread each, as many processes as --nproc. msPerOp is the median over rounds of the slowest rank.
"""
import argparse
import json
import os
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

DTYPES = {"fp32": (torch.float32, 4), "bf16": (torch.bfloat16, 2), "fp16": (torch.float16, 2)}
SMALL = 1024


def timed(op, seconds, at_least, at_most):
    """Seconds of each call of the slowest rank; all ranks agree on the number of rounds."""
    for _ in range(2):
        op()
    dist.barrier()
    start = time.perf_counter()
    op()
    once = torch.tensor([time.perf_counter() - start])
    dist.all_reduce(once, dist.ReduceOp.MAX)
    rounds = max(at_least, min(at_most, int(seconds / max(once.item(), 1e-6))))
    times = torch.empty(rounds)
    for i in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        op()
        times[i] = time.perf_counter() - start
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return times


def rank_main(rank, args, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(args.nproc))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    dtype, size = DTYPES[args.dtype]
    x = torch.zeros(args.elements, dtype=dtype)
    small = torch.zeros(SMALL, dtype=torch.float32)
    median = timed(lambda: dist.all_reduce(x), args.seconds, 5, 200).median().item()
    # Back to back: a barrier of gloo's own between small operations would be most of what is measured.
    latencies = []
    for _ in range(5):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(200):
            dist.all_reduce(small)
        latencies.append((time.perf_counter() - start) / 200)
    latency = sorted(latencies)[2] * 1e6
    if rank == 0:
        moved = 2 * (args.nproc - 1) / args.nproc * args.elements * size
        print(json.dumps({"msPerOp": round(median * 1e3, 3), "elementsPerSecond": round(args.elements / median),
                          "payloadBytesPerRank": round(moved), "latencyUsSmall": round(latency, 1)}))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--elements", type=int, default=16777216)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(rank_main, (args, port), args.nproc)


if __name__ == "__main__":
    main()
