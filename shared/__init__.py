"""What two services must agree on: contracts, runtime, storage, messaging, telegram."""
