"""How far a study or a stage is, read from its folder while it runs: in a terminal, or on a page."""
