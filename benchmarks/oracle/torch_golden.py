#!/usr/bin/env python3
"""Golden values of two tiny GPTs from PyTorch in float64: loss, logits, all gradients, five training steps.

    python3 benchmarks/oracle/torch_golden.py packages/fp8-train/test/golden/gpt_torch.json

Weights and tokens come from a formula in integers, so another program builds the same model bit by bit:

    hash(name)       FNV-1a, 32 bits, over the name's ASCII bytes
    mix(name, i)     x = ((i + 1) * 0x9E3779B1 mod 2^32) xor hash(name);  x ^= x >> 15;  x = x * 0x85EBCA6B mod 2^32;
                     x ^= x >> 13;  all unsigned
    unit(name, i)    mix / 2^32 - 0.5, in float64
    matrices         float32(0.4 * unit)           (row-major index i)
    biases           float32(0.2 * unit)
    norm weights     float32(1 + 0.4 * unit)
    tokens, targets  mix("tokens", b * T + t) mod V, mix("targets", b * T + t) mod V

Linear weights are [out, in]; qkv rows are q, then k, then v, each head after head. The loss is the mean over B * T.
A gradient is summarised by its sum, its sum of squares and 8 entries at mix("<name>@", k) mod size.
Training: 5 steps of AdamW on the same batch (decay on every parameter), the global norm clipped first; `losses` holds
the loss before each step and after the last.
"""
import json
import os
import re
import sys

import torch
import torch.nn.functional as F

B, T, V, C, H, L = 3, 12, 61, 32, 2, 2
EPS, THETA, HIDDEN = 1e-5, 10000.0, 64
ADAMW = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weightDecay=0.1, clip=1.0)
MASK32 = 0xFFFFFFFF


def mix(name, i):
    h = 0x811C9DC5
    for byte in name.encode("ascii"):
        h = (h ^ byte) * 0x01000193 & MASK32
    x = ((i + 1) * 0x9E3779B1 & MASK32) ^ h
    x ^= x >> 15
    x = x * 0x85EBCA6B & MASK32
    return x ^ (x >> 13)


def parameter(name, shape):
    size = 1
    for dim in shape:
        size *= dim
    unit = torch.tensor([mix(name, i) / 4294967296.0 - 0.5 for i in range(size)], dtype=torch.float64)
    if len(shape) == 2:
        w = 0.4 * unit
    else:
        w = 0.2 * unit if name.endswith("bias") else 1 + 0.4 * unit
    return w.float().double().view(shape).requires_grad_()


def shapes(variant):
    """Every parameter's name and shape, in model order."""
    gpt2 = variant == "gpt2"
    out = {"wte.weight": (V, C)}
    if gpt2:
        out["wpe.weight"] = (T, C)

    def add(name, rows, columns=None):
        out[f"{name}.weight"] = (rows, columns) if columns else (rows,)
        if gpt2:
            out[f"{name}.bias"] = (rows,)

    for n in range(L):
        add(f"h.{n}.ln1", C)
        add(f"h.{n}.attn.qkv", 3 * C, C)
        add(f"h.{n}.attn.proj", C, C)
        add(f"h.{n}.ln2", C)
        if gpt2:
            add(f"h.{n}.mlp.fc", 4 * C, C)
            add(f"h.{n}.mlp.proj", C, 4 * C)
        else:
            add(f"h.{n}.mlp.gate", HIDDEN, C)
            add(f"h.{n}.mlp.up", HIDDEN, C)
            add(f"h.{n}.mlp.down", C, HIDDEN)
    add("lnf", C)
    if not gpt2:
        out["head.weight"] = (V, C)
    return out


def rotate(x):
    """RoPE in the rotate_half convention on [B, H, T, D]: dims i and i + D/2 turn by t * theta^(-2i/D)."""
    half = x.shape[-1] // 2
    frequency = THETA ** (-torch.arange(half, dtype=torch.float64) * 2 / (2 * half))
    angle = torch.arange(T, dtype=torch.float64)[:, None] * frequency
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def forward(variant, p, tokens):
    gpt2 = variant == "gpt2"

    def norm(name, x):
        if gpt2:
            return F.layer_norm(x, (C,), p[f"{name}.weight"], p[f"{name}.bias"], EPS)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * p[f"{name}.weight"]

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    x = p["wte.weight"][tokens]
    if gpt2:
        x = x + p["wpe.weight"]
    future = torch.triu(torch.ones(T, T), 1).bool()
    for n in range(L):
        qkv = linear(f"h.{n}.attn.qkv", norm(f"h.{n}.ln1", x))
        heads = [t.view(B, T, H, C // H).transpose(1, 2) for t in qkv.split(C, -1)]
        q, k, v = heads if gpt2 else [rotate(heads[0]), rotate(heads[1]), heads[2]]
        scores = (q @ k.transpose(-2, -1) * (C // H) ** -0.5).masked_fill(future, float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + linear(f"h.{n}.attn.proj", y)
        h = norm(f"h.{n}.ln2", x)
        if gpt2:
            x = x + linear(f"h.{n}.mlp.proj", F.gelu(linear(f"h.{n}.mlp.fc", h), approximate="tanh"))
        else:
            x = x + linear(f"h.{n}.mlp.down", F.silu(linear(f"h.{n}.mlp.gate", h)) * linear(f"h.{n}.mlp.up", h))
    return F.linear(norm("lnf", x), p["wte.weight" if gpt2 else "head.weight"])


def summary(name, tensor):
    flat = tensor.detach().reshape(-1)
    at = [mix(f"{name}@", k) % flat.numel() for k in range(8)]
    return {"shape": list(tensor.shape), "sum": flat.sum().item(), "sumSquares": (flat * flat).sum().item(),
            "entries": [[i, flat[i].item()] for i in at]}


def golden(variant):
    p = {name: parameter(name, shape) for name, shape in shapes(variant).items()}
    tokens = torch.tensor([mix("tokens", i) % V for i in range(B * T)]).view(B, T)
    targets = torch.tensor([mix("targets", i) % V for i in range(B * T)])
    out = {"parameters": {name: summary(name, w) for name, w in p.items()}}
    params, losses = list(p.values()), []
    adamw = torch.optim.AdamW(params, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"],
                              weight_decay=ADAMW["weightDecay"])
    for step in range(6):
        logits = forward(variant, p, tokens)
        loss = F.cross_entropy(logits.view(B * T, V), targets)
        losses.append(loss.item())
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            out.update(loss=loss.item(), logits=summary("logits", logits),
                       gradients={name: summary(name, w.grad) for name, w in p.items()})
        norm = torch.nn.utils.clip_grad_norm_(params, ADAMW["clip"]).item()
        if step == 0:
            out["gradientNorm"] = norm
        adamw.step()
    out["losses"] = losses
    return out


def main():
    torch.set_num_threads(1)
    config = dict(batch=B, seqLen=T, vocabSize=V, hiddenSize=C, numHeads=H, numLayers=L, normEps=EPS, ropeTheta=THETA,
                  mlpHidden=HIDDEN, adamw=ADAMW)
    result = {"from": "benchmarks/oracle/torch_golden.py (the formula of the weights stands there)",
              "torch": torch.__version__, "config": config,
              "tokens": [mix("tokens", i) % V for i in range(B * T)],
              "targets": [mix("targets", i) % V for i in range(B * T)],
              "gpt2": golden("gpt2"), "llama": golden("llama")}
    text = json.dumps(result, indent=1)
    # One line a tensor: reviewable differences without a thousand lines.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    text = re.sub(r"\[\s+(\[[^{}]*?\])\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    text = re.sub(r"\{\s+(\"shape\"[^{}]*?)\s+\}", lambda m: "{" + re.sub(r"\s+", " ", m.group(1)) + "}", text)
    if len(sys.argv) < 2:
        print(text)
        return
    path = sys.argv[1]
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "w") as f:
        f.write(text + "\n")
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
