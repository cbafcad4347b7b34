"""`gantk app`: a window of the browser, and the call of Gradio's API, that translate scans on this
machine.

niivue.umd.js, which shows the volumes, is NiiVue 0.69.0 (niivue.com, BSD-2-Clause, see
LICENSE.niivue), byte for byte from the npm package @niivue/niivue, so that the page needs no network.
"""
