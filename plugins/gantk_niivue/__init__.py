"""Volumes of test patients in the report, shown by NiiVue: input, output, truth and error with one cursor.

niivue.umd.js is NiiVue 0.69.0 (niivue.com, BSD-2-Clause, see LICENSE.niivue), byte for byte from the npm package
@niivue/niivue, so that the page asks nothing of the network; others serve it by importlib.resources.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_report(record):
    """The section `Volumes`, where the run folder keeps volumes of test patients."""
    from gantk_niivue.section import section

    return section(record)
