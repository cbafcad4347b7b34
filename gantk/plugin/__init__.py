"""The door for plugins: hooks, the registry of named parts, option schemas read off signatures, and the loader."""
