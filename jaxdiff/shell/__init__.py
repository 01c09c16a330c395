"""The command line: TOML files, demonstrations, benchmarks."""
