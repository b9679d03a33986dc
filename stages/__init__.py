"""The stages of halle: one module a command, one folder a noun of the field."""
