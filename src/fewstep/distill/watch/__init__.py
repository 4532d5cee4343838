"""Who watches a run: looks at fixed prompts, health, film, report, status and trackers. None of it changes what is computed."""
