"""lm-eval, as PyPI has it, against the server; and `fp8llm eval`, which must give the same figures."""
import glob
import json
import math
import os
import shutil
import subprocess
import sys
import urllib.request

import lm_eval

from support import BUILD, COMMAND, MODEL, Tests, equal

test = Tests()
NAME = os.path.basename(MODEL)
OUT = BUILD + "/clients/lm_eval"
# lm-eval's own definitions of two more tasks, on rows of ours.
OWN = {"hellaswag": "hellaswag/hellaswag.yaml", "winogrande": "winogrande/default.yaml"}
# Enough to differ, little enough for a CPU.
SHOTS, LIMIT, LONGEST = "2", "10", "48"


def write_tasks():
    folder = os.path.dirname(lm_eval.__file__) + "/tasks/"
    for name, path in OWN.items():
        with open(f"{OUT}/{name}.yaml", "w") as f:
            f.write(f"include: {folder}{path}\ntask: fp8llm_{name}\ntag: []\ndataset_path: json\ndataset_name: null\n"
                    f"dataset_kwargs: {{data_files: {{validation: spec/clients/{name}.jsonl}}}}\n"
                    "training_split: null\ntest_split: null\n")


class Harness:
    def __init__(self, url):
        self.url = url
        self.environment = {**os.environ, "HF_HOME": os.path.abspath(OUT + "/hf"), "HF_DATASETS_OFFLINE": "1",
                            "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "TOKENIZERS_PARALLELISM": "false"}
        self.runs = {}

    def __enter__(self):
        shutil.rmtree(OUT, ignore_errors=True)
        os.makedirs(OUT)
        write_tasks()
        return self

    def __exit__(self, *_):
        pass

    def harness(self, name, tasks, options, kind="completions", model_args="", folder="examples/eval"):
        """Run lm_eval once under that name -> {task: (figures, samples)}"""
        if name in self.runs:
            return self.runs[name]
        path = "/v1/completions" if kind == "completions" else "/v1/chat/completions"
        words = [sys.executable, "-m", "lm_eval", "run", "--model", "local-" + kind,
                 "--model_args", f"model={NAME},base_url={self.url}{path},max_length=2048{model_args}",
                 "--tasks", ",".join(tasks), "--include_path", folder, "--output_path", f"{OUT}/{name}",
                 "--log_samples", "--limit", LIMIT, *options]
        with open(f"{BUILD}/log/lm_eval-{name}.log", "w") as log:
            subprocess.run(words, check=True, stdout=log, stderr=log, env=self.environment, timeout=900)
        self.runs[name] = {task: self.read(name, task) for task in tasks}
        return self.runs[name]

    def read(self, name, task):
        [results] = glob.glob(f"{OUT}/{name}/**/results_*.json", recursive=True)
        [samples] = glob.glob(f"{OUT}/{name}/**/samples_{task}_*.jsonl", recursive=True)
        with open(results) as f:
            figures = json.load(f)["results"][task]
        with open(samples) as f:
            lines = [json.loads(line) for line in f]
        return figures, sorted(lines, key=lambda line: line["doc_id"])

    def native(self, kind, task, folder="examples/eval", shots=SHOTS, chat=False):
        """`fp8llm eval` on the same rows -> (figures, samples)"""
        name = f"native-{task}{'-chat' if chat else ''}"
        if name in self.runs:
            return self.runs[name]
        samples = f"{OUT}/{name}.jsonl"
        words = [*COMMAND, "eval", kind, MODEL, "--task", task, "--data", f"{folder}/{task}.jsonl", "--json", "--output",
                 samples, "--limit", LIMIT]
        if shots:
            words += ["--shots", shots, "--examples", f"{folder}/{task}_dev.jsonl"]
        if kind == "generate":
            words += ["--max-tokens", LONGEST]
        report = subprocess.run(words + (["--chat"] if chat else []), check=True, capture_output=True, timeout=900)
        with open(samples) as f:
            lines = [json.loads(line) for line in f]
        self.runs[name] = json.loads(report.stdout)["results"][0]["metrics"], lines
        return self.runs[name]

    def score(self, prompts):
        """What model:score says of lists of ids after their first one, as text of %.9g, token by token."""
        script = f"""
            local fp8llm, json = require "fp8llm", require "fp8llm.json"
            local model = assert(fp8llm.load "{MODEL}")
            for line in io.lines() do
              local ids, out = json.decode(line), {{}}
              for i = 2, #ids do
                local context = {{}}
                for k = 1, i - 1 do context[k] = ids[k] end
                out[#out + 1] = string.format("%.9g", assert(model:score(context, {{{{ids[i]}}}}))[1])
              end
              print(table.concat(out, " "))
            end"""
        environment = {**os.environ, "LUA_CPATH": os.getcwd() + f"/{BUILD}/?.so",
                       "LUA_PATH": os.getcwd() + "/lua/?.lua"}
        text = "".join(json.dumps(ids) + "\n" for ids in prompts)
        out = subprocess.run(["luajit", "-e", script], input=text, text=True, check=True, capture_output=True,
                             env=environment, timeout=600)
        return [line.split() for line in out.stdout.splitlines()]


def same_figure(theirs, ours):
    """Ours comes as our JSON has it, to nine digits."""
    equal("%.9g" % theirs, "%.9g" % ours)


def same_choices(figures, samples, native, native_samples):
    for metric in "acc", "acc_norm":
        if metric + ",none" in figures:
            same_figure(figures[metric + ",none"], native[metric])
    equal(len(samples), len(native_samples))
    for theirs, ours in zip(samples, native_samples):
        lls = [float(ll) for ll, _greedy in theirs["filtered_resps"]]
        equal(len(lls), len(ours["logprobs"]))
        for a, b in zip(lls, ours["logprobs"]):
            # The sum of numbers rounded to nine digits, and the rounded sum.
            assert math.isclose(a, b, rel_tol=1.1e-8), (theirs["doc"], a, b)


def first_completions(h):
    return h.harness("completions", ["fp8llm_arc", "fp8llm_mmlu", "fp8llm_gsm8k"],
                     ["--num_fewshot", SHOTS, "--gen_kwargs", "max_gen_toks=" + LONGEST])


@test("lm_eval: local-completions asks ARC-style questions, and gets the figures of eval multiple-choice")
def _(h):
    same_choices(*first_completions(h)["fp8llm_arc"], *h.native("multiple-choice", "arc"))


@test("lm_eval: MMLU-style too; one-token choices have the log-likelihood of model:score to the last digit")
def _(h):
    figures, samples = first_completions(h)["fp8llm_mmlu"]
    native = h.native("multiple-choice", "mmlu")
    same_choices(figures, samples, *native)
    for theirs, ours in zip(samples, native[1]):
        equal(["%.9g" % float(ll) for ll, _greedy in theirs["filtered_resps"]], ["%.9g" % v for v in ours["logprobs"]])


@test("lm_eval: GSM8K-style answers are those of eval generate, letter by letter")
def _(h):
    figures, samples = first_completions(h)["fp8llm_gsm8k"]
    metrics, ours = h.native("generate", "gsm8k")
    for name in "strict-match", "flexible-extract":
        same_figure(figures["exact_match," + name], metrics[name])
    # One line of each document for each filter.
    texts = {line["doc_id"]: line["resps"][0][0] for line in samples}
    equal([texts[i] for i in sorted(texts)], [sample["text"] for sample in ours])


@test("lm_eval: eight requests at a time give the same log-likelihoods")
def _(h):
    one = first_completions(h)
    many = h.harness("concurrent", ["fp8llm_arc", "fp8llm_mmlu"], ["--num_fewshot", SHOTS],
                     model_args=",num_concurrent=8")
    for task in many:
        equal([line["filtered_resps"] for line in one[task][1]], [line["filtered_resps"] for line in many[task][1]])


@test("lm_eval: its own definitions of HellaSwag and WinoGrande agree with ours, four prompts a request")
def _(h):
    runs = h.harness("own", ["fp8llm_hellaswag", "fp8llm_winogrande"], ["--batch_size", "4"], folder=OUT)
    for task in OWN:
        same_choices(*runs["fp8llm_" + task], *h.native("multiple-choice", task, folder="spec/clients", shots=None))


@test("lm_eval: local-chat-completions with the chat template gives the answers of eval generate --chat")
def _(h):
    options = ["--num_fewshot", SHOTS, "--gen_kwargs", "max_gen_toks=" + LONGEST, "--apply_chat_template"]
    figures, samples = h.harness("chat", ["fp8llm_gsm8k"], options, kind="chat-completions")["fp8llm_gsm8k"]
    metrics, ours = h.native("generate", "gsm8k", chat=True)
    texts = {line["doc_id"]: line["resps"][0][0] for line in samples}
    equal([texts[i] for i in sorted(texts)], [sample["text"] for sample in ours])
    for name in "strict-match", "flexible-extract":
        same_figure(figures["exact_match," + name], metrics[name])


def post(url, body):
    """The answer to a JSON body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


@test("lm_eval's request by hand: every log-probability is that of model:score to the last printed digit")
def _(h):
    prompts = []
    for text in ("The capital of France is Paris.", "Question: What is 2 + 2?\nAnswer: 4", "caf\u00e9 \U0001f600"):
        with post(h.url + "/tokenize", {"prompt": text, "add_special_tokens": False}) as answer:
            prompts.append(json.load(answer)["tokens"])
    body = {"model": NAME, "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    with post(h.url + "/v1/completions", body) as answer:
        choices = json.load(answer, parse_float=str)["choices"]
    for choice, ids, expected in zip(sorted(choices, key=lambda c: c["index"]), prompts, h.score(prompts)):
        logprobs = choice["logprobs"]["token_logprobs"]
        equal(len(ids) + 1, len(logprobs))
        equal(None, logprobs[0])
        equal(expected, [str(v) for v in logprobs[1:-1]])
        for token, value, top in zip(choice["logprobs"]["tokens"], logprobs, choice["logprobs"]["top_logprobs"]):
            if value is not None:
                equal(value, top[token])
