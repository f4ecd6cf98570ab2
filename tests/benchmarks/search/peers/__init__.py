"""Other tools' searches behind the simulation's protocol, each run in an environment that has the real package."""
