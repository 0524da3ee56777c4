"""The entry point of `python -m frs_train` and `frs-train`."""

from frs_train import interrupt


def main() -> int:
    """Installs the signal handlers, then imports and runs the command line; returns the exit status."""
    interrupt.listen(interrupt.leave)
    from frs_train.cli import main as command_line

    return command_line.main()


if __name__ == "__main__":
    raise SystemExit(main())
