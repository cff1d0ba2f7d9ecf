"""The PyPI package litellm, unpatched, against the server: through the three APIs it can speak to it with."""
import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it fetches a table of prices

import litellm  # noqa: E402

from support import MODEL, Tests, equal  # noqa: E402

test = Tests()
NAME = os.path.basename(MODEL)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Client:
    def __init__(self, url):
        self.url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def options(self, provider="openai", **options):
        base = self.url if provider == "anthropic" else self.url + "/v1"
        return {"model": f"{provider}/{NAME}", "api_base": base, "api_key": "none", "temperature": 0, "num_retries": 0,
                **options}

    def chat(self, provider="openai", **options):
        return litellm.completion(messages=QUESTION, **self.options(provider, **{"max_tokens": 16, **options}))


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@test("litellm: a chat, whole and streamed, as each provider")
def _(c):
    whole = c.chat().choices[0].message.content
    assert "Paris" in whole, whole
    for provider in ("openai", "hosted_vllm", "anthropic"):
        r = c.chat(provider)
        equal(whole, r.choices[0].message.content)
        assert r.usage.prompt_tokens > 10 and r.usage.completion_tokens > 1, r
        equal(whole, text_of(c.chat(provider, stream=True)))


@test("litellm: many chats at a time")
def _(c):
    async def all_of_them():
        return await asyncio.gather(*(litellm.acompletion(messages=QUESTION, **c.options(max_tokens=8)) for _ in range(8)))

    texts = {r.choices[0].message.content for r in asyncio.run(all_of_them())}
    equal(1, len(texts))


@test("litellm: a text completion, and a response")
def _(c):
    r = litellm.text_completion(prompt="The capital of France is",
                                **c.options("text-completion-openai", max_tokens=8))
    assert " Paris" in r.choices[0].text, r
    r = litellm.responses(input=QUESTION[0]["content"], **c.options(max_output_tokens=16))
    assert "Paris" in r.output[0].content[0].text, r


@test("litellm: refusals are the errors that its callers catch")
def _(c):
    try:
        litellm.completion(messages=[{"role": "user", "content": "word " * 9000}], **c.options())
    except litellm.ContextWindowExceededError as e:
        assert "maximum context length is" in str(e), e
    else:
        raise AssertionError("no ContextWindowExceededError")
    try:
        c.chat(temperature=-1)
    except litellm.BadRequestError as e:
        assert "temperature" in str(e), e
    else:
        raise AssertionError("no BadRequestError")
