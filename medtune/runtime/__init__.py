"""What every layer stands on: errors, logging, the run record, hardware."""
