"""Terms: functions from one record to one float32 scalar, and the objective that weighs them."""
