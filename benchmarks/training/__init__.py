"""The parts of ``make bench-train``; ``docs/benchmarks.md`` says what is compared with what."""
