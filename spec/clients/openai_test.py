"""The PyPI package openai against the server: the calls people make, and the ways they fail."""
import asyncio
import json
import math
import os
import subprocess
import urllib.request

import openai

from support import MODEL, TINY, Server, Tests, equal, write_keys

test = Tests()
NAME = os.path.basename(MODEL)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}
# A template that shows its tools, which SmolLM2's does not.
TEMPLATE = ("{% if tools %}{{ tools | tojson }}{% endif %}"
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")


def write_tiny_model():
    subprocess.run(["luajit", "spec/support/tiny_model.lua", TINY, "context=2048", "vocab=266"], check=True)
    path = TINY + "/tokenizer_config.json"
    with open(path) as f:
        config = json.load(f)
    config["chat_template"] = TEMPLATE
    with open(path, "w") as f:
        json.dump(config, f)


class Client:
    def __init__(self, url):
        self.url = url
        self.api = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.api.close()

    def chat(self, messages=QUESTION, model=NAME, **options):
        return self.api.chat.completions.create(model=model, messages=messages, **{
            "temperature": 0, "max_tokens": 16, **options})

    def complete(self, prompt, model=NAME, **options):
        return self.api.completions.create(model=model, prompt=prompt, **{
            "temperature": 0, "max_tokens": 8, **options})

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def refused(kind, param, call, *args, **options):
    try:
        call(*args, **options)
    except kind as e:
        equal(param, e.param)
        assert e.message, e
        return e
    raise AssertionError(f"no {kind.__name__}")


@test("openai: models.list and models.retrieve")
def _(c):
    names = [m.id for m in c.api.models.list()]
    assert NAME in names and "tiny" in names, names
    equal(NAME, c.api.models.retrieve(NAME).id)


@test("openai: a completion, with its usage and why it ended")
def _(c):
    r = c.complete("The capital of France is")
    assert " Paris" in r.choices[0].text, r
    equal("length", r.choices[0].finish_reason)
    equal(8, r.usage.completion_tokens)
    equal(r.usage.prompt_tokens + 8, r.usage.total_tokens)
    equal("text_completion", r.object)


@test("openai: completions of texts, of ids, and of lists of them agree")
def _(c):
    texts = ["The capital of France is", "Two and two are"]
    ids = [c.post("/tokenize", {"prompt": text, "model": NAME})["tokens"] for text in texts]
    alone = [c.complete(text).choices[0].text for text in texts]
    equal(alone, [choice.text for choice in c.complete(texts).choices])
    equal(alone, [choice.text for choice in c.complete(ids).choices])
    equal(alone[0], c.complete(ids[0]).choices[0].text)


@test("openai: completion logprobs hold the chosen token among the alternatives")
def _(c):
    r = c.complete("The capital of France is", logprobs=3).choices[0].logprobs
    equal(8, len(r.tokens))
    for token, logprob, top in zip(r.tokens, r.token_logprobs, r.top_logprobs):
        equal(logprob, top[token])
        equal(logprob, max(top.values()))  # it is greedy
        assert len(top) >= 3 and sum(math.exp(v) for v in top.values()) <= 1.000001, top
    equal("".join(r.tokens)[:r.text_offset[-1]], "".join(r.tokens[:-1]))


@test("openai: echo gives the prompt and its log-probabilities, the first of which is null")
def _(c):
    prompt = "The capital of France is"
    ids = c.post("/tokenize", {"prompt": prompt, "model": NAME})["tokens"]
    r = c.complete(ids, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert r.text.startswith(prompt), r.text
    equal(len(ids) + 1, len(r.logprobs.token_logprobs))
    equal(None, r.logprobs.token_logprobs[0])
    assert all(v <= 0 for v in r.logprobs.token_logprobs[1:])
    hidden = c.complete(prompt, echo=True, logprobs=1, max_tokens=0).choices[0]
    equal(prompt, hidden.text)
    equal(r.logprobs.token_logprobs[:-1], hidden.logprobs.token_logprobs)


@test("openai: a streamed completion is the same text")
def _(c):
    pieces = [chunk.choices[0].text for chunk in c.complete("Once upon a time", max_tokens=24, stream=True)]
    assert len(pieces) > 5, pieces
    equal(c.complete("Once upon a time", max_tokens=24).choices[0].text, "".join(pieces))


@test("openai: a chat answer")
def _(c):
    r = c.chat()
    assert "Paris" in r.choices[0].message.content, r
    equal("assistant", r.choices[0].message.role)
    equal("chat.completion", r.object)
    equal(NAME, r.model)
    assert r.id.startswith("chatcmpl-") and r.usage.prompt_tokens > 5
    assert r._request_id, "no x-request-id"  # noqa: SLF001 - so the package calls it


@test("openai: a chat stream: role, pieces, one reason, usage at the end")
def _(c):
    chunks = list(c.chat(stream=True, stream_options={"include_usage": True}))
    equal("assistant", chunks[0].choices[0].delta.role)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(c.chat().choices[0].message.content, text)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert reasons in (["stop"], ["length"]), reasons
    equal([], chunks[-1].choices)
    assert chunks[-1].usage.completion_tokens > 2
    equal(1, len({chunk.id for chunk in chunks}))


@test("openai: chat logprobs with alternatives, whole and streamed")
def _(c):
    r = c.chat(logprobs=True, top_logprobs=4)
    content = r.choices[0].logprobs.content
    equal(r.usage.completion_tokens, len(content))
    for entry in content:
        equal(4, len(entry.top_logprobs))
        equal((entry.token, entry.logprob), (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob))
        equal(entry.token, bytes(entry.bytes).decode())
    streamed = []
    for chunk in c.chat(logprobs=True, top_logprobs=4, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    equal([e.model_dump() for e in content], [e.model_dump() for e in streamed])


@test("openai: n completions of one prompt")
def _(c):
    r = c.chat(n=3, temperature=1, seed=5)
    equal([0, 1, 2], [choice.index for choice in r.choices])
    assert len({choice.message.content for choice in r.choices}) > 1, r
    text = ["", "", ""]
    for chunk in c.chat(n=3, temperature=1, seed=5, stream=True):
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
    equal([choice.message.content for choice in r.choices], text)


@test("openai: the same seed gives the same answer, another one another")
def _(c):
    def said(seed):
        return c.chat(temperature=1, seed=seed).choices[0].message.content
    equal(said(7), said(7))
    assert len({said(seed) for seed in range(4)}) > 1


@test("openai: stop ends before the text, more than four of them too")
def _(c):
    whole = c.complete("1, 2, 3, 4, 5,", max_tokens=24).choices[0]
    assert "8" in whole.text, whole
    cut = c.complete("1, 2, 3, 4, 5,", max_tokens=24, stop=["X", "YY", "ZZZ", "never", "8"]).choices[0]
    equal(whole.text.split("8")[0], cut.text)
    equal("stop", cut.finish_reason)
    streamed = c.complete("1, 2, 3, 4, 5,", max_tokens=24, stop="8", stream=True)
    equal(cut.text, "".join(chunk.choices[0].text for chunk in streamed))


@test("openai: tools reach the prompt through the template; tool_choice none leaves them out")
def _(c):
    r = c.chat(model="tiny", tools=[WEATHER])
    said = c.post("/tokenize", {"model": "tiny", "messages": QUESTION, "tools": [WEATHER]})
    equal(said["count"], r.usage.prompt_tokens)
    prompt = c.post("/detokenize", {"model": "tiny", "tokens": said["tokens"]})["prompt"]
    assert '"get_weather"' in prompt and "capital of France" in prompt, prompt
    without = c.chat(model="tiny").usage.prompt_tokens
    assert without < r.usage.prompt_tokens
    equal(without, c.chat(model="tiny", tools=[WEATHER], tool_choice="none").usage.prompt_tokens)


@test("openai: an answer that was begun is continued")
def _(c):
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of"}]
    r = c.chat(begun, extra_body={"continue_final_message": True, "add_generation_prompt": False})
    assert r.choices[0].message.content.startswith(" France"), r


@test("openai: eight clients at once get what each gets alone")
def _(c):
    prompts = [f"Write a line about the number {i}:" for i in range(8)]

    async def one(api, prompt):
        stream = await api.completions.create(model=NAME, prompt=prompt, max_tokens=12, temperature=0, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def together():
        async with openai.AsyncOpenAI(base_url=c.url + "/v1", api_key="none", max_retries=0) as api:
            return await asyncio.gather(*[one(api, prompt) for prompt in prompts])

    equal([c.complete(prompt, max_tokens=12).choices[0].text for prompt in prompts], asyncio.run(together()))


@test("openai: a stream that is left ends on the server too")
def _(c):
    stream = c.complete("Once upon a time", max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    for _ in zip(range(3), stream):
        pass
    stream.close()
    c.complete("hi", max_tokens=1)
    with urllib.request.urlopen(c.url + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    running = [line for line in text.splitlines() if "running" in line and not line.startswith("#")]
    assert running and all(float(line.split()[-1]) == 0 for line in running), running


@test("openai: refusals are BadRequestErrors that name the field")
def _(c):
    for param, options in {
        "temperature": {"temperature": -1}, "top_p": {"top_p": 0}, "n": {"n": 100000}, "max_tokens": {"max_tokens": -1},
        "response_format": {"response_format": {"type": "json_object"}},
        "tool_choice": {"tools": [WEATHER], "tool_choice": "required"},
        "top_logprobs": {"logprobs": True, "top_logprobs": 1000}, "stop": {"stop": [1]},
    }.items():
        refused(openai.BadRequestError, param, c.chat, **options)
    refused(openai.BadRequestError, "messages", c.chat, [])
    refused(openai.BadRequestError, "messages", c.chat, "hello")
    refused(openai.BadRequestError, "prompt", c.complete, [1, 99999999])


@test("openai: a prompt longer than the context says so")
def _(c):
    e = refused(openai.BadRequestError, "prompt", c.complete, "word " * 20000, model="tiny")
    equal("context_length_exceeded", e.code)


@test("openai: an unknown model is a NotFoundError")
def _(c):
    equal("model_not_found", refused(openai.NotFoundError, "model", c.chat, model="gpt-4").code)


@test("openai: with --api-keys, no key is an AuthenticationError and a key is let in, to its limits")
def _(_c):
    keys = write_keys("secret-a alice 1 0\nsecret-b bob 0 5\n")
    with Server("--api-keys", keys, name="clients-keys") as server:
        def client(key):
            return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60)

        def ask(key, **options):
            return client(key).completions.create(model=NAME, prompt="abc", max_tokens=4, temperature=0, **options)

        refused(openai.AuthenticationError, None, ask, "wrong")
        equal(4, ask("secret-a").usage.completion_tokens)
        busy = ask("secret-a", stream=True, extra_body={"max_tokens": 1500, "ignore_eos": True})
        next(iter(busy))
        refused(openai.RateLimitError, None, ask, "secret-a")
        busy.close()
        ask("secret-b")
        refused(openai.RateLimitError, None, ask, "secret-b")
    equal(0, server.status)


@test("openai: a response, whole and streamed, is the chat's answer")
def _(c):
    options = {"model": NAME, "input": QUESTION[0]["content"], "temperature": 0, "max_output_tokens": 16}
    r = c.api.responses.create(**options)
    equal(c.chat().choices[0].message.content, r.output_text)
    assert r.usage.output_tokens > 1 and r.status in ("completed", "incomplete"), r
    with c.api.responses.stream(**options) as stream:
        pieces = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response() if r.status == "completed" else None
    equal(r.output_text, "".join(pieces))
    assert final is None or final.output_text == r.output_text, final


@test("openai: a response goes on with the output of the one before, as input")
def _(c):
    history = [{"role": "user", "content": "My name is Ada."}]
    history += c.api.responses.create(model=NAME, input=history, temperature=0, max_output_tokens=16).output
    history.append({"role": "user", "content": "What is my name?"})
    r = c.api.responses.create(model=NAME, input=history, instructions="Be brief.", temperature=0, max_output_tokens=16)
    assert r.output_text, r
    refused(openai.BadRequestError, "previous_response_id", c.api.responses.create, model=NAME, input="x",
            previous_response_id=r.id)
