"""Section 8's open questions, a module each."""
