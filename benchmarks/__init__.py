"""What the performance budget is measured with; run one with ``make bench-NAME``. Never a timed test."""
