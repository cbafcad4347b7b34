"""Volumes of test patients in the report, shown by NiiVue: input, output, truth and error with one
cursor.

niivue.umd.js is NiiVue 0.69.0 (niivue.com, BSD-2-Clause, see LICENSE.niivue), byte for byte from
the npm package @niivue/niivue, so that the page needs no network; other plugins read it with
importlib.resources.
"""
