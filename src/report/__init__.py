"""Run folders -> tables, pictures, one page. Reads and shows; computes nothing that a run has not stored."""
