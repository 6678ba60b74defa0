"""The command line: one thin command per study; parses, calls, prints."""
