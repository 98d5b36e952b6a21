"""Real HTTP load: `open_loop` sends it to a `target`, and `record` is what was seen."""
