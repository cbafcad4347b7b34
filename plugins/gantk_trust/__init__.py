"""How far a result can be trusted: invented detail, copies, wrong contrasts, explanations."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register metrics and `gantk.explain`."""
    add.metric(
        "sfrc",
        "gantk_trust.sfrc:SFRC",
        words={
            "sfrc": (
                "Share of patches that do not agree with the truth (sFRC)",
                "Patches whose fine detail disagrees with the real image, which can be invented.",
            ),
        },
    )
    add.metric(
        "memorisation",
        "gantk_trust.memorisation:Memorisation",
        section="Sets of images",
        words={
            "memorisation": (
                "Copied training images",
                "The share of generated images whose nearest real image was trained on, beyond"
                " chance: 0 without copies, 1 if all are copies. There is a warning if the whole interval"
                " is above 0.1 (without an interval: the value above 0.5), except for images farther from"
                " the training images than held-out ones. Without known patients a person may be in both"
                " sets, which hides copies: the value is then too low.",
            ),
        },
    )
    add.function("explain", "gantk_trust.explain:explain")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk explain`."""
    from gantk_trust.command import command

    cli.add_command(command)


@hookimpl
def gantk_image_warning(image, frame) -> str | None:
    """Warn about an input, by its header, else its name, else the distribution of its values."""
    from gantk_trust.wrong_contrast import doubt

    return doubt(image, frame)


@hookimpl
def gantk_translation_warning(given, made, frame) -> str | None:
    """Warn about a translation that equals its input, or whose contrast is inverted."""
    from gantk_trust.wrong_contrast import doubt_of_result

    return doubt_of_result(given, made, frame)
