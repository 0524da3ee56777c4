"""What the GPU machine lacks is missing here too."""

import sys
from importlib.machinery import PathFinder

LACKING = ("tyro", "faster_coco_eval", "pycocotools", "pydantic", "ultralytics", "mmengine", "torchdistill")


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKING else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
