"""The commands: parse arguments, load the configuration, wire the parts, run."""
