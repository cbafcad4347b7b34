"""How far a translation can be trusted: uncertainty, hallucinations, copies, wrong contrasts."""

from gantk import hookimpl

UNCERTAINTIES = ("auto", "flips", "cycle", "members")


@hookimpl
def gantk_register(add) -> None:
    """Register kinds of uncertainty and metrics."""
    for name in UNCERTAINTIES:
        add.uncertainty(name, f"gantk_trust.uncertainty.maps:{name.capitalize()}")
    add.metric(
        "sfrc",
        "gantk_trust.hallucination.sfrc:SFRC",
        words={
            "sfrc": (
                "Share of patches that do not agree with the truth (sFRC)",
                "Patches whose fine detail disagrees with the real image, which can be invented.",
            ),
        },
    )
    add.metric(
        "memorisation",
        "gantk_trust.memorisation.memorisation:Memorisation",
        section="Sets of images",
        words={
            "copied": (
                "Copied training images",
                "The share of generated images whose nearest real image was trained on, beyond chance.",
            ),
            "distance_ratio": (
                "Distance to training images",
                "Relative to that of held-out images; 1 means no copies.",
            ),
            "membership": (
                "Membership",
                "How well the distance to the nearest generated image reveals who was trained on; 0.5 means not at all.",
            ),
        },
    )
    add.function("explain", "gantk_trust.explain.explain:explain")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk explain`."""
    from gantk_trust.explain.command import command

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


@hookimpl
def gantk_images_scored(run, tested, result, scorer) -> None:
    """Keep the most suspicious patches and the likeliest copies."""
    if any(metric.name == "sfrc" for metric in scorer.pairs.metrics):
        from gantk_trust.hallucination import patches

        patches.keep(run, tested)

    for metric in scorer.set_metrics:
        if metric.name.startswith("memorisation") and "image" in result.metrics:
            from gantk_trust.memorisation import copies

            copies.keep(run, result, scorer, metric)


@hookimpl
def gantk_report_section(record) -> list:
    """The sections `Suspicious patches` and `Nearest training images`, where these were saved."""
    from gantk_trust.hallucination import patches
    from gantk_trust.memorisation import copies

    return [patches.section(record), copies.section(record)]
