"""`python -m frs_train` is `frs-train`."""

from frs_train.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
