"""The modules that a plugin may import, beside the names in `gantk.__all__`: they change only with a
new version and an entry in CHANGELOG.md. The bundled plugins import nothing else.
"""

PUBLIC_MODULES = (
    # what a part is, and its surroundings
    "gantk.errors",
    "gantk.files",
    "gantk.downloads",
    "gantk.hub",
    "gantk.terminal",
    "gantk.progress",
    "gantk.method",
    "gantk.plugin.spec",
    "gantk.testing",
    # recipes and machines
    "gantk.recipe.load",
    "gantk.machine.runtime",
    # files and data
    "gantk.formats.budget",
    "gantk.catalog.contrasts",
    "gantk.formats.files",
    "gantk.formats.image",
    "gantk.data.look",
    "gantk.data.intensity",
    "gantk.catalog.domains",
    "gantk.catalog.tables",
    "gantk.data.split",
    # networks and losses
    "gantk.nets.blocks",
    "gantk.nets.pretrained",
    "gantk.losses.reconstruction",
    "gantk.losses.structure",
    # a run and its model
    "gantk.runs.folder",
    "gantk.runs.models",
    "gantk.runs.results",
    "gantk.runs.schemas",
    "gantk.runs.trained",
    "gantk.prepare.module",
    "gantk.inference.frame",
    # scores and pages
    "gantk.metrics.baselines",
    "gantk.metrics.evaluate",
    "gantk.metrics.intervals",
    "gantk.metrics.names",
    "gantk.metrics.pair_scores",
    "gantk.metrics.pairs",
    "gantk.metrics.references",
    "gantk.metrics.rows",
    "gantk.metrics.sets",
    "gantk.metrics.written",
    "gantk.report.build",
)
