"""Copy one key: read the source once, write every destination, verify."""
