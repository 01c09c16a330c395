"""What runs the work: compilation, conditions on traced values, devices, files, progress, interruptions."""
