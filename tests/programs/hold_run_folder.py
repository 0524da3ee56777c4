"""Holds the lock of FOLDER, starts a child that waits, too, and says "held": hold_run_folder.py FOLDER."""

import os
import sys
import time
from pathlib import Path

from frs_train.files import locked

with locked(Path(sys.argv[1])):
    if os.fork():
        print("held", flush=True)
    time.sleep(60)
