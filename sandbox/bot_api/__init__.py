"""A Bot API stand-in: a process of its own that unpatched python-telegram-bot talks to.

The demo and the integration tests start it through `process.BotApi`.  A call goes
app (routes) -> parameters (body to disk) -> knobs (holds, refusals) -> methods -> store, and its
answer through the knobs again (lost answers).
"""
