"""The PyPI package anthropic against the server's /v1/messages."""
import os

import anthropic

from support import MODEL, Tests, equal

test = Tests()
NAME = os.path.basename(MODEL)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Client:
    def __init__(self, url):
        self.api = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.api.close()

    def create(self, messages=QUESTION, more=None, **options):
        return self.api.messages.create(model=NAME, messages=messages, extra_body={"temperature": 0, **(more or {})},
                                        **{"max_tokens": 16, **options})


@test("anthropic: a message, why it ended, its usage")
def _(c):
    r = c.create()
    equal("text", r.content[0].type)
    assert "Paris" in r.content[0].text, r
    assert r.stop_reason in ("end_turn", "max_tokens"), r
    assert r.usage.input_tokens + r.usage.cache_read_input_tokens > 10 and r.usage.output_tokens > 1, r
    equal("assistant", r.role)
    assert c.api.messages.create(model=NAME, messages=QUESTION, max_tokens=4).content[0].text


@test("anthropic: the stream is the message")
def _(c):
    with c.api.messages.stream(model=NAME, messages=QUESTION, max_tokens=16, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    equal(c.create().content[0].text, text)
    equal(text, final.content[0].text)
    assert final.stop_reason in ("end_turn", "max_tokens"), final
    assert final.usage.output_tokens > 1, final


@test("anthropic: a system text, blocks, a stop text, the beginning of the answer")
def _(c):
    blocks = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    equal(c.create(system="Be brief.").content[0].text,
          c.create(blocks, system=[{"type": "text", "text": "Be brief."}]).content[0].text)
    r = c.create(stop_sequences=["Paris"])
    equal(("stop_sequence", "Paris"), (r.stop_reason, r.stop_sequence))
    r = c.create(QUESTION + [{"role": "assistant", "content": "The capital of France is"}])
    assert r.content[0].text.startswith(" Paris"), r


@test("anthropic: tokens are counted without being generated")
def _(c):
    r = c.create()
    equal(r.usage.input_tokens + r.usage.cache_read_input_tokens,
          c.api.messages.count_tokens(model=NAME, messages=QUESTION).input_tokens)


@test("anthropic: refusals are the errors that its callers catch")
def _(c):
    for kind, options in [(anthropic.NotFoundError, {"more": {"model": "other"}}),
                          (anthropic.BadRequestError, {"max_tokens": -1}),
                          (anthropic.BadRequestError, {"messages": [{"role": "user", "content": [
                              {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}]}]})]:
        try:
            c.create(**options)
        except kind as e:
            equal("error", e.body["type"])
            continue
        raise AssertionError(f"no {kind.__name__}")
