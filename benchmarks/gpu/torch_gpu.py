"""PyTorch on the same GPU: BF16 and FP8 products at our shapes, and GPT steps in bf16 with compile and flash attention.

    torch_gpu.py [--check] [products] [PRESET:BATCH:SEQ ...]

Prints one JSON object a line. PRESET is gpt2-124m, gpt2-1.5b or gpt-7b: FP32 weights under autocast. Models of more than 24
layers are compiled block by block (one compilation serves all). `--check` runs a step on the CPU in tiny form.
"""
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

SHAPES = [("square", 8192, 8192, 8192), ("Llama-8B gate|up", 8192, 28672, 4096), ("GPT-175B fc", 4096, 49152, 12288)]


class Block(torch.nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = torch.nn.LayerNorm(c), torch.nn.LayerNorm(c)
        self.qkv, self.out = torch.nn.Linear(c, 3 * c), torch.nn.Linear(c, c)
        self.fc, self.proj = torch.nn.Linear(c, 4 * c), torch.nn.Linear(4 * c, c)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.ln1(x)).chunk(3, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(y)
        return x + self.proj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class Gpt(torch.nn.Module):
    def __init__(self, vocab, seq, layers, heads, c):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(vocab, c), torch.nn.Embedding(seq, c)
        self.blocks = torch.nn.ModuleList(Block(c, heads) for _ in range(layers))
        self.ln = torch.nn.LayerNorm(c)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head_loss(x, targets)

    def head_loss(self, x, targets):
        return F.cross_entropy((self.ln(x) @ self.wte.weight.T).float().flatten(0, 1), targets.flatten())


def timed(call, bursts=7, settle=1.0):
    """After a second of the same work: a chip that has rested is faster for a while (clock.ts)."""
    start = time.perf_counter()
    while time.perf_counter() - start < settle:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
    times = []
    for _ in range(bursts):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 10)
    return sorted(times)[bursts // 2]


def products():
    out = []
    for name, m, n, k in SHAPES:
        a, b = (torch.randn(r, k, device="cuda", dtype=torch.bfloat16) for r in (m, n))
        row = {"layer": name, "bf16Tflops": 2 * m * n * k / timed(lambda: a @ b.T) / 1e9}
        if hasattr(torch, "_scaled_mm") and torch.cuda.get_device_capability() >= (8, 9):
            fa, fb = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
            one = torch.ones((), device="cuda")
            call = lambda: torch._scaled_mm(fa, fb.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)
            row["fp8Tflops"] = 2 * m * n * k / timed(call) / 1e9
        out.append(row)
    return out


PRESETS = {"gpt2-124m": (50257, 12, 12, 768), "gpt2-1.5b": (50257, 48, 25, 1600), "gpt-7b": (50257, 32, 32, 4096)}


def step(device, batch, seq, steps, vocab, layers, heads, c):
    """Tokens per second of FP32 weights under autocast, and peak memory; AdamW fused, gradients clipped."""
    torch.manual_seed(1)
    if device == "cuda":
        torch.set_default_device(device)  # weights are drawn there: 7B on the host take minutes
    model = Gpt(vocab, seq, layers, heads, c)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **({"fused": True} if device == "cuda" else {}))
    run = model
    if device == "cuda" and layers <= 24:
        run = torch.compile(model)
    elif device == "cuda":
        for block in model.blocks:
            block.compile()
        model.head_loss = torch.compile(model.head_loss)
    tokens = torch.randint(0, vocab, (batch, seq + 1), device=device)

    def once():
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = run(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(3):
        once()
    start = time.perf_counter()
    for _ in range(steps):
        once()
    return batch * seq * steps / (time.perf_counter() - start)


def main(words):
    if "--check" in words:
        step("cpu", 1, 8, 1, 64, 1, 2, 32)
        return print(json.dumps({"checked": True}))
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device")
    torch.set_float32_matmul_precision("high")
    # SDPA's flash kernel, as the comparison says; cuDNN's where it is asked for.
    torch.backends.cuda.enable_cudnn_sdp(os.environ.get("CUDNN_SDP") == "1")
    for word in words or ["products", "gpt2-124m:16:1024", "gpt2-1.5b:4:1024"]:
        if word == "products":
            print(json.dumps({"torch": torch.__version__, "products": products()}), flush=True)
            continue
        preset, batch, seq = word.split(":")
        row = {"torch": torch.__version__, "preset": preset, "batch": int(batch), "seq": int(seq)}
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            row["tokensPerSecond"] = step("cuda", int(batch), int(seq), 10, *PRESETS[preset])
            row["peakGiB"] = torch.cuda.max_memory_allocated() / 2**30
        except torch.cuda.OutOfMemoryError:
            row["failure"] = "does not fit"
        print(json.dumps(row), flush=True)


main(sys.argv[1:])
