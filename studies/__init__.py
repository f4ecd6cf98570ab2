"""How to write a study: see default.toml, which says what each key means."""
