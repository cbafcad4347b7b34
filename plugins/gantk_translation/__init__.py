"""Image-to-image translation: the methods, and what makes unpaired training work."""

from gantk import hookimpl
from gantk.errors import UserError


@hookimpl
def gantk_register(add) -> None:
    """Register methods, and the losses, sources and orders that belong to one of them."""
    add.method(
        "cyclegan",
        "gantk_translation.cyclegan:CycleGAN",
        also=("cycle_gan",),
        usual_steps=2400,
        plan="gantk_translation.planning:plan_unpaired",
        paper=(
            "Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using"
            " Cycle-Consistent Adversarial Networks, ICCV 2017, arXiv:1703.10593"
        ),
    )
    add.method(
        "dualgan",
        "gantk_translation.dualgan:DualGAN",
        usual_steps=2400,
        paper=(
            "Yi, Zhang, Tan, Gong: DualGAN: Unsupervised Dual Learning for Image-to-Image"
            " Translation, ICCV 2017, arXiv:1704.02510"
        ),
    )
    add.method(
        "cut",
        "gantk_translation.cut.model:CUT",
        also=("contrastive", "fastcut", "nce", "patchnce", "patch_nce"),
        paper=(
            "Park, Efros, Zhang, Zhu: Contrastive Learning for Unpaired Image-to-Image"
            " Translation, ECCV 2020, arXiv:2007.15651"
        ),
    )
    add.method("back_translation", "gantk_translation.back_translation:BackTranslation")
    add.method("anytoany", "gantk_translation.any_to_any.model:AnyToAny", also=("mm_gan",))
    add.method(
        "spade",
        "gantk_translation.spade.model:SPADEGAN",
        paper=(
            "Park, Liu, Wang, Zhu: Semantic Image Synthesis with Spatially-Adaptive"
            " Normalization, CVPR 2019, arXiv:1903.07291"
        ),
    )
    add.intensity("label_map", "gantk_translation.label_maps:LabelMap")
    add.method(
        "pix2pix",
        "gantk_translation.pix2pix.model:Pix2Pix",
        also=("pix2pixhd",),
        usual_steps=1200,
        plan="gantk_translation.planning:plan_paired",
        paper=(
            "Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional"
            " Adversarial Networks, CVPR 2017, arXiv:1611.07004"
        ),
    )
    add.method("regression", "gantk_translation.pix2pix.regression:Regression", usual_steps=1200)
    add.method(
        "munit",
        "gantk_translation.munit.model:MUNIT",
        paper=(
            "Huang, Liu, Belongie, Kautz: Multimodal Unsupervised Image-to-Image"
            " Translation, ECCV 2018, arXiv:1804.04732"
        ),
    )
    add.discriminator(
        "munit",
        "gantk_translation.munit.discriminator:Strided",
        also=("multiscale", "multi_scale"),
        small={"width": 4, "layers": 2},
    )
    add.schedule("halving", "gantk_translation.munit.schedule:Halving")
    add.method(
        "reggan",
        "gantk_translation.reggan.model:RegGAN",
        paper=(
            "Kong, Lian, Huang, Li, Hu, Zhou: Breaking the Dilemma of Medical"
            " Image-to-image Translation, NeurIPS 2021, arXiv:2110.06465"
        ),
    )
    add.loss("weak_pairs", "gantk_translation.weak_pairs.loss:WeakPairs")
    add.order("matched", "gantk_translation.matched:Matched")
    add.source("misaligned", "gantk_translation.misaligned.source:Misaligned")
    add.metric(
        "nmi",
        "gantk_translation.misaligned.nmi:NMI",
        plan="gantk_translation.planning:plan_structure",
        words={
            "nmi": (
                "Normalised mutual information (NMI)",
                "How well one image predicts the other: 2 for equal images, 1 for unrelated ones.",
            ),
            "nmi_input": (
                "Normalised mutual information of output and input (NMI with input)",
                "How much of the input's structure the output has: registered T1 and T2 of one head"
                " reach about 1.3, of two heads 1.1, a copy 2. It does not see wrong tissue.",
            ),
        },
    )


@hookimpl
def gantk_before_training(model) -> None:
    """Refuse label maps that a method or an augmentation would misread."""
    mapping = model.data.intensity
    # of all domains, or of single ones inside it
    names = [getattr(part, "name", "") for part in (mapping, *mapping.options.values())]
    if "label_map" in names:
        from gantk_translation.label_maps import expect_exact

        expect_exact(model.data.augment)
    if model.method.name == "spade":
        _expect_classes(model)


def _expect_classes(model) -> None:
    """UserError where the first domain has no label maps, or other classes than the method."""
    part = model.data.intensity.options.get("a")
    count = model.method.options["classes"]
    if getattr(part, "name", "") == "label_map" and part.options["classes"] == count:
        return

    raise UserError(
        f"spade needs label maps of {count} classes, but data.intensity has no such mapping for the"
        " first domain",
        where="data.intensity",
        remedy=f'use the mapping "domains" with a = {{ name = "label_map", classes = {count} }} and'
        ' b = "percentile"',
    )


@hookimpl
def gantk_images_scored(tested, result, scorer) -> None:
    """Add what only some methods and metrics can say of the test images."""
    if tested and scorer.model.method.name == "anytoany":
        from gantk_translation.any_to_any.scoring import add_scores

        add_scores(tested["a_to_b"], scorer, result)

    if any(metric.name == "nmi" for metric in scorer.pairs.metrics):
        from gantk_translation.misaligned.nmi import add_nmi_of_inputs

        add_nmi_of_inputs(tested | scorer.unpaired, result)
