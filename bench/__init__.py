"""The harness: it crosses defenses with attacks, measures, and reports. It names no attack and no defense."""
