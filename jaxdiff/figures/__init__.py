"""Pictures of arrays: style, profiles and maps of states; they know no model."""
