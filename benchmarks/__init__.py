"""The project's measurements; README.md in this folder says the method."""
