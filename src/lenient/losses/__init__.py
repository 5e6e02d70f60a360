"""Terms: functions from one batch to one float32 scalar, and the objective that weighs them."""
