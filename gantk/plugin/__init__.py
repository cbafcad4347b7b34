"""How parts and plugins reach gantk: hooks, the registry of named parts, the options of a part.

Read first: hookspecs (all hooks), then registry and loader; spec makes a schema of a signature.
Imports no room but errors, files, terminal and method; nothing here knows a plugin by name.
"""
