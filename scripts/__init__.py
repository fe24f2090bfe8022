"""Programs: parse, build, call, save."""
