"""Mistakes in modern trainings, and healthy trainings that look odd, by somebody who does not know the tool."""
