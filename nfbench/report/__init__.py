"""Run folders to pictures and tables. Reads and writes files; knows no torch, no Hydra and no Lightning."""
