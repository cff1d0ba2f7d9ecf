"""The page at / in headless Chromium: what a person does with it, with the mouse and without."""
import os
import re
import shutil
import time

from playwright.sync_api import expect, sync_playwright

from support import BUILD, TINY, Server, Tests, equal, write_keys

test = Tests()
QUESTION = "What is the capital of France?"


class Page:
    def __init__(self, url):
        self.url = url
        self.errors = []

    def __enter__(self):
        self.playwright = sync_playwright().start()
        chromium = shutil.which("chromium") or shutil.which("chromium-headless-shell")
        self.browser = self.playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        self.context = self.browser.new_context(viewport={"width": 900, "height": 760})
        self.context.set_default_timeout(60000)
        self.open()
        return self

    def open(self, **options):
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.requests = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(self.url + "/")
        return self.page

    def __exit__(self, *_):
        self.browser.close()
        self.playwright.stop()

    def ask(self, text):
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def finished(self):
        expect(self.page.get_by_role("button", name="Send")).to_be_enabled(timeout=120000)

    def tokens(self):
        return self.page.locator("article.assistant").last.locator(".token")

    def answer(self):
        return self.page.locator("article.assistant").last.locator(".said").inner_text()

    def screenshot(self, name):
        os.makedirs(BUILD + "/clients", exist_ok=True)
        self.page.screenshot(path=f"{BUILD}/clients/{name}.png")


def setting(p, label, value):
    toggle = p.page.get_by_role("button", name="Settings")
    if toggle.get_attribute("aria-expanded") == "false":
        toggle.click()
    p.page.get_by_label(label, exact=True).fill(value)
    toggle.click()


@test("page: it lists the models, fetches nothing from elsewhere, and is small")
def _(p):
    names = p.page.get_by_label("Model", exact=True).locator("option")
    expect(names.first).not_to_have_text("no model yet")
    for url in p.requests:
        assert url.startswith((p.url, "data:")), url
    assert len(p.page.content()) < 60000


@test("page: an answer streams in, token by token, with its speed")
def _(p):
    setting(p, "Temperature", "0")
    setting(p, "Longest answer", "40")
    p.page.evaluate("""() => {
      window.seen = [];
      const look = () => seen.push([document.querySelectorAll(".token").length, document.getElementById("stop").disabled]);
      new MutationObserver(look).observe(document.getElementById("log"), {childList: true, subtree: true});
    }""")
    p.ask(QUESTION)
    p.finished()
    growing = [count for count, stop_is_disabled in p.page.evaluate("seen") if count and not stop_is_disabled]
    assert len(set(growing)) > 3 and growing == sorted(growing), growing
    assert "Paris" in p.answer(), p.answer()
    figures = p.page.locator(".figures").last.inner_text()
    assert re.match(r"\d+ tokens, [\d.]+ tokens/s, first after [\d.]+ s", figures), figures
    said = int(figures.split()[0])  # with the end token, which is not shown
    assert said - 1 <= p.tokens().count() <= said, (figures, p.tokens().count())
    status = p.page.get_by_role("status")
    expect(status).to_contain_text("Answer: ")
    equal("off", p.page.get_by_role("log").get_attribute("aria-live"))


@test("page: tokens are coloured by probability; the mouse shows the alternatives")
def _(p):
    p.tokens().first.hover()
    box = p.page.get_by_role("group", name="Alternatives", exact=True)
    expect(box).to_be_visible()
    assert box.get_by_role("button").count() >= 5
    assert re.search(r"probability [\d.]+ %", box.inner_text()), box.inner_text()
    p.screenshot("page-alternatives")
    classes = {c.split()[-1] for c in p.tokens().evaluate_all("all => all.map((e) => e.className)")}
    assert classes <= {"p1", "p2", "p3", "p4", "p5"} and len(classes) > 1, classes
    p.page.mouse.move(5, 5)
    expect(box).to_be_hidden()


@test("page: the keyboard alone reaches tokens and alternatives, and another one goes on from there")
def _(p):
    p.page.get_by_role("log").focus()
    p.page.keyboard.press("Tab")
    p.page.keyboard.press("Home")
    p.page.keyboard.press("ArrowRight")
    equal(p.tokens().nth(1).inner_text(), p.page.evaluate("document.activeElement.textContent"))
    box = p.page.get_by_role("group", name="Alternatives", exact=True)
    expect(box).to_be_visible()
    p.page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    before, first = p.answer(), p.tokens().first.inner_text()
    p.page.keyboard.press("Enter")
    chosen = p.page.evaluate("document.activeElement.querySelector('code').textContent")
    p.page.keyboard.press("Enter")
    p.finished()
    after = p.answer()
    assert after != before, after
    assert after.startswith(first + chosen.replace("\u00b7", " ").replace("\u23ce", "\n")), (after, first, chosen)


@test("page: a conversation, its settings and its tokens survive a reload")
def _(p):
    before = p.answer(), p.tokens().count(), p.page.locator("article").count()
    p.page.reload()
    p.tokens().first.wait_for()
    equal(before, (p.answer(), p.tokens().count(), p.page.locator("article").count()))
    equal("0", p.page.locator("#temperature").input_value())
    p.tokens().last.hover()
    expect(p.page.get_by_role("group", name="Alternatives", exact=True)).to_be_visible()
    p.page.mouse.move(5, 5)


@test("page: Stop ends an answer, and what there is stays")
def _(p):
    setting(p, "Longest answer", "2000")
    p.ask("Tell me a very long story about a lighthouse. Write at least one thousand words.")
    p.tokens().nth(3).wait_for()
    p.page.get_by_role("button", name="Stop").click()
    p.finished()
    n = p.tokens().count()
    assert n >= 3, n
    expect(p.page.locator(".figures").last).to_contain_text("stopped")
    time.sleep(0.5)
    equal(n, p.tokens().count())


@test("page: Escape stops too; Answer again replaces the answer")
def _(p):
    articles = p.page.locator("article").count()
    p.page.get_by_role("button", name="Answer again").click()
    p.tokens().nth(2).wait_for()
    p.page.keyboard.press("Escape")
    p.finished()
    expect(p.page.locator(".figures").last).to_contain_text("stopped")
    equal(articles, p.page.locator("article").count())


@test("page: a reload in the middle of an answer keeps what was there")
def _(p):
    p.page.get_by_role("button", name="Answer again").click()
    p.tokens().nth(3).wait_for()
    p.page.reload()
    p.tokens().first.wait_for()
    assert p.tokens().count() >= 3
    expect(p.page.get_by_role("button", name="Send")).to_be_enabled()
    expect(p.page.get_by_role("button", name="Answer again")).to_be_enabled()


@test("page: what the server refuses is said where a screen reader hears it")
def _(p):
    articles = p.page.locator("article").count()
    p.page.locator("#temperature").evaluate("(e) => { e.value = -1; }")
    p.ask("hi")
    expect(p.page.get_by_role("alert")).to_contain_text("temperature")
    equal(articles + 1, p.page.locator("article").count())
    p.page.locator("#temperature").evaluate("(e) => { e.value = 0; }")
    p.errors = [e for e in p.errors if "400" not in e]


@test("page: New conversation forgets; without colours the text comes alone")
def _(p):
    p.page.get_by_role("button", name="New conversation").click()
    equal(0, p.page.locator("article").count())
    p.page.get_by_role("button", name="Settings").click()
    p.page.get_by_label("Colour tokens by their probability").uncheck()
    p.page.get_by_label("Longest answer").fill("8")
    p.ask(QUESTION)
    p.finished()
    equal(0, p.tokens().count())
    assert len(p.answer()) > 3
    p.page.get_by_label("Colour tokens by their probability").check()
    p.screenshot("page-settings")


@test("page: a server with keys is asked for with one, which survives a reload; its operator's policies are offered")
def _(p):
    policy = BUILD + "/clients/shout.lua"
    with open(policy, "w") as f:
        f.write("return function(step) step:accept(65) end\n")
    options = ["--api-keys", write_keys("secret-a alice 0 0\n"), "--policy", "shout=" + policy]
    with Server(*options, model=TINY, name="clients-page") as server:
        page = p.context.new_page()
        page.goto(server.url)
        expect(page.get_by_label("API key")).to_be_focused()
        expect(page.get_by_role("alert")).to_contain_text("api key")
        page.keyboard.type("secret-a")
        page.keyboard.press("Tab")
        for _ in range(2):
            expect(page.get_by_label("Model", exact=True).locator("option")).to_have_text("tiny")
            page.reload()
        page.get_by_label("Policy").select_option("shout")
        page.get_by_label("Longest answer").fill("6")
        page.get_by_label("Message", exact=True).fill("hello")
        page.keyboard.press("Enter")
        expect(page.locator("article.assistant .said").last).to_have_text("AAAAAA")
        page.close()


LUMINANCE = """(colour) => {
  const c = document.createElement("canvas").getContext("2d");
  c.fillStyle = colour; c.fillRect(0, 0, 1, 1);
  return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
}"""


@test("page: text has a contrast of 4.5 to 1 and more on every background, light and dark")
def _(p):
    for scheme in "light", "dark":
        p.page.emulate_media(color_scheme=scheme)

        def luminance(name):
            value = p.page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
            return p.page.evaluate(LUMINANCE, value.strip())

        for fore, backs in {"text": "back panel mine p2 p3 p4 p5", "quiet": "back panel", "bad": "back",
                            "on-link": "link"}.items():
            for back in backs.split():
                a, b = sorted((luminance(fore), luminance(back)))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (scheme, fore, back, (b + 0.05) / (a + 0.05))
    p.screenshot("page-dark")
    p.page.emulate_media(color_scheme="light")


@test("page: every control has a name, and reduced motion is heeded")
def _(p):
    nameless = p.page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea")]
      .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || (e.labels && e.labels.length)))
      .map((e) => e.outerHTML)""")
    equal([], nameless)
    p.page.emulate_media(reduced_motion="reduce")
    p.page.evaluate("document.querySelector('article.assistant').classList.add('busy')")
    equal("none", p.page.evaluate(
        "getComputedStyle(document.querySelector('article.assistant .said'), '::after').animationName"))


@test("page: the order of focus is that of the eye; nothing went wrong in the script")
def _(p):
    p.page.reload()
    p.page.locator("article").first.wait_for()
    order = []
    for _ in range(20):
        p.page.keyboard.press("Tab")
        order.append(p.page.evaluate("document.activeElement.id"))
    places = [order.index(name) for name in ("model", "settings-toggle", "clear", "temperature", "log", "message", "send")]
    equal(sorted(places), places)
    equal([], p.errors)
