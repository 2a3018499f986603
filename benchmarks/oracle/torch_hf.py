#!/usr/bin/env python3
"""GPT-2 and Llama in PyTorch with the parameter names and formulas of Hugging Face transformers, which is not needed: a twin to hold
imported and exported models against. It reads and writes safetensors by hand.

    python3 benchmarks/oracle/torch_hf.py make packages/fp8-train/test/golden/hf    # random tiny models and their logits
    python3 benchmarks/oracle/torch_hf.py logits DIR 3,1,4,1,5                       # of any folder, as JSON [T][V]
    python3 benchmarks/oracle/torch_hf.py loss DIR TEXT.bin                          # mean over int32 tokens in rows of 64
    python3 benchmarks/oracle/torch_hf.py against DIR...      # largest difference from transformers' own model, where that is installed

From the sources of transformers 4 and 5: modeling_gpt2.py, modeling_llama.py (formulas restated, no code copied). Everything is computed
in float32, whatever the file's dtype; logits are made in float64.
"""
import json
import math
import os
import struct
import sys

import torch
from torch import nn
from torch.nn import functional as F

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path):
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    meta = header.pop("__metadata__", {})
    assert meta.get("format") == "pt", f"{path}: from_pretrained wants metadata format pt, not {meta}"
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = bytearray(data[begin:end])
        tensors[name] = torch.frombuffer(raw, dtype=TORCH[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors, dtype):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, t in tensors.items():
        bits = t.to(TORCH[dtype]).flatten().view(torch.int32 if dtype == "F32" else torch.int16)
        raw = bits.numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Conv1D(nn.Module):
    def __init__(self, out, inp):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inp, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x):
        return x @ self.weight + self.bias


def attend(q, k, v):
    """[B, heads, T, d] each; a query sees itself and what is before it."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = scores.masked_fill(~mask, float("-inf"))
    return F.softmax(scores, dim=-1) @ v


def heads(x, n):
    b, t, c = x.shape
    return x.view(b, t, n, c // n).transpose(1, 2)


def joined(x):
    b, n, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, n * d)


class Gpt2Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n = c["n_head"]
        self.c_attn = Conv1D(3 * c["n_embd"], c["n_embd"])
        self.c_proj = Conv1D(c["n_embd"], c["n_embd"])

    def forward(self, x):
        q, k, v = self.c_attn(x).split(x.shape[-1], dim=-1)
        return self.c_proj(joined(attend(heads(q, self.n), heads(k, self.n), heads(v, self.n))))


class Gpt2Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        inner = c.get("n_inner") or 4 * c["n_embd"]
        self.c_fc = Conv1D(inner, c["n_embd"])
        self.c_proj = Conv1D(c["n_embd"], inner)

    def forward(self, x):
        h = self.c_fc(x)
        gelu_new = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return self.c_proj(gelu_new)


class Gpt2Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1 = nn.LayerNorm(c["n_embd"], eps=c["layer_norm_epsilon"])
        self.attn = Gpt2Attention(c)
        self.ln_2 = nn.LayerNorm(c["n_embd"], eps=c["layer_norm_epsilon"])
        self.mlp = Gpt2Mlp(c)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt2Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.wte = nn.Embedding(c["vocab_size"], c["n_embd"])
        self.wpe = nn.Embedding(c["n_positions"], c["n_embd"])
        self.h = nn.ModuleList(Gpt2Block(c) for _ in range(c["n_layer"]))
        self.ln_f = nn.LayerNorm(c["n_embd"], eps=c["layer_norm_epsilon"])

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    base_model_prefix = "transformer."

    def __init__(self, c):
        super().__init__()
        self.transformer = Gpt2Model(c)
        self.lm_head = nn.Linear(c["n_embd"], c["vocab_size"], bias=False)
        if c.get("tie_word_embeddings", True):
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids):
        return self.lm_head(self.transformer(ids))


class RmsNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class LlamaAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, self.n, self.kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        d, bias = dim // self.n, c.get("attention_bias", False)
        self.theta = c["rope_theta"]
        self.q_proj = nn.Linear(dim, self.n * d, bias=bias)
        self.k_proj = nn.Linear(dim, self.kv * d, bias=bias)
        self.v_proj = nn.Linear(dim, self.kv * d, bias=bias)
        self.o_proj = nn.Linear(self.n * d, dim, bias=bias)

    def forward(self, x):
        q, k, v = heads(self.q_proj(x), self.n), heads(self.k_proj(x), self.kv), heads(self.v_proj(x), self.kv)
        d = q.shape[-1]
        inv_freq = 1.0 / (self.theta ** (torch.arange(0, d, 2, dtype=torch.float64) / d))
        freqs = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        cos, sin = emb.cos().to(x.dtype), emb.sin().to(x.dtype)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (t.repeat_interleave(self.n // self.kv, dim=1) for t in (k, v))
        return self.o_proj(joined(attend(q, k, v)))


class LlamaMlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, inner, bias = c["hidden_size"], c["intermediate_size"], c.get("mlp_bias", False)
        self.gate_proj = nn.Linear(dim, inner, bias=bias)
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = LlamaAttention(c)
        self.mlp = LlamaMlp(c)
        self.input_layernorm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(LlamaLayer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class LlamaForCausalLM(nn.Module):
    base_model_prefix = "model."

    def __init__(self, c):
        super().__init__()
        self.model = LlamaModel(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c.get("tie_word_embeddings", False):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids):
        return self.lm_head(self.model(ids))


CLASSES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}


def load(folder):
    """Every name and shape must fit. As from_pretrained does: a tied head may be missing, the prefix too, masks are left out."""
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    model = CLASSES[config["model_type"]](config)
    index = os.path.join(folder, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if not os.path.exists(os.path.join(folder, files[0])):
        with open(index) as f:
            files = sorted(set(json.load(f)["weight_map"].values()))
    state = {}
    for name in files:
        state.update(read_safetensors(os.path.join(folder, name)))
    if not any(name.startswith(model.base_model_prefix) for name in state):
        state = {model.base_model_prefix + k: v for k, v in state.items() if not k.endswith(".attn.bias")}
    if config.get("tie_word_embeddings", config["model_type"] == "gpt2"):
        assert "lm_head.weight" not in state
        key = "transformer.wte.weight" if config["model_type"] == "gpt2" else "model.embed_tokens.weight"
        state["lm_head.weight"] = state[key]
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return model.double().eval(), config


@torch.no_grad()
def logits(folder, tokens):
    model, _ = load(folder)
    return model(torch.tensor([tokens]))[0]


@torch.no_grad()
def loss(folder, path):
    model, _ = load(folder)
    with open(path, "rb") as f:
        ids = torch.frombuffer(bytearray(f.read()), dtype=torch.int32).long()
    rows = ids[: len(ids) // 65 * 65].view(-1, 65)
    out = model(rows[:, :-1])
    return F.cross_entropy(out.flatten(0, 1), rows[:, 1:].flatten()).item()


@torch.no_grad()
def against(folder):
    from transformers import AutoModelForCausalLM, __version__

    theirs, report = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    tokens = torch.tensor([[t % theirs.config.vocab_size for t in TOKENS]])
    difference = (theirs.double().eval()(tokens).logits[0] - logits(folder, tokens[0].tolist())).abs().max().item()
    return f"{folder}: {difference:.2g} from transformers {__version__}"


def random_model(config, seed):
    torch.manual_seed(seed)
    model = CLASSES[config["model_type"]](config)
    for name, p in model.named_parameters():
        is_norm = "ln_" in name or "norm" in name
        if name.endswith("bias"):
            p.data.normal_(0, 0.2)
        elif is_norm:
            p.data.uniform_(0.5, 1.5)
        else:
            p.data.normal_(0, 0.3)
    state = dict(model.state_dict())
    if config["tie_word_embeddings"]:
        del state["lm_head.weight"]
    return state


GPT2 = dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", activation_function="gelu_new", vocab_size=61, n_positions=16,
            n_ctx=16, n_embd=16, n_layer=2, n_head=2, n_inner=None, layer_norm_epsilon=1e-5, tie_word_embeddings=True)
LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", vocab_size=61, max_position_embeddings=16,
             hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             rms_norm_eps=1e-6, rope_theta=500.0, rope_scaling=None, attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
TOKENS = [3, 14, 15, 9, 26, 53, 58, 0, 60, 32, 38, 46]


def make(root):
    """`gpt2`: float32 as save_pretrained writes it. `gpt2-bare`: as the first GPT-2 was uploaded, without the prefix and with its
    masks. `llama`: float32, untied, grouped queries. `llama-shards`: bfloat16, tied, biases, in two shards."""
    gpt2 = random_model(GPT2, 1)
    write(root, "gpt2", GPT2, [gpt2], "F32")
    bare = {k.replace("transformer.", ""): v for k, v in random_model({**GPT2, "n_inner": 40}, 2).items()}
    for i in range(GPT2["n_layer"]):
        bare[f"h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    write(root, "gpt2-bare", {**GPT2, "n_inner": 40}, [bare], "F16")
    write(root, "llama", LLAMA, [random_model(LLAMA, 3)], "F32")
    tied = {**LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}
    state = list(random_model(tied, 4).items())
    write(root, "llama-shards", tied, [dict(state[:9]), dict(state[9:])], "BF16")


def write(root, name, config, shards, dtype):
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    if len(shards) == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), shards[0], dtype)
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for file, shard in zip(names, shards):
            write_safetensors(os.path.join(folder, file), shard, dtype)
        index = {"metadata": {}, "weight_map": {k: f for f, shard in zip(names, shards) for k in shard}}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
            json.dump(index, f, indent=1)
            f.write("\n")
    golden = {"tokens": TOKENS, "logits": [[float(f"{v:.9g}") for v in row] for row in logits(folder, TOKENS).tolist()]}
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump(golden, f)
        f.write("\n")


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    elif len(sys.argv) == 4 and sys.argv[1] == "logits":
        print(json.dumps(logits(sys.argv[2], [int(t) for t in sys.argv[3].split(",")]).tolist()))
    elif len(sys.argv) == 4 and sys.argv[1] == "loss":
        print(loss(sys.argv[2], sys.argv[3]))
    elif len(sys.argv) >= 3 and sys.argv[1] == "against":
        for folder in sys.argv[2:]:
            print(against(folder))
    else:
        sys.exit(__doc__)


main()
