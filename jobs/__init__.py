"""One file per command: arguments in, artefact path out."""
