"""`frs-train benchmark`: size, speed and AP of detectors next to each other.

`models` opens what is compared, `measure` measures it, `tables` and `figure` show the result.
"""
