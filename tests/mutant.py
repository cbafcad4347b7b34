"""A pytest plugin (`-p mutant`) that changes one line of a module as it is imported: $GANTK_MUTANT says which.

The files on disk stay as they are. A change that does not fit the module exactly once ends the session with status 7.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys


class Mutated(importlib.machinery.SourceFileLoader):
    """Compiles the changed text; bytecode is neither read nor written."""

    def get_code(self, fullname):
        source, (old, new) = self.get_source(fullname), CHANGE
        if source.count(old) != 1:
            sys.stderr.write(f"{fullname} holds {source.count(old)} times: {old}\n")
            os._exit(7)
        return compile(source.replace(old, new), self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is to be changed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec.loader = Mutated(fullname, spec.origin)
        return spec


MODULE, *CHANGE = json.loads(os.environ["GANTK_MUTANT"])
sys.meta_path.insert(0, Finder())
