"""Runs frs-train with its arguments; then prints, in one line, its exit status and all packages imported."""

import sys

from frs_train.__main__ import main

try:
    status = main()
except SystemExit as end:
    status = end.code
print(status, *sorted({name.partition(".")[0] for name in sys.modules}))
