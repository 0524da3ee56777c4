"""The command line: `frs-train COMMAND`."""
