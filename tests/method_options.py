"""Options with which the contracts, the recorded steps and the cost of a step test each method."""

UNET = {"width": 4, "depth": 2}
JUDGE = {"name": "munit", "width": 4, "layers": 2}
MUNIT = {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": JUDGE}
GROWN = {"width": 8, "latent": 8}
STYLE = {"weights": "random", "style_layers": ["conv1_1"], "translate_steps": 3}
SPADE = {"width": 4, "ups": 2, "hidden": 4, "style": 2}
AUGMENTED = {"augment": ["translate"], "adapt": 0.6}
WEIGHED = AUGMENTED | {"local_ncc": 2.0, "flat_region": 4.0}

# What a registered name needs beyond its defaults to be tested; every other name is tested as it
# comes.
METHODS: dict[str, list[dict]] = {
    "anytoany": [
        {},
        AUGMENTED | {"generator": {"name": "unet", **UNET}, "adversarial": "bce", "l1": 10.0},
        {"vary": ["noise"]},
    ],
    "cyclegan": [
        {},
        WEIGHED
        | {
            "identity": 0.0,
            "source_losses": ["edge_direction"],
            "generator": {"name": "unet", **UNET},
        },
    ],
    "cut": [
        {"patches": 16, "width": 8},
        WEIGHED
        | {"nce": 10.0, "nce_identity": False, "layers": [0, 2], "low_res_warmup": 0.5}
        | {"generator": {"name": "unet", **UNET}, "source_losses": ["edge_direction"]},
    ],
    "dcgan": [
        {},
        AUGMENTED
        | {"up": "resize", "attention": [2], "adversarial": {"name": "bce", "smooth": 0.1}},
        {
            "adversarial": "wgan_gp",
            "discriminator": {"name": "dcgan", **UNET, "norm": "instance"},
        },
        {"conditional": True, "noise": "uniform", "slope": 0.2, "layers": 3},
    ],
    "dualgan": [
        {},
        {"adversarial": "wgan_gp"},
        # the resume of the contract then falls between two stages
        {"low_res_warmup": 0.5, "defense": 0.05},
    ],
    "pix2pix": [
        {},
        AUGMENTED | {"generator": {"name": "attention_unet", **UNET}, "both": True},
        {"adversarial": "wgan_gp", "l1": 0.0},
        {
            "noise": 1,
            "conditional": True,
            "generator": {"name": "attention_unet", **UNET},
        },
    ],
    "r3gan": [
        {"width": 4, "latent": 8},
        AUGMENTED | {"width": 4, "latent": 8, "plain": True, "gamma_end": 0.2, "conditional": True},
    ],
    "reggan": [
        {"refine": 2},
        {"refine": 2, "edges": 1.0, "adversarial": "wgan_gp"},
        {"refine": 2, "gan": 0.0},
    ],
    "regression": [{}, {"both": True}],
    "spade": [
        SPADE,
        SPADE | {"divergence": 0.0, "grain": True, "l1": 10.0, "features": 0.0},
    ],
    "style": [
        STYLE | {"content_layers": ["conv2_1"], "style_layers": ["conv1_1", "conv2_1"]},
        STYLE
        | {
            "content_layers": ["conv1_2"],
            "smooth": 1.0,
        },
    ],
    "style_gan": [
        {"examples": 3},
        {"examples": 1, "change": False, "defense": 0.0, "adversarial": "wgan_gp"},
    ],
    "munit": [
        MUNIT,
        MUNIT | WEIGHED | {"downs": 1, "scales": 2, "low_res_warmup": 0.5},
    ],
    "vae": [
        {"width": 4, "latent": 8},
        {"width": 4, "latent": 8, "gan": 0.1},
    ],
    "progan": [
        GROWN,
        GROWN | {"conditional": True},
        GROWN | {"fade": 1.0, "adversarial": "ls", "augment": ["brightness"], "adapt": 0.6},
    ],
}
