"""The launcher's side: run folders, worker processes, sweeps."""
