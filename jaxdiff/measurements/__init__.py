"""What was measured, and how a model predicts it."""
