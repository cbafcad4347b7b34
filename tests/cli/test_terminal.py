"""What is printed is what was said: markup of rich in names, files and messages is no markup."""

import pytest

from gantk import terminal

NAMES = ["[/red]", "[bold]x", "[link=https://example.org]y[/link]", "\\[/]", "[@click=z]", "[/"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_printed_text_is_text(capsys, name):
    terminal.console().print(name)
    terminal.console().print(terminal.table((name, ""), [(name, name), (name, "y")]))
    terminal.say(f"note     {name}")
    terminal.say(terminal.TextTable(("a", "b"), [(name, name)]))
    terminal.warn(name)
    terminal.complain(name, name)

    printed = capsys.readouterr()
    assert printed.out.count(name) == 8
    assert printed.err.count(name) == 3


@pytest.mark.parametrize("words", [("list",), ("list", "loss"), ("show", "loss", "[/red]")])
def test_names_of_parts_are_not_read_as_markup(add_plugin, gantk, words):
    register = (
        "import gantk\n\n@gantk.hookimpl\ndef gantk_register(add):\n"
        "    def loss(*, weight: float = 1.0):\n        '''A [/b] loss.'''\n"
        "    add.loss('[/red]', loss)"
    )
    add_plugin("my-package", "mine", register)
    outcome = gantk(*words).ok()

    assert "[/red]" in outcome.out
    assert "A [/b] loss." in outcome.out
