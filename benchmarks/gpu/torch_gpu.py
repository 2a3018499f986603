"""PyTorch on the same GPU: BF16 and FP8 products at our shapes, and a GPT-2 step in bf16 with compile and flash attention.

Prints one JSON object. `--check` runs the step on the CPU in tiny form, without timing, to see that the script works.
"""
import json
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
        return F.cross_entropy((self.ln(x) @ self.wte.weight.T).float().flatten(0, 1), targets.flatten())


def timed(call, bursts=7):
    for _ in range(3):
        call()
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


def step(device, batch, seq, steps, *shape):
    torch.manual_seed(1)
    model = Gpt(shape[0], seq, *shape[1:]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device == "cuda")
    run = torch.compile(model) if device == "cuda" else model
    tokens = torch.randint(0, shape[0], (batch, seq + 1), device=device)

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


if "--check" in sys.argv:
    step("cpu", 1, 8, 1, 64, 1, 2, 32)
    print(json.dumps({"checked": True}))
elif not torch.cuda.is_available():
    sys.exit("torch sees no CUDA device")
else:
    result = {"torch": torch.__version__, "products": products()}
    result["gpt2-124m, batch 16, tokens/s"] = step("cuda", 16, 1024, 20, 50257, 12, 12, 768)
    torch.cuda.reset_peak_memory_stats()
    result["gpt2-1.5b, batch 4, tokens/s"] = step("cuda", 4, 1024, 10, 50257, 48, 25, 1600)
    result["gpt2-1.5b, peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(result))
