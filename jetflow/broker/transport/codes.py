"""JetStream's error codes, as in ``BrokerError.err_code``."""

NO_LEADER = 10008
"""JetStream cannot answer at the moment."""
CONSUMER_NOT_FOUND = 10014
NO_MESSAGE = 10037
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059
SUBJECTS_OVERLAP = 10065
FILTERS_OVERLAP = 10100
"""Another consumer of a workqueue has one of the subjects."""
CONSUMER_EXISTS = 10148
BATCHES_OFF = 10174
"""The stream does not allow atomic batches."""
DUPLICATE_IN_PROCESS = 10158
"""A replicated stream's leader is storing the first copy of a message id."""
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
