"""What every process needs and no product noun: settings, logs, metrics, health, life, slots."""
