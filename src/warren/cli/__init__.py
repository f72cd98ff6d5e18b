"""The commands, one thin module per group."""
