"""Tasks that wait: for new rows, for a finding of a monitor."""
