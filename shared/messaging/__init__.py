"""RabbitMQ: the only AMQP, the only place that acknowledges.

Plain connections, each with a loop of ours around it (`session`): a connection that dies ends its
session, and the next one starts from a declared topology.
"""
