#!/usr/bin/env python3
"""Make the oracle goldens: teacher-forced logprobs of spec/golden/oracle/prompts.jsonl.

    gen_oracle.py bf16 MODEL_DIR    transformers in BF16 and in F32          -> spec/golden/oracle/bf16.jsonl
    gen_oracle.py fp8  FP8_DIR      spec/support/reference.py, AutoFP8 static -> spec/golden/oracle/fp8.jsonl
                                    and the scales it used                    -> spec/golden/oracle/fp8_scales.jsonl

spec/golden/README.md says how to make the environment and what the fields mean."""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "oracle")
TOP = 8


def prompts(directory):
    """(name, ids) of every prompt, tokenized by the reference tokenizer and chat template."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with open(os.path.join(GOLDEN, "prompts.jsonl"), encoding="utf-8") as f:
        for line in f:
            p = json.loads(line)
            text = p.get("text") or tokenizer.apply_chat_template(p["messages"], tokenize=False)
            yield p["name"], tokenizer(text, add_special_tokens=False).input_ids


def transformers_runs(directory):
    """Functions ids -> logits for the BF16 and the F32 model.  The BF16 run keeps its head in F32, as
    fp8llm does: rounded to BF16, logits near 16 would lie 0.125 apart."""
    import torch
    from transformers import AutoModelForCausalLM
    models = [AutoModelForCausalLM.from_pretrained(directory, torch_dtype=d, attn_implementation="eager").eval()
              for d in (torch.bfloat16, torch.float32)]
    head = models[1].lm_head.weight

    def logits(model, ids):
        with torch.no_grad():
            return (model.model(torch.tensor([ids])).last_hidden_state[0].float() @ head.T).numpy()

    return [lambda ids, m=m: logits(m, ids) for m in models]


def record(name, ids, run, exact):
    """One golden line: logprobs of `run` (what we claim to equal) and of `exact` (the same model with
    less rounding), at every position, for the TOP likeliest ids of `exact` and for the actual next id."""
    run, exact = reference.log_softmax(run), reference.log_softmax(exact)
    top = np.argsort(-exact, axis=-1, kind="stable")[:, :TOP]
    rows, following = np.arange(len(ids) - 1), np.asarray(ids[1:], dtype=int)

    def at_top(x):
        return [[round(float(v), 4) for v in row] for row in np.take_along_axis(x, top, -1)]

    def at_next(x):
        return [round(float(v), 4) for v in x[rows, following]]

    best = np.sort(run, axis=-1)[:, -2:]
    return {"name": name, "ids": ids, "best": run.argmax(-1).tolist(),
            "gap": [round(float(b - a), 4) for a, b in best], "top": top.tolist(),
            "run": at_top(run), "exact": at_top(exact), "next_run": at_next(run), "next_exact": at_next(exact)}


def write(file, header, directory, run, exact):
    lines, worst, total, count = [], 0.0, 0.0, 0
    for name, ids in prompts(directory):
        line = record(name, ids, run(ids), exact(ids))
        error = np.abs(np.array(line["run"]) - np.array(line["exact"]))
        worst, total, count = max(worst, float(error.max())), total + float(error.sum()), count + error.size
        lines.append(line)
        print(f"{name}: {len(ids)} tokens, maximum error {error.max():.4f}", file=sys.stderr)
    header.update({"max_error": round(worst, 4), "mean_error": round(total / count, 5)})
    with open(os.path.join(GOLDEN, file), "w", encoding="utf-8") as f:
        for line in [header] + lines:
            f.write(json.dumps(line, separators=(",", ":")) + "\n")
    print(f"{file}: {header}", file=sys.stderr)


def write_scales(directory):
    tensors = reference.read_safetensors(os.path.join(directory, "model.safetensors"))
    with open(os.path.join(GOLDEN, "fp8_scales.jsonl"), "w", encoding="utf-8") as f:
        for name in sorted(n for n in tensors if n.endswith("_scale")):
            # 9 significant digits give back the same f32
            f.write('{"name":"%s","value":%.9g}\n' % (name, tensors[name].reshape(())))


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("bf16", "fp8"):
        sys.exit(__doc__)
    kind, directory = sys.argv[1:]
    if kind == "bf16":
        import torch
        import transformers
        run, exact = transformers_runs(directory)
        header = {"run": f"transformers {transformers.__version__}, torch {torch.__version__}, CPU, bfloat16",
                  "exact": "the same in float32"}
        write("bf16.jsonl", header, directory, run, exact)
    else:
        narrow, wide = reference.Model(directory), reference.Model(directory, wide=True)
        header = {"run": f"spec/support/reference.py, numpy {np.__version__}, sums in float32",
                  "exact": "the same with sums in float64"}
        write("fp8.jsonl", header, directory, narrow.logits, wide.logits)
        write_scales(directory)


if __name__ == "__main__":
    main()
