"""The leaderboard: measured rows as tables and a chart, for the site, for the app and for whoever asks in Python."""
