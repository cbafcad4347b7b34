"""Downloads public data sets by name: `gantk data fetch`, the command line of
`gantk.fetch`.
"""
