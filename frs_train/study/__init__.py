"""Studies: many runs from one file, compared by seed, with intervals."""
