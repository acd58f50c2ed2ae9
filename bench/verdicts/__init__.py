"""What results say when they are held against each other: what became of a measurement, and which engine is first."""
