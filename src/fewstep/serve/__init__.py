"""The server: one engine for many people, and a live session that follows who types. ``scheduler`` and ``session`` know nothing of the web."""
