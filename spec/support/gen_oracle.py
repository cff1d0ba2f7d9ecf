#!/usr/bin/env python3
"""Make the oracle goldens: teacher-forced logprobs of spec/golden/oracle/prompts.jsonl.

    gen_oracle.py bf16 MODEL_DIR               transformers in BF16 and in F32     -> bf16.jsonl
    gen_oracle.py fp8 FP8_DIR                  reference.py on AutoFP8 static      -> fp8.jsonl
                                               and the scales it used              -> fp8_scales.jsonl
    gen_oracle.py heldout MODEL_DIR FP8_DIR    perplexity of examples/heldout.txt  -> heldout.json

The first two are made for the whole model and for its first one and two layers followed by the final
norm and the head: rounding noise grows with depth, so the shallow models are the sharp test and the
deep one the real one.
spec/golden/README.md says how to make the environment and what the fields mean."""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "oracle")
TOP = 4
SHALLOW = [1, 2]  # layers
HELDOUT = os.path.join(GOLDEN, "..", "..", "..", "examples", "heldout.txt")
WINDOW = 1024


def prompts(directory):
    """(name, ids) of every prompt, tokenized by the reference tokenizer and chat template."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with open(os.path.join(GOLDEN, "prompts.jsonl"), encoding="utf-8") as f:
        for line in f:
            p = json.loads(line)
            text = p.get("text") or tokenizer.apply_chat_template(p["messages"], tokenize=False)
            yield p["name"], tokenizer(text, add_special_tokens=False).input_ids


class Transformers:
    """ids -> logits.  The head is computed in F32 also for BF16, as in fp8llm: rounded to BF16, logits
    near 16 would lie 0.125 apart."""

    def __init__(self, directory, dtype):
        from transformers import AutoModelForCausalLM
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, torch_dtype=dtype, attn_implementation="eager").eval()
        self.head = self.model.lm_head.weight.float()
        self.all_layers = self.model.model.layers

    def logits(self, ids, layers):
        import torch
        self.model.model.layers = self.all_layers[:layers]
        with torch.no_grad():
            hidden = self.model.model(torch.tensor([ids])).last_hidden_state[0]
            return (hidden.float() @ self.head.T).numpy()


class Reference(reference.Model):
    def logits(self, ids, layers):
        all_layers, self.layers = self.layers, self.layers[:layers]
        try:
            return super().logits(ids)
        finally:
            self.layers = all_layers


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


def write_runs(f, layers, directory, run, exact):
    """A header line for this depth, then a line for each prompt."""
    lines, errors = [], []
    for name, ids in prompts(directory):
        lines.append(record(name, ids, run.logits(ids, layers), exact.logits(ids, layers)))
        errors.append(np.abs(np.array(lines[-1]["run"]) - np.array(lines[-1]["exact"])).ravel())
    errors = np.concatenate(errors)
    header = {"layers": layers, "max_error": round(float(errors.max()), 5),
              "mean_error": round(float(errors.mean()), 7)}
    print(header, file=sys.stderr)
    for line in [header] + lines:
        f.write(json.dumps(line, separators=(",", ":")) + "\n")


def write(file, provenance, directory, run, exact):
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        depth = json.load(f)["num_hidden_layers"]
    with open(os.path.join(GOLDEN, file), "w", encoding="utf-8") as f:
        f.write(json.dumps(provenance) + "\n")
        for layers in SHALLOW + [depth]:
            write_runs(f, layers, directory, run, exact)


def write_scales(directory):
    tensors = reference.read_safetensors(os.path.join(directory, "model.safetensors"))
    with open(os.path.join(GOLDEN, "fp8_scales.jsonl"), "w", encoding="utf-8") as f:
        for name in sorted(n for n in tensors if n.endswith("_scale")):
            value = tensors[name].reshape(())
            f.write('{"name":"%s","value":%.9g,"bytes":"%s"}\n' % (name, value, value.tobytes().hex()))


def perplexity(model, ids):
    """Windows of WINDOW tokens that do not overlap; the first token of each is not counted."""
    total, count = 0.0, 0
    for at in range(0, len(ids), WINDOW):
        part = ids[at:at + WINDOW]
        logprobs = reference.log_softmax(model.logits(part, None))
        total += float(logprobs[np.arange(len(part) - 1), part[1:]].sum())
        count += len(part) - 1
    return round(float(np.exp(-total / count)), 4)


def write_heldout(directory, fp8_directory):
    import torch
    from transformers import AutoTokenizer
    with open(HELDOUT, encoding="utf-8") as f:
        ids = AutoTokenizer.from_pretrained(directory)(f.read(), add_special_tokens=False).input_ids
    golden = {"window": WINDOW}
    for kind, make in (("bf16", lambda dtype: Transformers(directory, dtype)),
                       ("fp8", lambda dtype: Reference(fp8_directory, wide=dtype == torch.float32))):
        golden[kind] = {"run": perplexity(make(torch.bfloat16), ids),
                        "exact": perplexity(make(torch.float32), ids)}
        print(kind, golden[kind], file=sys.stderr)
    golden["ids"] = ids
    with open(os.path.join(GOLDEN, "heldout.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(golden, separators=(",", ":")) + "\n")


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "heldout":
        return write_heldout(sys.argv[2], sys.argv[3])
    if len(sys.argv) != 3 or sys.argv[1] not in ("bf16", "fp8"):
        sys.exit(__doc__)
    kind, directory = sys.argv[1:]
    if kind == "bf16":
        import torch
        import transformers
        write("bf16.jsonl",
              {"run": f"transformers {transformers.__version__}, torch {torch.__version__}, CPU, bfloat16",
               "exact": "the same in float32"},
              directory, Transformers(directory, torch.bfloat16), Transformers(directory, torch.float32))
    else:
        write("fp8.jsonl",
              {"run": f"spec/support/reference.py, numpy {np.__version__}, sums in float32",
               "exact": "the same with sums in float64"},
              directory, Reference(directory), Reference(directory, wide=True))
        write_scales(directory)
    return None


if __name__ == "__main__":
    main()
