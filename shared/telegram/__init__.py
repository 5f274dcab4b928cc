"""Telegram as a store: the only place that knows python-telegram-bot."""
