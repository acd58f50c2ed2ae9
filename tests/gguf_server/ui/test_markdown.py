"""What a model writes, on the page: Markdown as elements, everything else as text."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.gguf_server.gateway import gateway
from tests.gguf_server.ui.person import Person, visit

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(browser: Browser) -> AsyncIterator[Person]:
    async with gateway(()) as gw, visit(browser, gw) as person:
        await person.open(key=None)
        yield person


async def html(person: Person, *texts: str) -> str:
    """What the last of these texts looks like, shown one after the other as an answer grows."""
    shown: str = await person.page.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("./ui/chat/markdown.js");
            const view = new MarkdownView();
            for (const text of texts) view.show(text);
            return view.element.innerHTML;
        }""",
        texts,
    )
    return shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Plain\nlines", "<p>Plain<br>lines</p>"),
        ("# One\n### Three ##", "<h3>One</h3><h5>Three</h5>"),
        ("a **b *c* d** ~~e~~ __f__", "<p>a <strong>b <em>c</em> d</strong> <del>e</del> <strong>f</strong></p>"),
        ("2 * 3 * 4, snake_case_name, 5*", "<p>2 * 3 * 4, snake_case_name, 5*</p>"),
        ("`a*b*` and ``c`d``", "<p><code>a*b*</code> and <code>c`d</code></p>"),
        (
            "- a\n- b\n  - c\n\n  more\n1. d",
            "<ul><li>a</li><li>b<ul><li>c</li></ul><p>more</p></li></ul><ol><li>d</li></ol>",
        ),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        (r"\*not\* <br> two", "<p>*not* <br> two</p>"),
    ],
)
async def test_markdown_becomes_elements(person: Person, text: str, shown: str) -> None:
    assert await html(person, text) == shown


async def test_code_and_tables_keep_their_shape(person: Person) -> None:
    code = await html(person, "```python\nif a < b:\n    pass\n\n# x\n```\nafter")
    assert "<code>if a &lt; b:\n    pass\n\n# x</code>" in code
    assert "<span>python</span>" in code
    assert code.endswith("<p>after</p>")
    table = await html(person, "| Thuốc | mg |\n|:--|--:|\n| **A** | 5 |\n| a\\|b |")
    assert '<th class="left">Thuốc</th><th class="right">mg</th>' in table
    assert '<td class="left"><strong>A</strong></td><td class="right">5</td>' in table
    assert '<td class="left">a|b</td><td class="right"></td>' in table


async def test_a_text_that_grows_ends_as_it_would_have_at_once(person: Person) -> None:
    text = "# T\n\n- a\n- b\n\n```js\nlet x;\n```\n\n| a |\n|---|\n| b |\n\nend **bold** [a](https://a.example)"
    pieces = [text[: i + 1] for i in range(len(text))]
    assert await html(person, *pieces) == await html(person, text)


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        "[a](javascript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        "![a](https://elsewhere.example/a.png)",
        '[a](https://a.example" onclick="alert(1))',
        "```<img src=x>\n<script>\n```",
    ],
)
async def test_markup_is_text_and_pictures_are_not_loaded(person: Person, text: str) -> None:
    found = await person.page.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("./ui/chat/markdown.js");
            const view = new MarkdownView();
            document.body.append(view.element);
            view.show(text);
            const bad = view.element.querySelectorAll("img, script, iframe, [onclick], a:not([href^='https://'])").length;
            view.element.remove();
            return bad;
        }""",
        text,
    )
    assert found == 0


@pytest.mark.parametrize("piece", ["*", "_", "`", "[", "](", "> ", "- ", "|", "**a", "~~", "\\", "<"])
async def test_no_text_takes_long(person: Person, piece: str) -> None:
    """A page that hung would run into the test's own limit."""
    assert await html(person, piece * 20_000, "x " + (piece + "a ") * 10_000, (piece + "\n") * 3_000)
