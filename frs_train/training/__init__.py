"""The training loop, what learns in it, and what it leaves in its run folder."""
