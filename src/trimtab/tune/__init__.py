"""Settings searched: trials on the tuning prompts, and the winner once on prompts that no trial has seen."""
