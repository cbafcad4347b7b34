"""Scores beyond the core: sets of images, learned features, LPIPS, and what images are good for."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register metrics, features and a baseline that learns from pairs."""
    add.metric(
        "ms_ssim",
        "gantk_scores.sets.ms_ssim:MSSSIM",
        words={
            "ms_ssim": (
                "Structural similarity at several scales (MS-SSIM)",
                "Agreement of edges and contrast at coarse and fine scales; 1 means equal images.",
            ),
        },
    )
    add.metric(
        "fid",
        "gantk_scores.sets.fid:Fid",
        also=("is", "inception"),
        section="Sets of images",
        words={
            "fid": (
                "Fréchet distance of image features (FID)",
                "How far the generated images as a set are from the real ones; 0 means the same set.",
            ),
        },
    )
    add.metric(
        "prdc",
        "gantk_scores.sets.neighbours:Prdc",
        section="Sets of images",
        words={
            "precision": (
                "Generated images near a real one (precision)",
                "The share of generated images whose features lie near those of a real image.",
            ),
            "recall": (
                "Real images near a generated one (recall)",
                "The share of real images whose features lie near those of a generated image.",
            ),
            "density": (
                "Real neighbours of generated images (density)",
                "How densely the real images surround the generated ones.",
            ),
            "coverage": (
                "Real images with a generated neighbour (coverage)",
                "The share of real images with a generated image nearby.",
            ),
        },
    )
    add.metric(
        "diversity",
        "gantk_scores.sets.diversity:Diversity",
        section="Sets of images",
        words={
            "diversity": (
                "Diversity of the generated images",
                "1 means as varied as real images, 0 means that all images are the same.",
            ),
        },
    )
    add.features("inception", "gantk_scores.features.inception:Inception")
    add.features("timm", "gantk_scores.features.timm_network:TimmFeatures")
    add.metric(
        "lpips",
        "gantk_scores.lpips_metric:LPIPS",
        words={
            "lpips": (
                "Learned perceptual distance (LPIPS)",
                "How different the images look to a trained network; 0 means equal images.",
            ),
        },
    )
    add.baseline(
        "regression",
        "gantk_scores.tasks.regression:Regression",
        words={
            "regression": (
                "a small U-Net",
                "Trained on registered pairs by the mean absolute error alone (batch 8), without a discriminator.",
            )
        },
    )
    add.metric(
        "classification",
        "gantk_scores.tasks.classification:Classification",
        section="Tasks",
        trains=True,
        words={
            "classification": (
                "Classifiers trained on generated images, tested on real ones",
                "Their mean balanced accuracy: 1 means that the generated images teach every class;"
                " two classes by chance give 0.5.",
            ),
            "classification_real": (
                "The same classifiers trained on real images",
                "Their mean balanced accuracy: what the real training images teach.",
            ),
            "classification_both": (
                "The same classifiers trained on both",
                "Their mean balanced accuracy with real and generated training images.",
            ),
            "classification_gain": (
                "What generated images add to real ones",
                "Balanced accuracy with both minus that with real images alone, of classifiers of the"
                " same seeds. The interval includes the chance of the trainings: if it includes 0, or if"
                " fewer than six patients or classifiers give none, neither help nor harm is shown.",
            ),
        },
    )
    add.metric(
        "transfer",
        "gantk_scores.tasks.transfer:Transfer",
        trains=True,
        words={
            "transfer": (
                "Translations that a classifier assigns to the target domain",
                "The share that looks like the target domain; 1 means all of them.",
            ),
            "transfer_ssim": (
                "Structural similarity of translations and their inputs (SSIM to the input)",
                "How far the anatomy of the input is kept; 1 means an unchanged image.",
            ),
        },
    )
    add.metric(
        "segmentation",
        "gantk_scores.tasks.segmentation:Segmentation",
        section="Tasks",
        trains=True,
    )
