#!/usr/bin/env python3
"""Have compressed-tensors and modelopt write tiny checkpoints, and read ours with the former.

    gen_authentic_goldens.py write NAME...     -> spec/golden/flavours/NAME/, its logits in logits.json
    gen_authentic_goldens.py read DIRECTORY... reads checkpoints of `fp8llm quantize` with the original
                                               libraries; ends with status 1 when one differs

NAMEs: ct-static ct-dynamic ct-24-bitmask ct-block ct-old-bitmask, and modelopt-fp8 modelopt-pc-pt,
which need nvidia-modelopt.  Needs torch >= 2.1, transformers,
safetensors and compressed-tensors; spec/golden/README.md has the versions, which differ by NAME.
The logits are those of reference.py on the files as written, and the weights it takes from them are
compared with what compressed-tensors takes from them."""
import json
import os
import sys

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import gen_flavour_goldens as flavours  # noqa: E402

GOLDEN = os.path.join(HERE, "..", "golden", "flavours")
SMALL = {"vocab_size": 80, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
BLOCK = {**SMALL, "hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}


def scheme(weights, inputs):
    return {"targets": ["Linear"], "weights": {**FLOAT8, **weights}, "input_activations": {**FLOAT8, **inputs}}


SCHEMES = {
    "ct-static": scheme({"strategy": "tensor"}, {"strategy": "tensor"}),
    "ct-dynamic": scheme({"strategy": "channel"}, {"strategy": "token", "dynamic": True}),
    "ct-24-bitmask": scheme({"strategy": "channel"}, {"strategy": "token", "dynamic": True}),
    "ct-block": scheme({"strategy": "block", "block_structure": [128, 128]},
                       {"strategy": "group", "group_size": 128, "dynamic": True}),
}


def random_model(shape, sparse):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            width = 1.0 if "embed" in name else p.shape[-1] ** -0.5
            p.copy_(torch.randn_like(p) * width if p.ndim == 2 else 1 + 0.1 * torch.randn_like(p))
            if sparse and name.endswith("_proj.weight"):
                groups = p.view(-1, 4)
                groups.scatter_(1, groups.abs().argsort(1)[:, :2], 0)
    return model


def set_scales(model):
    """Scales as its observers make them: largest magnitudes for weights, 4 for what enters a linear."""
    from compressed_tensors.quantization.utils import calculate_qparams
    for module in model.modules():
        s = getattr(module, "quantization_scheme", None)
        if s is None:
            continue
        w = module.weight.detach()
        if s.weights.strategy == "tensor":
            low, high = w.min().reshape(1), w.max().reshape(1)
        elif s.weights.strategy == "channel":
            low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        else:
            b = w.view(w.shape[0] // 128, 128, w.shape[1] // 128, 128)
            low, high = b.amin((1, 3)), b.amax((1, 3))
        scale, _ = calculate_qparams(low, high, s.weights)
        module.weight_scale.data.copy_(scale.to(module.weight_scale.dtype).view_as(module.weight_scale))
        if not s.input_activations.dynamic:
            module.input_scale.data.fill_(4 / 448)


def quantize(model, name):
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.config import Sparse24BitMaskConfig
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    config = QuantizationConfig(config_groups={"group_0": SCHEMES[name]}, ignore=["lm_head"],
                                quantization_status="frozen")
    apply_quantization_config(model, config)
    set_scales(model)
    sparsity = None
    if name == "ct-24-bitmask":
        sparsity = Sparse24BitMaskConfig(targets=["Linear"], ignore=["lm_head"], sparsity_structure="2:4",
                                         global_sparsity=0.5)
    return ModelCompressor.from_pretrained_model(model, sparsity, "float-quantized")


def write_golden(directory, made_by):
    run, exact = (flavours.Flavour(directory, wide=w).logits(flavours.IDS) for w in (False, True))
    golden = {"made by": made_by, "ids": flavours.IDS, "error": round(float(np.abs(run - exact).max()), 7),
              "logits": [[round(float(x), 5) for x in row] for row in exact]}
    with open(os.path.join(directory, "logits.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(golden, separators=(",", ":")) + "\n")


def write_modelopt(name):
    """Weights, scales and calibration are all modelopt's."""
    import modelopt
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    directory = os.path.join(GOLDEN, name)
    model = random_model({**SMALL, "architectures": ["LlamaForCausalLM"]}, False)
    config = mtq.FP8_DEFAULT_CFG if name == "modelopt-fp8" else mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG
    model = mtq.quantize(model, config, lambda m: m(torch.arange(64).reshape(2, 32)))
    export_hf_checkpoint(model, export_dir=directory)
    os.remove(os.path.join(directory, "generation_config.json"))
    return write_golden(directory, f"nvidia-modelopt {modelopt.__version__}, torch {torch.__version__}")


def write(name):
    if name.startswith("modelopt"):
        return write_modelopt(name)
    directory = os.path.join(GOLDEN, name)
    import compressed_tensors
    from compressed_tensors.compressors import ModelCompressor
    model = random_model(BLOCK if name == "ct-block" else SMALL, "bitmask" in name)
    if name == "ct-old-bitmask":
        from compressed_tensors.config import BitmaskConfig
        config = BitmaskConfig(format="sparse-bitmask", targets=["Linear"], ignore=["lm_head"],
                               sparsity_structure="2:4", global_sparsity=0.5)
        compressor = ModelCompressor(sparsity_config=config)
        state = compressor.compress(model)
    else:
        compressor = quantize(model, name)
        dense = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("_proj.weight")}
        compressor.compress_model(model)
        state = model.state_dict()
    model.save_pretrained(directory, state_dict=state)
    compressor.update_config(directory)
    os.remove(os.path.join(directory, "generation_config.json"))
    if name != "ct-old-bitmask":
        error = max(float((torch.tensor(weight_of(directory, n)) - w).abs().max() / w.abs().max())
                    for n, w in dense.items())
        assert error < 0.05, error  # half a step of E4M3, of the largest weight
        print(f"{name}: weights within {error:.3g} of the original's largest")
    return write_golden(directory, f"compressed-tensors {compressed_tensors.__version__}, torch {torch.__version__}")


def weight_of(directory, name):
    """The dequantized [N,K] weight as reference.py computes with it."""
    model = flavours.Flavour(directory)
    _, _, i, part, leaf, _ = name.split(".")
    linear = model.layers[int(i)][leaf]
    w, scale = np.ascontiguousarray(linear.wt.T), linear.w_scale
    if scale is None:
        return w
    columns = np.arange(w.shape[1]) // 128 if scale.shape[1] > 1 else np.zeros(w.shape[1], int)
    return w * scale[:, columns]


def read(directory):
    """What safetensors, compressed-tensors and transformers make of a checkpoint of ours."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM
    with safe_open(os.path.join(directory, "model.safetensors"), "pt") as f:
        names = list(f.keys())
        assert all(f.get_tensor(n) is not None for n in names)
    print(f"{directory}: safetensors opens {len(names)} tensors")
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        method = json.load(f).get("quantization_config", {}).get("quant_method")
    if method != "compressed-tensors":
        return True
    if any(n.endswith(".bitmask") for n in names):
        return read_bitmasks(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.bfloat16)
    compressor = getattr(getattr(model, "hf_quantizer", None), "compressor", None)
    if compressor is not None and any(n.endswith(".weight_scale") for n, _ in model.named_parameters()):
        compressor.decompress_model(model)
    worst = 0.0
    for name, w in model.named_parameters():
        if not name.endswith("_proj.weight"):
            continue
        want = torch.tensor(weight_of(directory, name))
        worst = max(worst, float(((w.float() - want).abs() / want.abs().clamp_min(1e-9)).max()))
    ours = flavours.Flavour(directory).logits(flavours.IDS)
    with torch.no_grad():
        theirs = model(torch.tensor([flavours.IDS])).logits[0].float().numpy()
    print(f"  transformers loads it; weights differ from q * scale by at most {worst:.3g} (a BF16 rounding is 0.0039); "
          f"logits by at most {np.abs(ours - theirs).max():.3g}, {np.abs(ours - theirs).mean():.3g} on average, "
          f"of {np.abs(ours).max():.3g}; top-1 equal at {(ours.argmax(1) == theirs.argmax(1)).mean():.0%}")
    return worst <= 1 / 128  # scale and product are BF16 there


def read_bitmasks(directory):
    """decompress_model of 0.10.2 does not give back even its own sparse models; the function below it does."""
    from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import sparse24_bitmask_decompress
    from safetensors.torch import load_file
    theirs, ours = (f(os.path.join(directory, "model.safetensors"))
                    for f in (load_file, flavours.reference.read_safetensors))
    wrong, prefixes = 0, [n[:-len(".compressed")] for n in theirs if n.endswith(".compressed")]
    for p in prefixes:
        dense = sparse24_bitmask_decompress(theirs[p + ".compressed"], theirs[p + ".bitmask"],
                                            theirs[p + ".shape"].flatten().tolist())
        wrong += int((dense.view(torch.uint8).numpy() != flavours.unpack(ours, p)).sum())
    print(f"  compressed-tensors decompresses {len(prefixes)} bitmask tensors; {wrong} bytes differ from ours")
    return wrong == 0


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("write", "read"):
        sys.exit(__doc__)
    if sys.argv[1] == "write":
        for name in sys.argv[2:]:
            write(name)
    elif not all([read(d) for d in sys.argv[2:]]):
        sys.exit(1)


if __name__ == "__main__":
    main()
