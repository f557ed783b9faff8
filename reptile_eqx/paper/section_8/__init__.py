"""The open questions of Section 8."""
