"""`gantk app`: a browser window and a REST endpoint that translate scans on this machine, by the
queue and the worker of the service.
"""
