"""Reports: what the monitors found, as one HTML page each; pure functions, plain text."""
