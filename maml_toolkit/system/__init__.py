"""What every program needs and no paper speaks of: errors, files, locks, signals, tables, and the machine."""
