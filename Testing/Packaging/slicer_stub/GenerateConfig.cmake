# Nothing: a scripted extension exports no targets.
