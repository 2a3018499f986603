#!/usr/bin/env python3
"""PyTorch (CPU) twin of our GPT training step: the same model, batch and optimizer, in fp32 and bf16.

Model: GPT-2 as published: learned positions, pre-LayerNorm, GELU in its tanh form, biases, tied head, causal attention,
no dropout. One step = forward, mean cross-entropy over the whole batch, backward, clipping of the global gradient norm
to 1, AdamW.

The peer is to be PyTorch at its best, so a variant is a mode plus tweaks, joined by `+`, each in a child of its own:

  fp32        fp32 everywhere
  autocast    fp32 weights, torch.autocast(bfloat16) around forward and loss: the usual recipe
  master      bf16 weights and gradients, fp32 master weights and AdamW states, AdamW written out in foreach operations
  pure        bf16 weights, gradients and AdamW states (fastest arithmetic, but small updates round away)

  foreach     torch.optim.AdamW(foreach=True)
  fused-loss  bf16 logits go straight into cross-entropy, without a copy in fp32
  gelu32      GELU on a copy in fp32, whose loop in ATen is faster than the bf16 one
  tril        causal mask by an added table instead of masked_fill
  pad         vocabulary padded to a multiple of 128
  heap        glibc keeps freed blocks instead of returning them to the kernel (saves page faults)
  huge        heap, in transparent huge pages
  avx512      ATen's AVX-512 loops instead of its AVX2 default
  bind        OpenMP threads bound to cores and spinning between regions

fp32 products go to the system's BLAS: install OpenBLAS beside python3-torch, the reference BLAS is ten times slower. An
OpenBLAS older than the CPU falls back to its 2004 kernels, so its kernel set is named here from the CPU's flags.
Without --variants: every mode of the recipe, then each tweak on the fastest mode, then all those together that gained.
Figures are medians over the steps of one process; variants are ranked by their fastest step. `cpuShare` is the part of
its threads' cores that the process got: well below 1, something else was running, and the figure is too low.
"""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

PRESETS = {
    "gpt-nano": dict(layers=4, heads=4, width=128, vocab=512, batch=8, seq=128),
    "gpt-12m": dict(layers=6, heads=6, width=384, vocab=4096, batch=8, seq=256),
    "gpt2-124m": dict(layers=12, heads=12, width=768, vocab=50257, batch=4, seq=256),
}
MODES = {"fp32": ["fp32"], "bf16": ["autocast", "master", "pure"]}
TWEAKS = ["foreach", "fused-loss", "gelu32", "tril", "pad", "heap", "huge", "avx512", "bind"]
LR, BETA1, BETA2, EPS, DECAY, CLIP = 3e-4, 0.9, 0.95, 1e-8, 0.1, 1.0


def build(torch, cfg, vocab, tweaks):
    """The model; parameters are N(0, 0.02), as in GPT-2."""
    nn, F = torch.nn, torch.nn.functional
    heads, width, seq = cfg["heads"], cfg["width"], cfg["seq"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x, mask, batch):  # x [B*T, C]
            def split(t):  # [B*T, C] -> [B*H, T, C/H]
                t = t.view(batch, seq, heads, width // heads).transpose(1, 2)
                return t.reshape(batch * heads, seq, width // heads)

            q, k, v = (split(t) for t in self.qkv(self.ln1(x)).split(width, dim=1))
            if "tril" in tweaks:
                scores = torch.baddbmm(mask.to(q.dtype), q, k.transpose(1, 2), alpha=(width // heads) ** -0.5)
            else:
                scores = torch.bmm(q * (width // heads) ** -0.5, k.transpose(1, 2)).masked_fill(mask, -math.inf)
            y = torch.bmm(F.softmax(scores, dim=-1, dtype=q.dtype), v)
            y = y.view(batch, heads, seq, width // heads).transpose(1, 2).reshape(batch * seq, width)
            x = x + self.proj(y)
            h = self.fc(self.ln2(x))
            if "gelu32" in tweaks:
                return x + self.down(F.gelu(h.float(), approximate="tanh").to(h.dtype))
            return x + self.down(F.gelu(h, approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(seq, width)
            self.blocks, self.lnf = nn.ModuleList(Block() for _ in range(cfg["layers"])), nn.LayerNorm(width)
            ones = torch.ones(seq, seq)
            mask = torch.triu(ones * -math.inf, 1) if "tril" in tweaks else torch.triu(ones, 1).bool()
            self.register_buffer("mask", mask)
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, tokens, targets):  # both [B, T]
            batch = tokens.shape[0]
            x = (self.wte(tokens) + self.wpe.weight).view(batch * seq, width)
            for block in self.blocks:
                x = block(x, self.mask, batch)
            logits = F.linear(self.lnf(x), self.wte.weight)
            if "fused-loss" not in tweaks:
                logits = logits.float()
            return F.cross_entropy(logits, targets.view(-1))

    return GPT()


class MasterAdamW:
    """AdamW over fp32 masters of bf16 parameters, in foreach operations, after clipping."""

    def __init__(self, torch, params):
        self.torch, self.params, self.steps = torch, params, 0
        self.masters = [p.detach().float() for p in params]
        self.m = [torch.zeros_like(w) for w in self.masters]
        self.v = [torch.zeros_like(w) for w in self.masters]

    def step(self):
        torch = self.torch
        self.steps += 1
        with torch.no_grad():
            grads = [p.grad.float() for p in self.params]
            norm = torch.stack([g.norm() for g in grads]).norm().item()
            if norm > CLIP:
                torch._foreach_mul_(grads, CLIP / (norm + 1e-6))
            torch._foreach_mul_(self.masters, 1 - LR * DECAY)
            torch._foreach_mul_(self.m, BETA1)
            torch._foreach_add_(self.m, grads, alpha=1 - BETA1)
            torch._foreach_mul_(self.v, BETA2)
            torch._foreach_addcmul_(self.v, grads, grads, 1 - BETA2)
            denom = torch._foreach_sqrt(self.v)
            torch._foreach_div_(denom, math.sqrt(1 - BETA2**self.steps))
            torch._foreach_add_(denom, EPS)
            torch._foreach_addcdiv_(self.masters, self.m, denom, -LR / (1 - BETA1**self.steps))
            for p, w in zip(self.params, self.masters):
                p.copy_(w)


def child(args, variant):
    """Runs one variant in this process and prints its figures as one JSON line."""
    import torch

    mode, *tweaks = variant.split("+")
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    cfg = config(args)
    vocab = -(-cfg["vocab"] // 128) * 128 if "pad" in tweaks else cfg["vocab"]
    model = build(torch, cfg, vocab, tweaks)
    if mode in ("master", "pure"):
        model = model.bfloat16()
    params = list(model.parameters())
    if mode == "master":
        optimizer = MasterAdamW(torch, params)
    else:
        adamw = torch.optim.AdamW(params, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY,
                                  foreach="foreach" in tweaks)

    tokens = torch.randint(cfg["vocab"], (cfg["batch"], cfg["seq"] + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    steps, losses = [], []
    for _ in range(args.warmup + args.steps):
        cpu = time.process_time()
        t0 = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
            loss = model(inputs, targets)
        t1 = time.perf_counter()
        loss.backward()
        t2 = time.perf_counter()
        if mode == "master":
            optimizer.step()
        else:
            torch.nn.utils.clip_grad_norm_(params, CLIP)
            adamw.step()
        for p in params:
            p.grad = None
        t3 = time.perf_counter()
        steps.append((t3 - t0, t1 - t0, t2 - t1, t3 - t2, time.process_time() - cpu))
        losses.append(loss.item())
    measured = steps[args.warmup:]
    ms = [round(statistics.median(column) * 1000, 3) for column in zip(*measured)]
    with open("/proc/self/statm") as f:
        rss = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    print(json.dumps({
        "name": variant,
        "tokensPerSecond": round(cfg["batch"] * cfg["seq"] / ms[0] * 1000, 2),
        "stepMs": ms[0],
        "minStepMs": round(min(s[0] for s in measured) * 1000, 3),
        "phases": {"forward": ms[1], "backward": ms[2], "optimizer": ms[3]},
        "cpuShare": round(sum(s[4] for s in measured) / sum(s[0] for s in measured) / args.threads, 3),
        "rssBytes": rss,
        "peakRssBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in params),
        "blas": blas_library(),
        "firstLoss": round(losses[0], 4),
        "lastLoss": round(losses[-1], 4),
    }))


def cpu_flags():
    with open("/proc/cpuinfo") as f:
        return next((line.split() for line in f if line.startswith("flags")), [])


def blas_library():
    """The shared library that serves this process's fp32 matrix products."""
    with open("/proc/self/maps") as f:
        paths = {line.split()[-1] for line in f if "blas" in line}
    paths = sorted((os.path.realpath(p) for p in paths), key=lambda p: ("openblasp" not in p, p))
    return paths[0] if paths else "unknown"


def environment(variant, threads):
    """The child's environment: some tweaks act before Python starts."""
    env, tweaks = dict(os.environ, OMP_NUM_THREADS=str(threads)), variant.split("+")[1:]
    flags = cpu_flags()
    if "avx512f" in flags or "avx2" in flags:
        env.setdefault("OPENBLAS_CORETYPE", "SkylakeX" if "avx512f" in flags else "Haswell")
    if "heap" in tweaks or "huge" in tweaks:
        never = str(1 << 40)
        env.update(MALLOC_MMAP_THRESHOLD_=never, MALLOC_TRIM_THRESHOLD_=never, MALLOC_TOP_PAD_=str(64 << 20))
    if "huge" in tweaks:
        env["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    if "avx512" in tweaks:
        env["ATEN_CPU_CAPABILITY"] = "avx512"
    if "bind" in tweaks:
        env.update(OMP_PROC_BIND="close", OMP_WAIT_POLICY="active")
    return env


def measure(variant, argv, threads):
    """Runs a variant in a child; a variant that fails is reported with its error instead of a time."""
    command = [sys.executable, os.path.abspath(__file__), *argv, "--child", variant]
    done = subprocess.run(command, env=environment(variant, threads), capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        result = {"name": variant, "error": reason}
    else:
        result = json.loads(done.stdout)
    text = result.get("error") or "%8.1f tokens/s  %9.1f ms  fastest %9.1f ms  %6.2f GB  %3d %% of the cores" % (
        result["tokensPerSecond"], result["stepMs"], result["minStepMs"], result["rssBytes"] / 1e9,
        100 * result["cpuShare"])
    print(f"  {variant:<44} {text}", file=sys.stderr, flush=True)
    return result


def speed(result):
    """What variants are ranked by: the fastest step, which a busy machine disturbs least."""
    return 1 / result["minStepMs"] if "minStepMs" in result else 0


def search(recipe, run, vocab):
    """Modes, then single tweaks on the fastest mode, then the union of the tweaks that gained 1 % or more."""
    results = [run(mode) for mode in MODES[recipe]]
    base = max(results, key=speed)
    gained = []
    for tweak in TWEAKS:
        if tweak == "foreach" and base["name"] == "master" or tweak == "pad" and vocab % 128 == 0:
            continue
        if tweak in ("fused-loss", "gelu32") and recipe == "fp32":
            continue
        results.append(run(f"{base['name']}+{tweak}"))
        if speed(results[-1]) > 1.01 * speed(base):
            gained.append((tweak, speed(results[-1])))
    names = [tweak for tweak, _ in gained]
    if "heap" in names and "huge" in names:  # huge contains heap: keep the faster one
        names.remove("heap" if dict(gained)["huge"] >= dict(gained)["heap"] else "huge")
    if len(names) > 1:
        results.append(run("+".join([base["name"], *names])))
    return results


def config(args):
    cfg = dict(PRESETS[args.preset])
    cfg["batch"], cfg["seq"] = args.batch or cfg["batch"], args.seq or cfg["seq"]
    return cfg


def main():
    parser = argparse.ArgumentParser(description="PyTorch CPU twin of the fp8lm training step")
    parser.add_argument("--preset", choices=PRESETS, default="gpt-12m")
    parser.add_argument("--recipe", choices=["fp32", "bf16", "all"], default="all")
    parser.add_argument("--variants", help="comma-separated modes with tweaks, for example master,autocast+heap+pad")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seq", type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("gpt_step: PyTorch is missing; install it with: apt-get install python3-torch", file=sys.stderr)
        return 2
    if args.child:
        child(args, args.child)
        return 0

    known = {mode: recipe for recipe, modes in MODES.items() for mode in modes}
    names = args.variants.split(",") if args.variants else []
    for name in names:
        mode, *tweaks = name.split("+")
        if mode not in known or any(t not in TWEAKS for t in tweaks):
            parser.error(f"variant {name}: expected one of {', '.join(known)}, then any of +{' +'.join(TWEAKS)}")
    cfg, argv = config(args), []
    for key in ("preset", "batch", "seq", "steps", "warmup", "threads"):
        if getattr(args, key) is not None:
            argv += [f"--{key}", str(getattr(args, key))]
    run = lambda variant: measure(variant, argv, args.threads)
    if names:
        results = [run(name) for name in names]
    else:
        recipes = ["fp32", "bf16"] if args.recipe == "all" else [args.recipe]
        results = [r for recipe in recipes for r in search(recipe, run, cfg["vocab"])]

    best = {}
    for result in results:
        recipe = known[result["name"].split("+")[0]]
        if speed(result) > speed(best.get(recipe, {})):
            best[recipe] = result
    if any("blas" in r and "openblas" not in r["blas"] and "mkl" not in r["blas"] for r in results):
        print("gpt_step: this PyTorch uses the reference BLAS, so fp32 is far from its best; "
              "apt-get install libopenblas0-openmp", file=sys.stderr)
    if args.json:
        print(json.dumps({"peer": "pytorch", "version": torch.__version__, "preset": args.preset, "batch": cfg["batch"],
                          "seq": cfg["seq"], "threads": args.threads, "variants": results, "best": best}))
    else:
        for recipe, r in best.items():
            print(f"best {recipe}: {r['name']} {r['tokensPerSecond']} tokens/s, {r['stepMs']} ms a step")
    return 0 if best else 1


if __name__ == "__main__":
    sys.exit(main())
