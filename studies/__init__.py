"""Study declarations as TOML, no logic: default.toml shows how to write one, paper.toml holds the documented trials."""
