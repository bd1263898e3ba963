"""What waits without a worker: new rows, findings of a monitor."""
