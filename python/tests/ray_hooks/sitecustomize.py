"""What `test_ray.py` has every process of its clusters do: hold tasks where a node is to be killed, fail some, and note what was made.

Below the folder ``JUMPLENS_TEST_HOOKS``: ``hold-PREFIX`` holds the first task that is about to keep something of that name, which writes its
node into ``held-PREFIX`` and waits for ever; ``fail-PREFIX`` fails all of them; ``made`` has a line for everything that was kept.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "jumplens.ray":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


def patch(module):
    folder = Path(os.environ["JUMPLENS_TEST_HOOKS"])
    keep = module._Desk._keep

    def hooked(self, made, kept):
        node = module.ray.get_runtime_context().get_node_id()
        for hook in folder.glob("fail-*"):
            if kept.name.startswith(hook.name[5:]):
                raise OSError("the disk is full")
        for hook in folder.glob("hold-*"):
            prefix = hook.name[5:]
            if kept.name.startswith(prefix):
                try:
                    hook.unlink()
                except FileNotFoundError:
                    # Another process is held.
                    continue
                part = folder / f"{prefix}.part"
                part.write_text(f"{node} {kept.name}")
                part.rename(folder / f"held-{prefix}")
                while True:
                    time.sleep(1)
        keep(self, made, kept)
        with open(folder / "made", "a") as file:
            file.write(f"{kept.name} {node}\n")

    module._Desk._keep = hooked


if "JUMPLENS_TEST_HOOKS" in os.environ:
    sys.meta_path.insert(0, Finder())
