"""Markdown shows texts from files as they are: no HTML, no link, no code that runs a terminal."""

import json
import re
import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tiny import read_json, write_json, write_toml

from gantk import escape_markdown
from gantk.errors import printable
from gantk.files import sha256_of

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PLAIN = {"paragraph", "heading", "bullet_list", "list_item", "inline", "text", "table", "thead"}
PLAIN |= {"tbody", "tr", "th", "td"}

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- a -->",
    "[text](javascript:alert(1))",
    "![](https://evil.example/x.png)",
    "[a][b]",
    "[a]: https://evil.example",
    "<https://evil.example>",
    "https://evil.example",
    "www.evil.example",
    "`code`",
    "``` \n block",
    "*a* _b_ **c** __d__ ~~e~~",
    "a|b \\| c",
    "\\",
    "a\\",
    "\\`",
    "# head\n## Limits\n\nNone.",
    "- item",
    "1. item",
    "===",
    "---",
    "> quote",
    "&lt;b&gt; &#60;b&#62;",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eabc",
    "{facts} {scores}",
    "[ ] task",
    "a #",
]
# what a sentence of a run may contain, often what Markdown takes for something
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="[]()<>!*_`~#|\\&;:/-+=.1 \n\tax", max_size=30),
    st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join),
)


def shown(markdown: str) -> list[str]:
    """The texts that Markdown shows, one a block; an assertion where it shows more than text."""
    texts = []
    for token in READER.parse(markdown):
        assert re.sub("_(open|close)$", "", token.type) in PLAIN, token.type
        for child in token.children or ():
            assert child.type in ("text", "text_special"), (child.type, markdown)
        if token.type == "inline":
            texts.append("".join(child.content for child in token.children))
    return texts


def line_of(text: str) -> str:
    return " ".join(printable(text).split())


def with_hostile(test):
    for text in HOSTILE:
        test = example(text=text)(test)
    return settings(max_examples=40, deadline=None, derandomize=True)(given(text=TEXTS)(test))


@with_hostile
def test_an_escaped_text_is_shown_as_it_is(text):
    line = line_of(text)
    escaped = escape_markdown(text)
    wanted = [line] if line else []

    assert escaped.isprintable()
    assert shown(escaped) == wanted
    assert shown(f"# {escaped}\n") in (wanted, [""])
    assert shown(f"- {escaped}\n") == wanted
    assert shown(f"Of {escaped} images") == [f"Of {line} images"]


@pytest.mark.parametrize("text", [" x ".join(HOSTILE), "<b>a</b>", "[a](http://b)", "```"])
def test_cards_show_what_files_say_as_it_is(copied_run, tmp_path, text):
    from gantk import write_card
    from gantk_models import packing

    recipe = tomllib.loads((copied_run / "recipe.toml").read_text("utf-8"))
    write_toml(copied_run / "recipe.toml", recipe | {"summary": text})
    (copied_run / "card.md").write_text(
        f"# a\n\n## Data and licences\n{text}\n\n## Limits\n{text}\n"
    )
    for name, changed in (
        ("environment.json", {"platform": text, "packages": {text: text}, "python": text}),
        ("split.json", {"how": text}),
    ):
        found = read_json(copied_run / name)
        write_json(copied_run / name, found | changed)

    with (copied_run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3, "alarm": {"message": text}}) + "\n")

    folder = copied_run.rename(copied_run.with_name("<i>x</i> [a](b) *c*".replace("/", "")))
    write_card(folder, out=tmp_path / "card.md", say=lambda line: None)
    own = {"to be filled in: ", "gantk explain"}
    for token in READER.parse((tmp_path / "card.md").read_text("utf-8")):
        assert token.type not in ("html_block", "fence", "code_block", "blockquote_open")
        for child in token.children or ():
            assert child.type not in ("html_inline", "link_open", "image", "s_open"), child
            assert child.type != "code_inline" or child.content in own

    template = "# {name}\n\n{summary}\n\n{facts}\n\n{scores}\n"
    packed = packing.fill_card(template, text, folder, "float16")
    for token in READER.parse(packed):
        assert token.type not in ("html_block", "fence", "code_block", "blockquote_open")
        for child in token.children or ():
            assert child.type in ("text", "text_special", "code_inline"), child
    assert packed.count("| domains |") == 1, "a name is no place for a table"
    assert sha256_of(next(folder.rglob("step-*/weights.safetensors"))) in packed
