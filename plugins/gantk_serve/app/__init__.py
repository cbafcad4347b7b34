"""`gantk app`: a browser window and a REST endpoint that translate scans on this machine, by the
queue and the worker of the service.

niivue.umd.js, which shows the volumes, is NiiVue 0.69.0 (niivue.com, BSD-2-Clause, see
LICENSE.niivue), byte for byte from the npm package @niivue/niivue, so that the page needs no network.
"""
